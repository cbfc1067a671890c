// The keys of a keyed aggregated stream, a page at a time, and the messages of one.
import { html, useMemo } from './dom.js'
import { api, getJson, query } from './api.js'
import { count, plural } from './format.js'
import { LogView } from './log_view.js'
import { partitionLog, useNewest } from './partition_log.js'
import { useLook } from './poll.js'
import { amend, to, useRoute } from './router.js'
import { Table } from './table.js'
import { Empty, Failure, Heading, Loading, Search } from './widgets.js'

/** Keys on a page: there may be millions. */
const KEYS_AT_ONCE = 100

const baseOf = name => api`/v1/aggregated-streams/${name}`
const keyText = key => (key === '' ? html`<span class="muted">the empty text</span>` : key)

export function Keys({ name }) {
  const { query: parameters } = useRoute()
  const prefix = parameters.get('prefix') ?? ''
  const from = parameters.get('from') ?? undefined
  const { value, error, again } = useLook(
    signal => getJson(query(`${baseOf(name)}/keys`, { prefix, from, limit: KEYS_AT_ONCE }), { signal }), [name, prefix, from], 1_000)
  const link = from => to('aggregated', name, { prefix: prefix || undefined, from })
  return html`
    <div class="toolbar">
      <${Search} label="Search keys" placeholder="Key begins with" value=${prefix} onChange=${text => amend({ prefix: text || undefined, from: undefined })} />
      ${prefix && html`<a class="button" href=${to('aggregated', name, 'keys', prefix)}>Open “${prefix}”</a>`}
    </div>
    <${Failure} error=${error} again=${again} />
    ${!value ? !error && html`<${Loading} lines=${12} />`
      : value.keys.length === 0
        ? html`<${Empty} title=${prefix ? 'No key begins with this' : from ? 'No more keys' : 'No key yet'}>${!prefix && !from && html`<p>A key appears with its first message.</p>`}<//>`
        : html`
          <${Table} label="Keys" rows=${value.keys} keyOf=${row => row.key} columns=${[
            { label: 'Key', kind: 'name', cell: row => html`<a href=${to('aggregated', name, 'keys', row.key)}>${keyText(row.key)}</a>` },
            { label: 'Messages', kind: 'num', cell: row => count(row.message_count) },
            { label: 'Last global position', kind: 'num', cell: row => html`<a href=${to('log', { at: row.last_global_position })}>${count(row.last_global_position)}</a>` },
            { label: 'Partition', kind: 'num', tone: 'muted', cell: row => count(row.partition) },
          ]} />`}
    ${value && (from || value.next !== null) && html`
      <nav class="more" aria-label="Pages of keys">
        ${from && html`<a class="button" href=${link()}>First keys</a>`}
        ${value.next !== null && html`<a class="button" href=${link(value.next)}>Next keys</a>`}
        <span class="muted">${plural(value.keys.length, 'key')} shown</span>
      </nav>`}`
}

/** A key as it is listed, or null. */
async function listed(base, key, signal) {
  const { keys: [first] } = await getJson(query(`${base}/keys`, { prefix: key, from: key, limit: 1 }), { signal })
  return first?.key === key ? first : null
}

/** The log of a key; by its partition's number, because not every key can be in a path. */
const keyLog = (name, key) => partitionLog(baseOf(name), {
  id: `key ${name} ${key}`, follows: `key=${encodeURIComponent(key)}`, find: signal => listed(baseOf(name), key, signal),
})

export function Key({ name, text }) {
  const log = useMemo(() => keyLog(name, text), [name, text])
  const look = useLook(signal => listed(baseOf(name), text, signal), [name, text], 1_000)
  const [value, onNewest] = useNewest(look.value)
  return html`
    <${Heading} trail=${[['Aggregated', to('aggregated')], [name, to('aggregated', name)]]} title=${text === '' ? 'the empty text' : text} path=${`${baseOf(name)}/keys/${encodeURIComponent(text)}/messages`}>
      ${value && html`<span class="muted">${plural(value.message_count, 'message')} · partition ${count(value.partition)}</span>`}
    <//>
    <${LogView} key=${`${name} ${text}`} log=${log} withStream=${true} onNewest=${onNewest}>
      <${Empty} title="No message has this key yet"><p>It is shown as soon as one comes.</p><//>
    <//>`
}
