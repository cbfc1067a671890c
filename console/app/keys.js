// The keys of a keyed aggregated stream, a page at a time, and the messages of one.
import { html, useMemo } from './dom.js'
import { api, getJson, getText, Problem, query } from './api.js'
import { count, plural } from './format.js'
import { deliveryOf, pageOf } from './json_text.js'
import { LogView } from './log_view.js'
import { PAGE } from './logs.js'
import { useLook } from './poll.js'
import { amend, to, useRoute } from './router.js'
import { Empty, Failure, Heading, Loading, Search } from './widgets.js'

/** Keys on a page: there may be millions. */
const KEYS_AT_ONCE = 100
/** Pages that reading a key's end may take: what is known of it may be a second old. */
const PAGES_MAX = 3

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
          <table class="table">
            <thead><tr><th>Key</th><th class="num">Messages</th><th class="num">Last global position</th><th class="num wide-only">Partition</th></tr></thead>
            <tbody>${value.keys.map(row => html`
              <tr key=${row.key}>
                <td class="name"><a href=${to('aggregated', name, 'keys', row.key)}>${keyText(row.key)}</a></td>
                <td class="num">${count(row.message_count)}</td>
                <td class="num"><a href=${to('log', { at: row.last_global_position })}>${count(row.last_global_position)}</a></td>
                <td class="num muted wide-only">${count(row.partition)}</td>
              </tr>`)}
            </tbody>
          </table>`}
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

const rowOf = ({ position, message }) => ({ ...message, key_position: position })

/** The log of a key, by position in its partition; see logs.js. By the partition's number: not every key can be in a path. */
function keyLog(name, key) {
  const base = baseOf(name)
  return {
    id: `key ${name} ${key}`,
    position: 'key_position',
    events: `${base}/events?key=${encodeURIComponent(key)}`,
    itemOf: text => rowOf(deliveryOf(text)),
    hasFilter: false,
    async before(position, _, signal) {
      const { status } = await getJson(base, { signal })
      const cursor = String(status.projected_position)
      const found = await listed(base, key, signal)
      if (!found) return { rows: [], before: null, cursor, end: -1 }
      const end = position ?? Infinity
      const start = Math.max((position ?? found.message_count) - PAGE, 0)
      const { rows, first } = await readFrom(`${base}/partitions/${found.partition}/messages`, start, end, signal)
      return { rows: rows.slice(-PAGE).reverse(), before: first > 0 && first === start ? first : null, cursor, end: found.message_count - 1 }
    },
  }
}

/** Messages of a partition from a position to one before another, oldest first; `first`: where reading could begin. */
async function readFrom(path, start, end, signal) {
  let rows = [], from = start, first = start
  for (let pages = 0; pages < PAGES_MAX && from < end; pages++) {
    try {
      const page = pageOf(await getText(query(path, { from, limit: Math.min(end - from, PAGE) }), { signal }), 'messages', deliveryOf)
      rows = rows.concat(page.messages.map(rowOf).filter(row => row.key_position < end))
      if (page.at_end) break
      from = page.next
    } catch (error) {
      if (!(error instanceof Problem) || error.slug !== 'position-trimmed') throw error
      from = first = error.document.first_position
    }
  }
  return { rows, first }
}

export function Key({ name, text }) {
  const log = useMemo(() => keyLog(name, text), [name, text])
  const { value } = useLook(signal => listed(baseOf(name), text, signal), [name, text], 1_000)
  return html`
    <${Heading} trail=${[['Aggregated', to('aggregated')], [name, to('aggregated', name)]]} title=${text === '' ? 'the empty text' : text}>
      ${value && html`<span class="muted">${plural(value.message_count, 'message')} · partition ${count(value.partition)}</span>`}
    <//>
    <${LogView} key=${`${name} ${text}`} log=${log} withStream=${true}>
      <${Empty} title="No message has this key yet"><p>It is shown as soon as one comes.</p><//>
    <//>`
}
