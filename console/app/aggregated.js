// Aggregated streams: the list, and one with its partitions as columns that fill.
import { html, useEffect, useState } from './dom.js'
import { NewAggregated } from './aggregated_form.js'
import { api, getJson } from './api.js'
import { Columns } from './columns.js'
import { Spark } from './chart.js'
import { Confirm } from './dialog.js'
import { count, plural } from './format.js'
import { Keys } from './keys.js'
import { useLook } from './poll.js'
import { go, to } from './router.js'
import { useRights } from './session.js'
import { Table } from './table.js'
import { Badge, Command, curl, Empty, Failure, Heading, isNotFound, Loading, Stat } from './widgets.js'

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

const DefineCommand = ({ name }) => html`
  <${Command} lines=${curl({ method: 'PUT', path: api`/v1/aggregated-streams/${name}`, body: { categories: ['order'], partitioner: { kind: 'stream', partitions: 4 } } })} />`

const messages = status => (status?.partitions ?? []).reduce((sum, one) => sum + one.message_count, 0)

export function AggregatedList() {
  const [isDefining, setIsDefining] = useState(false)
  const rights = useRights()
  const { value, error, again } = useLook(signal => getJson(`/v1/aggregated-streams?limit=${LIST_MAX}`, { signal }), [], 2_000)
  const rows = value?.aggregated_streams
  return html`
    <${Heading} title="Aggregated streams" path="/v1/aggregated-streams">
      ${rights.subscribeSomething && html`<button onClick=${() => setIsDefining(true)}>New…</button>`}
    <//>
    ${isDefining && html`<${NewAggregated} onDone=${name => go('aggregated', name)} onClose=${() => setIsDefining(false)} />`}
    <${Failure} error=${error} again=${again} />
    ${!rows ? !error && html`<${Loading} />`
      : rows.length === 0 ? html`
        <${Empty} title="No aggregated stream yet">
          <p>An aggregated stream gathers the messages of many streams and divides them into partitions, each in an order that never changes.</p>
          ${rights.subscribeSomething && html`<${DefineCommand} name="orders" />`}
        <//>`
        : html`
          <${Table} label="Aggregated streams" rows=${rows} keyOf=${row => row.name} columns=${[
            { label: 'Name', kind: 'name', cell: row => html`<a href=${to('aggregated', row.name)}>${row.name}</a>` },
            { label: 'State', cell: row => html`<${State} state=${row.status.state} />` },
            { label: 'Divided by', tone: 'muted', cell: row => partitionerText(row.definition?.partitioner) },
            { label: 'Projected up to', kind: 'num', cell: row => count(row.status.projected_position) },
            { label: 'Lag', kind: 'num', cell: row => html`<b>${count(row.status.lag)}</b>` },
            { label: 'Left out', kind: 'num', cell: row => count(row.status.skipped) },
          ]} />
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
  const [isDefining, setIsDefining] = useState(false)
  const status = value?.status
  const mayChange = useRights().subscribe(name)
  useEffect(() => { if (status) setLags(lags => [...lags, status.lag].slice(-LAGS_MAX)) }, [value])
  const act = action => ({ request: { method: 'POST', path: `${path}/${action}` }, done: again })
  const isHeld = status?.state === 'paused' || status?.state === 'stopped'
  const isKeyed = value?.definition.partitioner.kind === 'key'
  return html`
    <${Heading} trail=${[['Aggregated', to('aggregated')]]} title=${name} path=${path}>
      ${status && mayChange && html`
        <button onClick=${() => setAsk(isHeld
          ? { title: `Resume ${name}?`, text: status.error ? 'It tries the message at which it has stopped once more, and stops there again unless what was wrong has been corrected.' : 'It goes on from where it was paused.', action: 'Resume', ...act('resume') }
          : { title: `Pause ${name}?`, text: 'New messages are not projected until it is resumed. What was projected can be read.', action: 'Pause', ...act('pause') })}>
          ${isHeld ? 'Resume…' : 'Pause…'}</button>
        <button onClick=${() => setIsDefining(true)}>Define another…</button>
        <button onClick=${() => setAsk({
          title: `Delete ${name}?`, action: 'Delete', danger: true, request: { method: 'DELETE', path }, done: () => go('aggregated'),
          text: `Its ${isKeyed ? plural(status.key_count, 'key') : `${plural(status.partitions.length, 'partition')} of ${plural(messages(status), 'message')}`} go; the messages themselves stay in their streams. Subscriptions that consume it stand still from then on. Shown from its status of a second ago.`,
        })}>Delete…</button>
        <button onClick=${() => setAsk({ title: `Rebuild ${name}?`, text: 'All messages are projected again from the beginning. Readers see the present projection until the new one has caught up.', action: 'Rebuild', ...act('rebuild') })}>Rebuild…</button>`}
    <//>
    <${Failure} error=${error} again=${again} />
    ${!value && isNotFound(error) && mayChange && html`
      <${Empty} title="It can be defined">
        <p>Such as this one, of all orders. <a href=${to('aggregated')}>The list</a> has those that exist.</p>
        <${DefineCommand} name=${name} />
      <//>`}
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
      ${status.rebuild && html`<${Rebuilding} rebuild=${status.rebuild} end=${status.settled_position} />`}
      <p class="definition"><span class="muted">From</span> ${sourceText(value.definition)} <span class="muted">divided by</span> ${partitionerText(value.definition.partitioner)}</p>
      ${isKeyed ? html`<${Keys} name=${name} />` : status.partitions.length === 0
        ? html`<${Empty} title="No message has been projected yet"><p>Partitions appear with their first message.</p><//>`
        : html`<${Columns} key=${name} name=${name} partitions=${status.partitions} isHeld=${isHeld} />`}`}
    ${isDefining && html`<${NewAggregated} like=${value.definition} onDone=${name => go('aggregated', name)} onClose=${() => setIsDefining(false)} />`}
    <${Confirm} ask=${ask} onClose=${() => setAsk(null)} />`
}

const Rebuilding = ({ rebuild: { state, error, projected_position: at }, end }) => html`
  <div class="progress-box" role="status">
    <label>A new projection is being made: ${count(at)} of ${count(end)}, ${Math.floor((100 * at) / Math.max(end, 1))} %. <progress max=${end} value=${at} /></label>
    <p class="hint">Readers see the present one until then.</p>
    ${state === 'stopped' && error && html`<${Stopped} error=${error} />`}
  </div>`

const Stopped = ({ error }) => html`
  <div class="failure" role="alert"><div>
    <p>It has stopped before <a href=${to('messages', error.message_id)}>a message of ${error.stream_name}</a> at ${count(error.global_position)}: ${error.reason}.</p>
    <p>Correct what is wrong (an erased field, say) and resume it; or delete it and define it anew with another <code>on_error</code>, which skips such messages or puts them into a partition of their own. What was projected can be read meanwhile.</p>
  </div></div>`

