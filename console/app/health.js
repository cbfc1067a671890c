// The instance: what it needs, what holds the settled position back, what it has answered.
import { html } from './dom.js'
import { getJson, Problem } from './api.js'
import { Attention, attention } from './attention.js'
import { bytes, clock, count, duration, short } from './format.js'
import { Settings, Storage, Version } from './installation.js'
import { quantiles, reading, valueOf } from './metrics.js'
import { useLook } from './poll.js'
import { SlowFollowers } from './slow_followers.js'
import { useStore } from './store.js'
import { Table } from './table.js'
import { Badge, Empty, Failure, Heading, Loading, Stat } from './widgets.js'

const CHECKS = {
  database: ['Database', 'can be reached'],
  migrations: ['Schemas', 'are in place'],
  listener: ['Listener', 'hears of what other writers append'],
  projector: ['Projector', 'is alive'],
  tail: ['Tail', 'reads the end of the log'],
}

/** Ready, or the checks that say why not. */
async function readiness(signal) {
  try {
    return { isReady: true, checks: await getJson('/readyz', { signal }) }
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    return { isReady: false, checks: error.document.checks ?? {}, text: error.message }
  }
}

export function Health() {
  return html`
    <${Heading} title="Health" path="/readyz"><a class="button" href="/metrics">Metrics</a><a class="button" href="/docs/">API</a><//>
    <${Attention} />
    <div class="columns even">
      <${Checks} />
      <${Settled} />
    </div>
    <${SlowFollowers} />
    <${Instance} />
    <${Storage} />
    <${Settings} />
    <${Version} />
    <${Requests} />`
}

function Checks() {
  const { value, error } = useLook(readiness, [], 2_000)
  // Ready is not well: what needs attention takes the green away.
  const isCalm = useStore(attention)?.length === 0
  return html`
    <section class="panel">
      <header><h2>Instance</h2>${value && html`<${Badge} tone=${!value.isReady ? 'bad' : isCalm ? 'good' : 'warn'}>${value.isReady ? 'Ready' : 'Not ready'}<//>`}</header>
      <${Failure} error=${error} />
      ${value?.text && html`<p class="hint">${value.text}</p>`}
      ${!value ? !error && html`<${Loading} lines=${3} />` : html`
        <ul class="checks">
          ${Object.entries(value.checks).filter(([, state]) => typeof state === 'boolean').map(([name, isGood]) => html`
            <li key=${name} class=${isGood ? 'is-good' : 'is-bad'}><i class="dot" />
              <b>${CHECKS[name]?.[0] ?? name}</b> <span class="muted">${isGood ? CHECKS[name]?.[1] ?? '' : 'failed'}</span></li>`)}
        </ul>
        ${value.checks.history_changed && html`<p class="hint">
          The log has been another one since ${clock(value.checks.history_changed.since)} (${value.checks.history_changed.reason.replace('_', ' ')}): it was settled up to ${count(value.checks.history_changed.settled)}, and ended at ${count(value.checks.history_changed.head)}.</p>`}`}
    </section>`
}

/** What ends a transaction that is open. */
const endOf = ({ pid, prepared_as: name } = {}) => (name ? `ROLLBACK PREPARED '${name.replaceAll("'", "''")}'` : `SELECT pg_terminate_backend(${pid ?? 'pid'})`)

function Settled() {
  const { value, error } = useLook(signal => getJson('/v1/reports/settled', { signal }), [], 1_000)
  const held = value?.held_back
  const isLong = held && held.seconds >= 1
  return html`
    <section class="panel">
      <header><h2>Settled position</h2>${value && html`<${Badge} tone=${isLong ? 'warn' : 'good'}>${isLong ? `Held back for ${duration(held.seconds)}` : 'Nothing holds it back'}<//>`}</header>
      <${Failure} error=${error} />
      ${!value ? !error && html`<${Loading} lines=${3} />` : html`
        <dl class="stats small">
          <${Stat} label="Settled up to" value=${count(value.settled)} />
          <${Stat} label="Last position" value=${count(value.head)} />
          <${Stat} label="Not settled" value=${count(value.lag)} tone=${isLong ? 'warn' : ''} />
        </dl>
        ${isLong && html`
          <p class="hint">Position ${count(held.position)} may still appear. Later messages are delivered once ${held.holders.length === 1 ? 'this transaction ends' : 'these transactions end'}:</p>
          <${Table} label="What holds it back" rows=${held.holders} keyOf=${holder => holder.pid ?? holder.prepared_as} columns=${[
            { label: 'Session', cell: holder => (holder.pid ? html`<span class="code">${holder.pid}</span>` : html`prepared <span class="code">${holder.prepared_as}</span>`) },
            { label: 'Program', cell: holder => html`${holder.application_name ?? '–'} <span class="muted">${[holder.user_name, holder.client_address].filter(Boolean).join(' @ ')}</span>` },
            { label: 'State', cell: holder => holder.state ?? '–' },
            { label: 'Began', kind: 'num', cell: holder => (holder.transaction_started ? clock(holder.transaction_started) : '–') },
          ]} />
          <p class="hint">To end one: <code>${endOf(held.holders[0])}</code></p>`}`}
    </section>`
}

function Instance() {
  const now = useStore(reading)
  if (!now) return html`<section class="panel"><${Loading} lines=${2} /></section>`
  const value = (name, labels) => valueOf(now, name, labels)
  const hits = value('headwater_follower_reads_total', { from: 'cache' })
  const misses = value('headwater_follower_reads_total', { from: 'database' })
  const troubles = [
    ['Listener lost', 'headwater_listener_lost_total'], ['Database lost', 'headwater_database_lost_total'],
    ['Batches failed', 'headwater_batches_failed_total'], ['Panics', 'headwater_panics_total'],
    ['Followers refused', 'headwater_followers_refused_total'], ['Followers fell behind', 'headwater_followers_fell_behind_total'],
  ].map(([label, name]) => [label, value(name)])
  return html`
    <section class="panel">
      <header><h2>Since it started</h2></header>
      <dl class="stats">
        <${Stat} label="Messages appended" value=${short(value('headwater_messages_appended_total'))} />
        <${Stat} label="Messages to followers" value=${short(value('headwater_messages_delivered_total'))} />
        <${Stat} label="Version conflicts" value=${short(value('headwater_appends_total', { outcome: 'conflict' }))} />
        <${Stat} label="Repeated appends" value=${short(value('headwater_appends_total', { outcome: 'duplicate' }))} />
        <${Stat} label="Cache" value=${bytes(value('headwater_cache_bytes'))} />
        <${Stat} label="Catching up from cache" value=${hits + misses > 0 ? `${Math.round((100 * hits) / (hits + misses))} %` : '–'} />
        ${troubles.map(([label, number]) => html`<${Stat} key=${label} label=${label} value=${count(number)} tone=${number > 0 ? 'warn' : ''} />`)}
      </dl>
    </section>`
}

/** Latency since the start, by method and path. */
function latencies(families, method, path) {
  const counts = new Map()
  for (const { labels, value } of families.get('headwater_http_request_seconds_bucket') ?? []) {
    if (labels.method === method && labels.path === path) counts.set(labels.le === '+Inf' ? Infinity : Number(labels.le), value)
  }
  return quantiles(new Map(), counts, [0.5, 0.99])
}

function Requests() {
  const now = useStore(reading)
  const routes = new Map()
  for (const { labels, value } of now?.get('headwater_http_requests_total') ?? []) {
    const key = `${labels.method} ${labels.path}`
    const route = routes.get(key) ?? { method: labels.method, path: labels.path, all: 0, refused: 0, failed: 0 }
    route.all += value
    if (labels.status >= 500) route.failed += value
    else if (labels.status >= 400) route.refused += value
    routes.set(key, route)
  }
  const rows = [...routes.values()].sort((a, b) => b.all - a.all)
  return html`
    <section class="panel">
      <header><h2>Requests</h2></header>
      ${rows.length === 0 ? html`<${Empty} title="No request yet" />` : html`
        <${Table} label="Requests" rows=${rows.map(row => ({ ...row, times: latencies(now, row.method, row.path) }))} keyOf=${row => row.method + row.path} columns=${[
          { label: 'Route', kind: 'name', cell: row => html`<span class="method">${row.method}</span> <span class="code">${row.path}</span>` },
          { label: 'Answered', kind: 'num', cell: row => count(row.all) },
          { label: 'Refused', kind: 'num', cell: row => (row.refused ? count(row.refused) : '–') },
          { label: 'Failed', kind: 'num', cell: row => (row.failed ? html`<b class="tone-bad">${count(row.failed)}</b>` : '–') },
          { label: 'p50', kind: 'num', cell: row => duration(row.times[0]) },
          { label: 'p99', kind: 'num', cell: row => duration(row.times[1]) },
        ]} />`}
    </section>`
}
