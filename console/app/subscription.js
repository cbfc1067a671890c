// One subscription: lag over time, partitions, consumers, what is unacknowledged, what is parked.
import { html, useEffect, useState } from './dom.js'
import { api, getJson, query, send } from './api.js'
import { State } from './aggregated.js'
import { Chart, Spark } from './chart.js'
import { Confirm } from './dialog.js'
import { count, duration, seconds, short } from './format.js'
import { Parked } from './parked.js'
import { Consumers, Pending } from './consumers.js'
import { useLook } from './poll.js'
import { to, useRoute } from './router.js'
import { reasonOf } from './subscription_status.js'
import { sourceText } from './subscriptions.js'
import { Badge, Failure, Heading, Loading, Stat, Tabs } from './widgets.js'

/** Lags that are kept, one a second: ten minutes. */
const SAMPLES_MAX = 600
/** Parked messages that are counted here; beyond, there are more. */
const PARKED_SEEN = 100
const TABS = [['partitions', 'Partitions'], ['consumers', 'Consumers'], ['pending', 'Unacknowledged'], ['parked', 'Parked']]

/** Series of the subscriptions that were looked at last: a view that is left and opened again goes on. */
const seen = new Map()
const SEEN_MAX = 8
/** Without a look for this long, the line breaks. */
const GAP_SECONDS = 5

const nothing = { time: [], lag: [], delivered: [], partitions: {} }

/** The lags of all partitions over time, as far as this page has seen them. */
function useLags(name, value) {
  const [series, setSeries] = useState(seen.get(name) ?? nothing)
  useEffect(() => {
    if (!value) return
    const { committed_lag, delivered_lag, partitions } = value.status
    const now = Date.now() / 1000
    setSeries(series => {
      const hasGap = now - (series.time.at(-1) ?? now) > GAP_SECONDS
      const add = (values, next) => [...values, ...(hasGap ? [null] : []), next].slice(-SAMPLES_MAX)
      const next = {
        time: [...series.time, ...(hasGap ? [now - 0.001] : []), now].slice(-SAMPLES_MAX),
        lag: add(series.lag, committed_lag),
        delivered: add(series.delivered, delivered_lag),
        partitions: Object.fromEntries(partitions.map(one => [one.partition, add(series.partitions[one.partition] ?? [], one.committed_lag)])),
      }
      seen.delete(name)
      seen.set(name, next)
      if (seen.size > SEEN_MAX) seen.delete(seen.keys().next().value)
      return next
    })
  }, [value])
  return series
}

export function Subscription({ name }) {
  const path = api`/v1/subscriptions/${name}`
  const { value, error, again } = useLook(signal => getJson(path, { signal }), [name], 1_000)
  const [ask, setAsk] = useState(null)
  const series = useLags(name, value)
  const tab = useRoute().query.get('tab') ?? 'partitions'
  const status = value?.status
  const parked = useLook(signal => getJson(query(`${path}/parked`, { limit: PARKED_SEEN }), { signal }), [name], 5_000).value?.parked.length
  const parkedText = parked === PARKED_SEEN ? `${PARKED_SEEN}+` : count(parked)
  const isPaused = status?.state === 'paused' || status?.state === 'stopped'
  const act = (method, suffix, body) => async () => { await send(method, path + suffix, body); again() }
  return html`
    <${Heading} trail=${[['Subscriptions', to('subscriptions')]]} title=${name}>
      ${status && html`
        <button onClick=${() => setAsk(isPaused
          ? { title: `Resume ${name}?`, text: 'Messages are delivered again.', action: 'Resume', run: act('POST', '/resume') }
          : { title: `Pause ${name}?`, text: 'No message is delivered until it is resumed. What is being processed may still be acknowledged.', action: 'Pause', run: act('POST', '/pause') })}>
          ${isPaused ? 'Resume' : 'Pause'}</button>`}
    <//>
    <${Failure} error=${error} again=${again} />
    ${!value ? !error && html`<${Loading} />` : html`
      <dl class="stats">
        <div class="stat"><dt>State</dt><dd><${State} state=${status.state} /></dd></div>
        <${Stat} label="Not acknowledged" value=${count(status.committed_lag)} title="Messages after what is acknowledged" />
        <${Stat} label="Not delivered" value=${count(status.delivered_lag)} />
        <${Stat} label="Oldest unacknowledged" value=${duration(seconds(status.oldest_unacked_age))} />
        <${Stat} label="Consumers" value=${count(status.consumers.length)} tone=${status.consumers.length === 0 && status.committed_lag > 0 ? 'warn' : ''} />
        <${Stat} label="Parked" value=${parkedText} tone=${parked ? 'warn' : ''} />
        ${status.trimmed > 0 && html`<${Stat} label="Trimmed" value=${count(status.trimmed)} tone="warn" title="Messages that were trimmed although they had not been acknowledged" />`}
      </dl>
      ${reasonOf(status) && html`<div class="failure" role="alert"><p>${reasonOf(status)}</p></div>`}
      <p class="definition"><span class="muted">From</span> ${sourceText(value.definition.source)}
        ${value.definition.types?.length ? html` <span class="muted">of types</span> ${value.definition.types.join(', ')}` : ''}
        ${value.definition.filter ? html` <span class="muted">where</span> <span class="code">${value.definition.filter}</span>` : ''}
        <span class="muted">, ${value.definition.mode}, up to ${count(value.definition.max_in_flight)} in flight for each consumer, ${count(value.definition.max_deliveries)} ${value.definition.max_deliveries === 1 ? 'delivery' : 'deliveries'}, then ${value.definition.on_exhausted}</span></p>
      <div class="charts single"><${Chart} title="Lag" floor=${10} times=${series.time} format=${short} series=${[
        { label: 'not acknowledged', values: series.lag, ink: 'accent', fill: true },
        { label: 'not delivered', values: series.delivered, ink: 'muted', dash: [4, 3] },
      ]} /></div>
      <${Tabs} label="Parts of the subscription" current=${tab} tabs=${TABS.map(([id, text]) => [
        id,
        id === 'parked' && parked ? html`${text} <span class="count">${parkedText}</span>` : text,
        to('subscriptions', name, { tab: id === 'partitions' ? undefined : id }),
      ])} />
      ${tab === 'consumers' ? html`<${Consumers} path=${path} onAsk=${setAsk} />`
        : tab === 'pending' ? html`<${Pending} path=${path} />`
          : tab === 'parked' ? html`<${Parked} path=${path} onAsk=${setAsk} />`
            : html`<${Partitions} status=${status} series=${series} />`}`}
    <${Confirm} ask=${ask} onClose=${() => setAsk(null)} />`
}

function Partitions({ status, series }) {
  const most = Math.max(...Object.values(series.partitions).flat().filter(lag => lag !== null), 1)
  return html`
    <div class="scroll"><table class="table">
      <thead><tr><th class="num">Partition</th><th>Lag over time</th><th class="num">Lag</th><th class="num wide-only">In flight</th><th class="num wide-only">Delivered up to</th><th class="num">Acknowledged up to</th><th class="num">Oldest unacked</th><th>Consumer</th></tr></thead>
      <tbody>${status.partitions.map(one => html`
        <tr key=${one.partition}>
          <td class="num">${one.partition}</td>
          <td class="spark-cell"><${Spark} values=${series.partitions[one.partition] ?? []} max=${most} width=${120} label=${`Lag of partition ${one.partition}`} /></td>
          <td class="num"><b>${count(one.committed_lag)}</b></td>
          <td class="num wide-only">${count(one.in_flight)}</td>
          <td class="num wide-only muted">${position(one.delivered_position)}</td>
          <td class="num muted">${position(one.committed_position)}</td>
          <td class="num">${duration(seconds(one.oldest_unacked_age))}</td>
          <td>${one.consumers.length > 0 ? one.consumers.join(', ') : html`<span class=${one.committed_lag > 0 && status.state === 'running' ? 'tone-warn' : 'muted'}>nobody</span>`}
            ${one.held_back && html` <${Badge} tone="warn">in retry<//>`}</td>
        </tr>`)}
      </tbody>
    </table></div>`
}

/** One less than the first position: nothing yet. */
const position = value => (value < 0 ? '–' : count(value))
