// Aggregated streams: the list, and one with its partitions as columns that fill.
import { html, useEffect, useState } from './dom.js'
import { api, getJson, send } from './api.js'
import { Columns } from './columns.js'
import { Spark } from './chart.js'
import { Confirm } from './dialog.js'
import { count } from './format.js'
import { Keys } from './keys.js'
import { useLook } from './poll.js'
import { to } from './router.js'
import { useRights } from './session.js'
import { Badge, Command, curl, Empty, Failure, Heading, Loading, Stat } from './widgets.js'

/** Lags that are kept, one a second. */
const LAGS_MAX = 120
/** Names in a list. */
export const LIST_MAX = 1_000

export const STATES = {
  live: ['good', 'Live'], running: ['good', 'Running'], catching_up: ['plain', 'Catching up'], paused: ['plain', 'Paused'],
  stopped: ['bad', 'Stopped'], source_deleted: ['bad', 'Source deleted'],
}

export function State({ state }) {
  const [tone, text] = STATES[state] ?? ['plain', state]
  return html`<${Badge} tone=${tone}>${text}<//>`
}

const messages = status => (status?.partitions ?? []).reduce((sum, one) => sum + one.message_count, 0)

export function AggregatedList() {
  const { value, error, again } = useLook(signal => getJson(`/v1/aggregated-streams?limit=${LIST_MAX}`, { signal }), [], 2_000)
  const rows = value?.aggregated_streams
  return html`
    <${Heading} title="Aggregated streams" />
    <${Failure} error=${error} again=${again} />
    ${!rows ? !error && html`<${Loading} />`
      : rows.length === 0 ? html`
        <${Empty} title="No aggregated stream yet">
          <p>An aggregated stream gathers the messages of many streams and divides them into partitions, each in an order that never changes.</p>
          <${Command} lines=${curl('/v1/aggregated-streams/orders', { categories: ['order'], partitioner: { kind: 'stream', partitions: 4 } }, 'PUT')} />
        <//>`
        : html`
          <table class="table">
            <thead><tr><th>Name</th><th>State</th><th class="wide-only">Divided by</th><th class="num wide-only">Projected up to</th><th class="num">Lag</th><th class="num wide-only">Left out</th></tr></thead>
            <tbody>${rows.map(row => html`
              <tr key=${row.name}>
                <td class="name"><a href=${to('aggregated', row.name)}>${row.name}</a></td>
                <td><${State} state=${row.status.state} /></td>
                <td class="wide-only muted">${partitionerText(row.definition?.partitioner)}</td>
                <td class="num wide-only">${count(row.status.projected_position)}</td>
                <td class="num">${count(row.status.lag)}</td>
                <td class="num wide-only">${count(row.status.skipped)}</td>
              </tr>`)}
            </tbody>
          </table>
          ${value.next && html`<p class="hint">The first ${count(LIST_MAX)} are shown.</p>`}`}`
}

function partitionerText(partitioner) {
  if (!partitioner) return '–'
  const { kind, of: place, pointer, expression, partitions } = partitioner
  if (kind === 'key') return html`key: ${{ cardinal_id: 'cardinal id', type: 'type' }[place] ?? html`${place} <span class="code">${pointer}</span>`}`
  if (kind === 'cel') return html`<span class="code">${expression}</span>`
  const of = { constant: 'nothing: one partition', stream: 'stream', cardinal_id: 'cardinal id', category: 'category', type: 'type' }[kind] ?? html`${kind} <span class="code">${pointer}</span>`
  return html`${of}${partitions ? `, ${partitions} ways` : ''}`
}

function sourceText({ stream_wildcards = [], categories = [], types = [], filter }) {
  const named = categories.length > 0 && `${categories.length === 1 ? 'category' : 'categories'} ${categories.join(', ')}`
  const sources = [stream_wildcards.length > 0 && `streams ${stream_wildcards.join(', ')}`, named].filter(Boolean)
  return [sources.join(' and ') || 'everything', types.length && `types ${types.join(', ')}`, filter].filter(Boolean).join(' · ')
}

export function Aggregated({ name }) {
  const path = api`/v1/aggregated-streams/${name}`
  const { value, error, again } = useLook(signal => getJson(path, { signal }), [name], 1_000)
  const [lags, setLags] = useState([])
  const [ask, setAsk] = useState(null)
  const status = value?.status
  const mayChange = useRights().subscribe(name)
  useEffect(() => { if (status) setLags(lags => [...lags, status.lag].slice(-LAGS_MAX)) }, [value])
  const act = action => async () => { await send('POST', `${path}/${action}`); again() }
  const isPaused = status?.state === 'paused'
  const isKeyed = value?.definition.partitioner.kind === 'key'
  return html`
    <${Heading} trail=${[['Aggregated', to('aggregated')]]} title=${name}>
      ${status && mayChange && html`
        <button onClick=${() => setAsk(isPaused
          ? { title: `Resume ${name}?`, text: 'It goes on from where it was paused.', action: 'Resume', run: act('resume') }
          : { title: `Pause ${name}?`, text: 'New messages are not projected until it is resumed. What was projected can be read.', action: 'Pause', run: act('pause') })}>
          ${isPaused ? 'Resume' : 'Pause'}</button>
        <button onClick=${() => setAsk({ title: `Rebuild ${name}?`, text: 'All messages are projected again from the beginning. Readers see the present projection until the new one has caught up.', action: 'Rebuild', run: act('rebuild') })}>Rebuild</button>`}
    <//>
    <${Failure} error=${error} again=${again} />
    ${!value ? !error && html`<${Loading} />` : html`
      <dl class="stats">
        <div class="stat"><dt>State</dt><dd><${State} state=${status.state} /></dd></div>
        ${isKeyed ? html`<${Stat} label="Keys" value=${count(status.key_count)} />` : html`
          <${Stat} label="Messages" value=${count(messages(status))} />
          <${Stat} label="Partitions" value=${count(status.partitions.length)} />`}
        <div class="stat"><dt>Lag</dt><dd>${count(status.lag)} <${Spark} values=${lags} label="Lag over the last two minutes" width=${90} /></dd></div>
        <${Stat} label="Projected up to" value=${count(status.projected_position)} />
        <${Stat} label="Settled up to" value=${count(status.settled_position)} />
      </dl>
      ${status.error && html`<${Stopped} error=${status.error} />`}
      ${status.rebuild && html`<p class="hint">A new projection is being made: ${count(status.rebuild.projected_position)} of ${count(status.settled_position)}. Readers see the present one until then.</p>`}
      <p class="definition"><span class="muted">From</span> ${sourceText(value.definition)} <span class="muted">divided by</span> ${partitionerText(value.definition.partitioner)}</p>
      ${isKeyed ? html`<${Keys} name=${name} />` : status.partitions.length === 0
        ? html`<${Empty} title="No message has been projected yet"><p>Partitions appear with their first message.</p><//>`
        : html`<${Columns} key=${name} name=${name} partitions=${status.partitions} lag=${status.lag} />`}`}
    <${Confirm} ask=${ask} onClose=${() => setAsk(null)} />`
}

const Stopped = ({ error }) => html`
  <div class="failure" role="alert"><p>
    It has stopped before <a href=${to('messages', error.message_id)}>a message of ${error.stream_name}</a> at ${count(error.global_position)}: ${error.reason}
  </p></div>`

