// Who consumes a subscription, and what they have not acknowledged yet.
import { html } from './dom.js'
import { api, getJson, query, send } from './api.js'
import { ago, count, duration, plural, seconds } from './format.js'
import { useLook, useNow } from './poll.js'
import { Empty, Failure, Loading } from './widgets.js'

const PENDING_MAX = 200

export function Consumers({ path, onAsk }) {
  const { value, error, again } = useLook(signal => getJson(`${path}/consumers`, { signal }), [path], 1_000)
  const now = useNow()
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} lines=${3} />`
  const rows = value.consumers
  if (rows.length === 0) return html`<${Empty} title="Nobody consumes"><p>A consumer joins by <span class="code">GET …/events?consumer=w1</span> or <span class="code">POST …/fetch</span>.</p><//>`
  const remove = name => onAsk({
    title: `Remove ${name}?`, text: 'Its partitions and messages go to the other consumers. If it is still running, it joins again.', action: 'Remove', danger: true,
    run: async () => { await send('DELETE', path + api`/consumers/${name}`); again() },
  })
  return html`
    <div class="scroll"><table class="table">
      <thead><tr><th>Consumer</th><th>Takes by</th><th>Partitions</th><th class="num">Unacknowledged</th><th class="num wide-only">Joined</th><th class="num">Lease</th><th /></tr></thead>
      <tbody>${rows.map(row => html`
        <tr key=${row.consumer}>
          <td class="name">${row.consumer}</td>
          <td class="muted">${row.connected ? 'event stream' : 'fetch'}</td>
          <td>${row.partitions.join(', ') || html`<span class="muted">none</span>`}</td>
          <td class="num">${count(row.in_flight)}</td>
          <td class="num muted wide-only" title=${row.joined_at}>${ago(row.joined_at, now)}</td>
          <td class="num muted">${duration(seconds(row.expires_in))}</td>
          <td class="row-actions"><button class="quiet" onClick=${() => remove(row.consumer)}>Remove</button></td>
        </tr>`)}
      </tbody>
    </table></div>`
}

/** How long messages have been out, in steps that a reader knows what to do about. */
const AGES = [[1, 'under 1 s'], [10, '1 to 10 s'], [60, '10 s to 1 min'], [600, '1 to 10 min'], [Infinity, 'over 10 min']]

const idleOf = row => seconds(row.idle)

export function Pending({ path }) {
  const { value, error, again } = useLook(signal => getJson(query(`${path}/pending`, { limit: PENDING_MAX }), { signal }), [path], 1_000)
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} lines=${3} />`
  const rows = value.pending
  if (rows.length === 0) return html`<${Empty} title="Everything that was delivered is acknowledged" />`
  const groups = AGES.map(([, text], at) => [text, rows.filter(row => idleOf(row) < AGES[at][0] && (at === 0 || idleOf(row) >= AGES[at - 1][0])).length])
  const most = Math.max(...groups.map(([, number]) => number))
  return html`
    <ol class="bars ages" aria-label="How long ago they were delivered">
      ${groups.map(([text, number]) => html`<li key=${text}><div><span>${text}</span><span class="num">${count(number)}</span><i class="bar" style=${`width:${(100 * number) / most}%`} /></div></li>`)}
    </ol>
    <div class="scroll"><table class="table">
      <thead><tr><th class="num">Partition</th><th class="num">Position</th><th>Consumer</th><th class="num">Out for</th><th class="num">Deliveries</th><th class="wide-only">Last error</th></tr></thead>
      <tbody>${rows.map(row => html`
        <tr key=${`${row.partition} ${row.position}`}>
          <td class="num">${row.partition}</td><td class="num">${count(row.position)}</td>
          <td>${row.consumer ?? html`<span class="muted">waits</span>`}</td>
          <td class="num">${duration(idleOf(row))}</td>
          <td class="num">${row.delivery_count > 1 ? html`<b class="tone-warn">${count(row.delivery_count)}</b>` : count(row.delivery_count)}</td>
          <td class="wide-only reason" title=${row.last_error}>${row.last_error ?? ''}</td>
        </tr>`)}
      </tbody>
    </table></div>
    ${value.next && html`<p class="hint">The first ${plural(PENDING_MAX, 'message')} are shown.</p>`}`
}
