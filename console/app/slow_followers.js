// The event streams of this instance that are behind, and what they wait for.
import { html } from './dom.js'
import { getJson, query } from './api.js'
import { ago, clock, count, duration, plural } from './format.js'
import { useLook, useNow } from './poll.js'
import { to } from './router.js'
import { Table } from './table.js'
import { Badge, CopyCurl, Failure, Loading } from './widgets.js'

const SHOWN_MAX = 20
const LOOK_MS = 2_000
/** From when on one that is behind needs somebody: before, it may just read what was there. */
const LONG = '60s'

const REASONS = { client: 'its client takes nothing', database: 'it reads what is stored' }

const since = (time, now) => duration(Math.max(Math.floor((now - Date.parse(time)) / 1000), 1))

/** The line on the list of what needs attention, if there is one. */
export async function behindForLong(signal) {
  const { behind, event_streams: [first] } = await getJson(query('/v1/reports/event-streams', { behind_for: LONG, limit: 1 }), { signal })
  return first ? ofBehind(behind, first) : []
}

/** `first` is the furthest of those that have been behind for long. */
export function ofBehind(behind, first, now = Date.now()) {
  const what = behind === 1 ? `An event stream has been behind for ${since(first.behind_since, now)}` : `${plural(behind, 'event stream')} have been behind for more than a minute`
  const lag = first.lag === null ? '' : ` by ${plural(first.lag, 'position')}`
  return [{ id: 'slow followers', what, why: `${first.path.split('?')[0]}${lag}, because ${REASONS[first.waits_for]}`, link: to('health') }]
}

export function SlowFollowers() {
  const { value, error, again } = useLook(signal => getJson(query('/v1/reports/event-streams', { limit: SHOWN_MAX }), { signal }), [], LOOK_MS)
  const now = useNow()
  return html`
    <section class="panel" aria-label="Slow followers">
      <header><h2>Slow followers</h2><span>${value && html`<${Badge} tone=${value.behind > 0 ? 'warn' : 'good'}>${value.behind > 0 ? `${count(value.behind)} of ${count(value.open)} behind` : 'None is behind'}<//>`} <${CopyCurl} request=${{ path: '/v1/reports/event-streams' }} /></span></header>
      <${Failure} error=${error} again=${again} />
      ${!value ? !error && html`<${Loading} lines=${2} />` : value.behind === 0
        ? html`<p class="hint">${value.open === 1 ? '1 event stream is' : `${count(value.open)} event streams are`} open on this instance.</p>`
        : html`
          <${Table} label="Slow followers" rows=${value.event_streams} keyOf=${row => `${row.opened_at} ${row.path} ${row.remote_address}`} columns=${[
            { label: 'Event stream', kind: 'name', cell: row => html`<span class="code" title=${row.path}>${row.path}</span>` },
            { label: 'Behind for', kind: 'num', cell: row => html`<b>${since(row.behind_since, now)}</b>` },
            { label: 'Positions behind', kind: 'num', cell: row => (row.lag === null ? '–' : count(row.lag)) },
            { label: 'Because', cell: row => REASONS[row.waits_for] },
            { label: 'Credential', tone: 'code', cell: row => row.credential ?? '–' },
            { label: 'From', tone: 'code', cell: row => row.remote_address ?? '–' },
            { label: 'Open since', kind: 'num', tone: 'muted', cell: row => html`<time datetime=${row.opened_at} title=${clock(row.opened_at)}>${ago(row.opened_at, now)}</time>` },
          ]} />
          ${value.behind > value.event_streams.length && html`<p class="hint">The ${count(value.event_streams.length)} that are furthest behind are shown.</p>`}`}
    </section>`
}
