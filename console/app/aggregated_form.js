// Defining an aggregated stream.
import { html, useState } from './dom.js'
import { api } from './api.js'
import { Dialog, PreviewBox, usePreview } from './dialog.js'
import { Choice, given, listOf, Text, wholeOf } from './fields.js'
import { Newest, newestMatch } from './newest_match.js'

const KINDS = [
  ['stream', 'Stream: each in one partition'], ['cardinal_id', 'Cardinal id'], ['category', 'Category'], ['type', 'Type'],
  ['data', 'A value in the data'], ['metadata', 'A value in the metadata'], ['cel', 'A CEL expression'], ['constant', 'Nothing: one partition'],
  ['key-data', 'Keys: every value in the data'], ['key-metadata', 'Keys: every value in the metadata'], ['key-cardinal_id', 'Keys: every cardinal id'], ['key-type', 'Keys: every type'],
]
const METHODS = [['hash', 'The hash of a text'], ['modulo', 'The remainder of a whole number']]
const ERRORS = [['stop', 'Stop there'], ['skip', 'Leave it out'], ['partition', 'Put it into a partition of its own']]

const hasPointer = kind => ['data', 'metadata', 'key-data', 'key-metadata'].includes(kind)
const hasPartitions = kind => ['stream', 'cardinal_id', 'category', 'type', 'data', 'metadata'].includes(kind)

function partitionerOf({ kind, pointer, method, expression, partitions }) {
  const number = wholeOf(partitions) ?? 4
  if (kind.startsWith('key-')) return given({ kind: 'key', of: kind.slice(4), pointer: hasPointer(kind) ? pointer : null })
  if (kind === 'constant') return { kind }
  if (kind === 'cel') return { kind, expression }
  return hasPointer(kind) ? { kind, pointer, method, partitions: number } : { kind, partitions: number }
}

/** The fields of a definition; of none, an empty form. */
function fieldsOf(definition) {
  const { partitioner = {}, on_error: error = 'stop' } = definition ?? {}
  return {
    categories: definition?.categories.join(', ') ?? '', wildcards: definition?.stream_wildcards.join(', ') ?? '', types: definition?.types.join(', ') ?? '', filter: definition?.filter ?? '',
    kind: partitioner.kind === 'key' ? `key-${partitioner.of}` : partitioner.kind ?? 'stream', pointer: partitioner.pointer ?? '/', method: partitioner.method ?? 'hash',
    expression: partitioner.expression ?? '', partitions: String(partitioner.partitions ?? 4),
    onError: typeof error === 'string' ? error : 'partition', fallback: String(error.partition ?? ''),
  }
}

/** `like` is a definition to begin with; `onDone` gets the name. */
export function NewAggregated({ like, onDone, onClose }) {
  const [name, setName] = useState('')
  const [fields, setFields] = useState(fieldsOf(like))
  const set = field => value => setFields(fields => ({ ...fields, [field]: value }))
  const categories = listOf(fields.categories)
  const wildcards = listOf(fields.wildcards)
  const sources = wildcards.length > 0 ? [] : categories.length > 0 ? categories.map(category => ({ category })) : [{ all: true }]
  const look = usePreview(signal => newestMatch(sources, { types: listOf(fields.types), filter: fields.filter.trim() }, signal), [fields.categories, fields.wildcards, fields.types, fields.filter])
  const body = given({
    categories, stream_wildcards: wildcards, types: listOf(fields.types), filter: fields.filter.trim(), partitioner: partitionerOf(fields),
    on_error: fields.kind.startsWith('key-') || fields.onError === 'stop' ? null : fields.onError === 'partition' ? { partition: wholeOf(fields.fallback) } : fields.onError,
  })
  return html`
    <${Dialog} title=${like ? 'Define another aggregated stream' : 'New aggregated stream'} action="Define" isReady=${Boolean(name.trim() && look.preview)}
      request=${{ method: 'PUT', path: api`/v1/aggregated-streams/${name.trim()}`, body }} onDone=${() => { onDone(name.trim()); onClose() }} onClose=${onClose}>
      <${Text} label="Name" value=${name} onChange=${setName} placeholder="orders" />
      <${Text} label="Categories" value=${fields.categories} onChange=${set('categories')} placeholder="all; or order, customer" isCode=${true} />
      <${Text} label="Streams like" value=${fields.wildcards} onChange=${set('wildcards')} placeholder="order-%" isCode=${true} />
      <${Text} label="Types" value=${fields.types} onChange=${set('types')} placeholder="all; or OrderPlaced, OrderShipped" isCode=${true} />
      <${Text} label="Filter (CEL)" value=${fields.filter} onChange=${set('filter')} placeholder="data.quantity > 10" isCode=${true} />
      <${Choice} label="Divided by" value=${fields.kind} options=${KINDS} onChange=${set('kind')} />
      ${hasPointer(fields.kind) && html`<${Text} label="Where it is" value=${fields.pointer} onChange=${set('pointer')} placeholder="/customer" isCode=${true} />`}
      ${['data', 'metadata'].includes(fields.kind) && html`<${Choice} label="Taken as" value=${fields.method} options=${METHODS} onChange=${set('method')} />`}
      ${fields.kind === 'cel' && html`<${Text} label="Expression" value=${fields.expression} onChange=${set('expression')} placeholder="data.quantity % 4" isCode=${true} />`}
      ${hasPartitions(fields.kind) && html`<${Text} label="Partitions" value=${fields.partitions} onChange=${set('partitions')} isNumber=${true} />`}
      ${!fields.kind.startsWith('key-') && html`<${Choice} label="Without a place" value=${fields.onError} options=${ERRORS} onChange=${set('onError')} />`}
      ${fields.onError === 'partition' && !fields.kind.startsWith('key-') && html`<${Text} label="That partition" value=${fields.fallback} onChange=${set('fallback')} placeholder="4" isNumber=${true} />`}
      <${PreviewBox} look=${look} waits="Looking">${preview => html`<${Newest} preview=${preview} /><p class="hint">All messages that exist are put into it, then those that come. A definition never changes.</p>`}<//>
    <//>`
}
