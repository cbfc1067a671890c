// Who consumes a subscription, and what is pending.
import { html, useMemo } from './dom.js'
import { api, getJson, query } from './api.js'
import { ago, count, duration, plural, seconds, short } from './format.js'
import { useLook, useNow } from './poll.js'
import { useRates } from './rates.js'
import { Table } from './table.js'
import { Command, curl, Empty, Failure, Loading } from './widgets.js'

const PENDING_MAX = 200

export function Consumers({ path, mode, onAsk }) {
  const { value, error, again } = useLook(signal => getJson(`${path}/consumers`, { signal }), [path], 1_000)
  const now = useNow()
  // Who has joined anew is counted anew.
  const rates = useRates(useMemo(() => value && new Map(value.consumers.map(row => [`${row.consumer} ${row.joined_at}`, row.acked])), [value]))
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} lines=${3} />`
  const rows = value.consumers
  if (rows.length === 0) return html`
    <${Empty} title="Nobody consumes">
      <p>A consumer joins by what it asks for: by fetching, or by following <span class="code">…/events?consumer=w1</span>.</p>
      <${Command} lines=${curl({ method: 'POST', path: `${path}/fetch`, body: { consumer: 'w1', wait: '10s' } })} />
    <//>`
  const remove = name => onAsk({
    title: `Remove ${name}?`, text: 'Its partitions and messages go to the other consumers. If it is still running, it joins again.', action: 'Remove', danger: true,
    request: { method: 'DELETE', path: path + api`/consumers/${name}` }, done: again,
  })
  return html`
    <${Table} label="Consumers" rows=${rows} keyOf=${row => row.consumer} columns=${[
      { label: 'Consumer', kind: 'name', cell: row => row.consumer },
      { label: 'Takes by', tone: 'muted', cell: row => (row.connected ? 'event stream' : 'fetch') },
      // Consumers of a competing subscription share all there is.
      mode === 'partitioned' && { label: 'Partitions', cell: row => row.partitions.join(', ') || html`<span class="muted">none</span>` },
      { label: 'Pending', kind: 'num', cell: row => count(row.in_flight) },
      { label: 'Acked', kind: 'num changing', cell: row => html`<span title="Messages acked in a second, of those that this instance was told of">${rateText(rates.get(`${row.consumer} ${row.joined_at}`))}</span>` },
      { label: 'Joined', kind: 'num changing', tone: 'muted', cell: row => html`<time datetime=${row.joined_at} title=${row.joined_at}>${ago(row.joined_at, now)}</time>` },
      { label: 'Lease', kind: 'num changing', tone: 'muted', cell: row => duration(seconds(row.expires_in)) },
      { label: '', kind: 'actions', cell: row => html`<button class="quiet" onClick=${() => remove(row.consumer)}>Remove…</button>` },
    ]} />`
}

const rateText = rate => (rate === undefined ? '–' : `${short(rate)}/s`)

/** How long messages have been out, in steps that a reader knows what to do about. */
const AGES = [[1, 'under 1 s'], [10, '1 to 10 s'], [60, '10 s to 1 min'], [600, '1 to 10 min'], [Infinity, 'over 10 min']]

const idleOf = row => seconds(row.idle)

export function Pending({ path }) {
  const { value, error, again } = useLook(signal => getJson(query(`${path}/pending`, { limit: PENDING_MAX }), { signal }), [path], 1_000)
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} lines=${3} />`
  const rows = value.pending
  if (rows.length === 0) return html`<${Empty} title="Nothing is pending"><p>A message is pending from its delivery until it is acked.</p><//>`
  const groups = AGES.map(([, text], at) => [text, rows.filter(row => idleOf(row) < AGES[at][0] && (at === 0 || idleOf(row) >= AGES[at - 1][0])).length])
  const most = Math.max(...groups.map(([, number]) => number))
  return html`
    <ol class="bars ages" aria-label="How long ago they were delivered">
      ${groups.map(([text, number]) => html`<li key=${text}><div><span>${text}</span><span class="num">${count(number)}</span><i class="bar" style=${`width:${(100 * number) / most}%`} /></div></li>`)}
    </ol>
    <${Table} label="Pending messages" rows=${rows} keyOf=${row => `${row.partition} ${row.position}`} columns=${[
      { label: 'Partition', kind: 'num', cell: row => row.partition },
      { label: 'Position', kind: 'num', cell: row => count(row.position) },
      { label: 'Consumer', cell: row => row.consumer ?? html`<span class="muted">waits</span>` },
      { label: 'Pending for', kind: 'num', cell: row => duration(idleOf(row)) },
      { label: 'Deliveries', kind: 'num', cell: row => (row.delivery_count > 1 ? html`<b class="tone-warn">${count(row.delivery_count)}</b>` : count(row.delivery_count)) },
      { label: 'Last error', tone: 'reason', cell: row => html`<span title=${row.last_error}>${row.last_error ?? ''}</span>` },
    ]} />
    ${value.next && html`<p class="hint">The first ${plural(PENDING_MAX, 'message')} are shown.</p>`}`
}
