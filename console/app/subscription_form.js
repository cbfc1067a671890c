// Creating a subscription, and changing the settings of one.
import { html, useState } from './dom.js'
import { api, getJson } from './api.js'
import { Dialog, PreviewBox, usePreview } from './dialog.js'
import { Choice, given, listOf, Text, wholeOf } from './fields.js'
import { Newest, newestMatch } from './newest_match.js'
import { Place, placeOf } from './seek.js'

const SOURCES = [['category', 'A category'], ['categories', 'Categories'], ['stream_name', 'A stream'], ['aggregated_stream', 'An aggregated stream'], ['all', 'The whole log']]
const MODES = [['partitioned', 'Partitioned: in order within each partition'], ['competing', 'Competing: to whichever consumer is free']]
const EXHAUSTED = [['park', 'Park it'], ['skip', 'Skip it'], ['stop', 'Stop the subscription']]

const sourceOf = (kind, text) => ({ [kind]: kind === 'all' ? true : kind === 'categories' ? listOf(text) : text.trim() })
/** What can be looked at of a source. */
const logsOf = (kind, text) => (kind === 'categories' ? listOf(text).map(category => ({ category })) : [sourceOf(kind, text)])

/** The settings that may be changed later as well; `set` changes one. */
const Settings = ({ values: { ack_timeout, max_in_flight, max_deliveries, backoff, on_exhausted }, set }) => html`
  <${Text} label="Ack timeout" value=${ack_timeout} onChange=${set('ack_timeout')} placeholder="30s" isCode=${true} />
  <${Text} label="Pending at most" value=${max_in_flight} onChange=${set('max_in_flight')} placeholder="100 for each consumer" isNumber=${true} />
  <${Text} label="Deliveries" value=${max_deliveries} onChange=${set('max_deliveries')} placeholder="5" isNumber=${true} />
  <${Text} label="Waits between" value=${backoff} onChange=${set('backoff')} placeholder="1s, 5s, 30s" isCode=${true} />
  <${Choice} label="After the last" value=${on_exhausted} options=${EXHAUSTED} onChange=${set('on_exhausted')} />`

const settingsOf = ({ ack_timeout, max_in_flight, max_deliveries, backoff, on_exhausted }) => given({
  ack_timeout: ack_timeout.trim(), max_in_flight: wholeOf(max_in_flight), max_deliveries: wholeOf(max_deliveries), backoff: listOf(backoff), on_exhausted,
})

const nothing = { ack_timeout: '', max_in_flight: '', max_deliveries: '', backoff: '', on_exhausted: 'park' }

/** `onDone` gets the name. */
export function NewSubscription({ onDone, onClose }) {
  const [name, setName] = useState('')
  const [kind, setKind] = useState('category')
  const [source, setSource] = useState('')
  const [[way, from], setFrom] = useState(['beginning', ''])
  const [mode, setMode] = useState('partitioned')
  const [partitions, setPartitions] = useState('')
  const [types, setTypes] = useState('')
  const [filter, setFilter] = useState('')
  const [values, setValues] = useState(nothing)
  const set = field => value => setValues(values => ({ ...values, [field]: value }))
  const isNamed = kind === 'all' || source.trim() !== ''
  const look = usePreview(isNamed && (signal => newestMatch(logsOf(kind, source), { types: listOf(types), filter: filter.trim() }, signal)), [kind, source, types, filter])
  const isDivided = mode === 'partitioned' && kind !== 'aggregated_stream'
  const body = given({
    source: sourceOf(kind, source), from: placeOf(way, from), mode, partitions: isDivided ? wholeOf(partitions) : null, types: listOf(types), filter: filter.trim(), ...settingsOf(values),
  })
  return html`
    <${Dialog} title="New subscription" action="Create" isReady=${Boolean(name.trim() && isNamed && placeOf(way, from) !== undefined && look.preview)}
      request=${{ method: 'PUT', path: api`/v1/subscriptions/${name.trim()}`, body }} onDone=${() => { onDone(name.trim()); onClose() }} onClose=${onClose}>
      <${Text} label="Name" value=${name} onChange=${setName} placeholder="billing" />
      <${Choice} label="Source" value=${kind} options=${SOURCES} onChange=${setKind} />
      ${kind !== 'all' && html`<${Text} label=${kind === 'categories' ? 'Names' : 'Its name'} value=${source} onChange=${setSource} placeholder=${{ category: 'order', categories: 'order, customer', stream_name: 'order-1', aggregated_stream: 'orders' }[kind]} isCode=${true} />`}
      <${Place} label="Begins at" way=${way} text=${from} onChange=${(...place) => setFrom(place)} />
      <${Choice} label="Mode" value=${mode} options=${MODES} onChange=${setMode} />
      ${isDivided && html`<${Text} label="Partitions" value=${partitions} onChange=${setPartitions} placeholder="16" isNumber=${true} />`}
      <${Text} label="Types" value=${types} onChange=${setTypes} placeholder="all; or OrderPlaced, OrderShipped" isCode=${true} />
      <${Text} label="Filter (CEL)" value=${filter} onChange=${setFilter} placeholder="data.quantity > 10" isCode=${true} />
      <details><summary>Acks and deliveries</summary><${Settings} values=${values} set=${set} /></details>
      <${PreviewBox} look=${look} waits=${isNamed ? 'Looking' : 'What it would get is shown here first.'}>${preview => html`<${Newest} preview=${preview} />`}<//>
    <//>`
}

/** Changes the settings that may be changed; the others are shown to stay. */
export function EditSubscription({ name, path, definition, onDone, onClose }) {
  const first = {
    ack_timeout: definition.ack_timeout, max_in_flight: String(definition.max_in_flight), max_deliveries: String(definition.max_deliveries),
    backoff: definition.backoff.join(', '), on_exhausted: definition.on_exhausted,
  }
  const [values, setValues] = useState(first)
  const set = field => value => setValues(values => ({ ...values, [field]: value }))
  const changed = Object.fromEntries(Object.entries(settingsOf(values)).filter(([field]) => values[field] !== first[field]))
  const look = usePreview(signal => getJson(path, { signal }), [])
  const lines = Object.keys(changed).map(field => [field, first[field], values[field]])
  return html`
    <${Dialog} title=${`Edit ${name}`} action="Change" isReady=${lines.length > 0} request=${{ method: 'PATCH', path, body: changed }} onDone=${() => { onDone(); onClose() }} onClose=${onClose}>
      <${Settings} values=${values} set=${set} />
      <${PreviewBox} look=${look} waits="Looking">${({ status }) => html`
        ${lines.length === 0 ? html`<p class="muted">Nothing is changed yet.</p>` : html`
          <dl class="facts">${lines.map(([field, before, after]) => html`<dt key=${field} class="code">${field}</dt><dd>${before} → <b>${after}</b></dd>`)}</dl>`}
        <p class="hint">It counts from the next delivery on${status.consumers.length === 0 ? '; nobody consumes it now' : `, for ${status.consumers.length === 1 ? 'its one consumer' : `all its ${status.consumers.length} consumers`}`}. Source, mode, partitions, types and filter never change: for others, create another subscription.</p>`}<//>
    <//>`
}
