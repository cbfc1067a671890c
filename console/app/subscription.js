// One subscription: lag over time, partitions, consumers, what is pending, what is parked.
import { html, useEffect, useMemo, useState } from './dom.js'
import { api, getJson, query } from './api.js'
import { State } from './aggregated.js'
import { Chart, Spans, Spark } from './chart.js'
import { ClaimDialog } from './claim.js'
import { Confirm } from './dialog.js'
import { count, duration, plural, seconds, short } from './format.js'
import { Parked } from './parked.js'
import { Consumers, Pending } from './consumers.js'
import { useLook } from './poll.js'
import { go, to, useRoute } from './router.js'
import { useRights } from './session.js'
import { SeekDialog } from './seek.js'
import { EditSubscription } from './subscription_form.js'
import { adviceOf, reasonOf } from './subscription_status.js'
import { CreateCommand, sourceText } from './subscriptions.js'
import { Table } from './table.js'
import { Badge, Empty, Failure, Heading, isNotFound, Loading, Stat, Tabs } from './widgets.js'

/** Lags that are kept, one a second: ten minutes. */
const SAMPLES_MAX = 600
/** Parked messages that are counted here; beyond, there are more. */
const PARKED_SEEN = 100
const TABS = [['partitions', 'Partitions'], ['consumers', 'Consumers'], ['pending', 'Pending'], ['parked', 'Parked']]

/** Series of the subscriptions that were looked at last: a view that is left and opened again goes on. */
const seen = new Map()
const SEEN_MAX = 8
/** How often the lags that the service keeps are read. */
const PAST_MS = 300_000
/** Without a look for this long, the line breaks. */
const GAP_SECONDS = 5

const nothing = { time: [], lag: [], delivered: [], partitions: {} }

/** The lags of all partitions over time, as far as this page has seen them. */
function useLags(name, value) {
  const [series, setSeries] = useState(seen.get(name) ?? nothing)
  const rights = useRights()
  const past = useLook(async signal => (rights.readEverything ? getJson(query('/v1/reports/metrics', { subscription: name }), { signal }) : null), [name, rights], PAST_MS).value
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
  return { ...series, whole: useMemo(() => withPast(series, past), [series, past]) }
}

/** The lags that the service has kept, and then those that this page has seen: { time, lag, delivered }. */
function withPast(series, past) {
  const of = name => past?.series.find(one => one.name === name)?.values
  const [lag, delivered] = [of('headwater_subscription_committed_lag'), of('headwater_subscription_delivered_lag')]
  if (!lag) return series
  const times = past.times.map(time => Date.parse(time) / 1000)
  const until = times.findIndex(time => time >= (series.time[0] ?? Infinity))
  const join = (old, now) => [...(until < 0 ? old : old.slice(0, until)), ...now]
  return { time: join(times, series.time), lag: join(lag, series.lag), delivered: join(delivered, series.delivered) }
}

export function Subscription({ name }) {
  const path = api`/v1/subscriptions/${name}`
  const { value, error, again } = useLook(signal => getJson(path, { signal }), [name], 1_000)
  const rights = useRights()
  const [ask, setAsk] = useState(null)
  const [dialog, setDialog] = useState(null)
  const close = () => setDialog(null)
  const series = useLags(name, value)
  const tab = useRoute().query.get('tab') ?? 'partitions'
  const status = value?.status
  const parked = useLook(signal => getJson(query(`${path}/parked`, { limit: PARKED_SEEN }), { signal }), [name], 5_000).value?.parked.length
  const parkedText = parked === PARKED_SEEN ? `${PARKED_SEEN}+` : count(parked)
  const isPaused = status?.state === 'paused' || status?.state === 'stopped'
  const act = action => ({ request: { method: 'POST', path: `${path}/${action}` }, done: again })
  return html`
    <${Heading} trail=${[['Subscriptions', to('subscriptions')]]} title=${name} path=${path}>
      ${status && html`
        <button onClick=${() => setAsk(isPaused
          ? { title: `Resume ${name}?`, text: 'Messages are delivered again.', action: 'Resume', ...act('resume') }
          : { title: `Pause ${name}?`, text: 'No message is delivered until it is resumed. What is being processed may still be acked.', action: 'Pause', ...act('pause') })}>
          ${isPaused ? 'Resume…' : 'Pause…'}</button>
        <button onClick=${() => setDialog('edit')}>Edit…</button>
        <button onClick=${() => setDialog('seek')}>Seek…</button>
        ${value.definition.mode === 'competing' && html`<button onClick=${() => setDialog('claim')}>Claim…</button>`}
        <button onClick=${() => setAsk({
          title: `Delete ${name}?`, action: 'Delete', danger: true, request: { method: 'DELETE', path }, done: () => go('subscriptions'),
          text: `Its cursors go, and with them what it knows of ${plural(status.committed_lag, 'unacked message')}${parked ? `, ${parkedText} parked` : ''}; ${plural(status.consumers.length, 'consumer')} ${status.consumers.length === 1 ? 'is' : 'are'} cut off. The messages themselves stay in their streams. Shown from its status of a second ago.`,
        })}>Delete…</button>`}
    <//>
    <${Failure} error=${error} again=${again} />
    ${!value && isNotFound(error) && rights.subscribe(name) && html`
      <${Empty} title="It can be created">
        <p>Such as this one, of all orders. <a href=${to('subscriptions')}>The list</a> has those that exist.</p>
        <${CreateCommand} name=${name} />
      <//>`}
    ${!value ? !error && html`<${Loading} />` : html`
      <dl class="stats">
        <div class="stat"><dt>State</dt><dd><${State} state=${status.state} /></dd></div>
        <${Stat} label="Unacked" value=${count(status.committed_lag)} title="Messages that have not been acked, delivered or not" />
        <${Stat} label="Not delivered" value=${count(status.delivered_lag)} title="Unacked messages that no consumer has been given yet" />
        <${Stat} label="Oldest pending" title="How long ago the oldest message was delivered that is not acked yet" value=${duration(seconds(status.oldest_unacked_age))} />
        <${Stat} label="Consumers" value=${count(status.consumers.length)} tone=${status.consumers.length === 0 && status.committed_lag > 0 ? 'warn' : ''} />
        <${Stat} label="Parked" value=${parkedText} tone=${parked ? 'warn' : ''} />
        ${status.trimmed > 0 && html`<${Stat} label="Trimmed" value=${count(status.trimmed)} tone="warn" title="Messages that were trimmed although they had not been acked" />`}
      </dl>
      ${reasonOf(status) && html`<div class="failure" role="alert"><div><p>${reasonOf(status)}</p><p>${adviceOf(status)}</p></div></div>`}
      <p class="definition"><span class="muted">From</span> ${sourceText(value.definition.source)}
        ${value.definition.types?.length ? html` <span class="muted">of types</span> ${value.definition.types.join(', ')}` : ''}
        ${value.definition.filter ? html` <span class="muted">where</span> <span class="code">${value.definition.filter}</span>` : ''}
        <span class="muted">, ${value.definition.mode}, up to ${count(value.definition.max_in_flight)} pending for each consumer, ${count(value.definition.max_deliveries)} ${value.definition.max_deliveries === 1 ? 'delivery' : 'deliveries'}, then ${value.definition.on_exhausted}</span></p>
      <div class="toolbar"><span class="spacer" /><${Spans} /></div>
      <div class="charts single"><${Chart} title="Unacked" floor=${10} times=${series.whole.time} format=${short} series=${[
        { label: 'unacked', values: series.whole.lag, ink: 'accent', fill: true },
        { label: 'not delivered', values: series.whole.delivered, ink: 'muted', dash: [4, 3] },
      ]} /></div>
      <${Tabs} label="Parts of the subscription" current=${tab} tabs=${TABS.map(([id, text]) => [
        id,
        id === 'parked' && parked ? html`${text} <span class="count">${parkedText}</span>` : text,
        to('subscriptions', name, { tab: id === 'partitions' ? undefined : id }),
      ])} />
      ${tab === 'consumers' ? html`<${Consumers} path=${path} mode=${value.definition.mode} onAsk=${setAsk} />`
        : tab === 'pending' ? html`<${Pending} path=${path} />`
          : tab === 'parked' ? html`<${Parked} path=${path} onAsk=${setAsk} />`
            : html`<${Partitions} status=${status} series=${series} />`}`}
    ${value && dialog === 'edit' && html`<${EditSubscription} name=${name} path=${path} definition=${value.definition} onDone=${again} onClose=${close} />`}
    ${value && dialog === 'seek' && html`<${SeekDialog} name=${name} path=${path} partitions=${status.partitions.length} onDone=${again} onClose=${close} />`}
    ${value && dialog === 'claim' && html`<${ClaimDialog} name=${name} path=${path} onDone=${again} onClose=${close} />`}
    <${Confirm} ask=${ask} onClose=${() => setAsk(null)} />`
}

function Partitions({ status, series }) {
  const most = Math.max(...Object.values(series.partitions).flat().filter(lag => lag !== null), 1)
  return html`
    <${Table} label="Partitions" rows=${status.partitions} keyOf=${one => one.partition} columns=${[
      { label: 'Partition', kind: 'num', cell: one => one.partition },
      { label: 'Unacked over time', cell: one => html`<${Spark} values=${series.partitions[one.partition] ?? []} max=${most} width=${120} label=${`Unacked messages of partition ${one.partition}`} />` },
      { label: 'Unacked', kind: 'num', cell: one => html`<b>${count(one.committed_lag)}</b>` },
      { label: 'Pending', kind: 'num', cell: one => count(one.in_flight) },
      { label: 'Delivered up to', kind: 'num', tone: 'muted', cell: one => position(one.delivered_position) },
      { label: 'Acked up to', kind: 'num', tone: 'muted', cell: one => position(one.committed_position) },
      { label: 'Oldest pending', kind: 'num', cell: one => duration(seconds(one.oldest_unacked_age)) },
      { label: 'Consumers', cell: one => html`${one.consumers.length > 0 ? one.consumers.join(', ') : html`<span class=${one.committed_lag > 0 && status.state === 'running' ? 'tone-warn' : 'muted'}>nobody</span>`}
        ${one.held_back && html` <${Badge} tone="warn">in retry<//>`}` },
    ]} />`
}

/** One less than the first position: nothing yet. */
const position = value => (value < 0 ? '–' : count(value))
