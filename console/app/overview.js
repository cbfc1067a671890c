// The first view: what goes in and out, how long it takes, what came last.
import { html, useMemo, useState } from './dom.js'
import { api, getJson } from './api.js'
import { Attention } from './attention.js'
import { Chart, Spans } from './chart.js'
import { count, duration, plural, short } from './format.js'
import { allLog } from './logs.js'
import { MessageList } from './message_list.js'
import { history, reading, valueOf } from './metrics.js'
import { useLook } from './poll.js'
import { useRates } from './rates.js'
import { go, to } from './router.js'
import { useRights } from './session.js'
import { useStore } from './store.js'
import { useLog } from './use_log.js'
import { Command, curl, Empty, Failure, Heading, Loading, Stat } from './widgets.js'

const LATEST = 12
const BUSIEST = 10

const rate = value => `${short(value)}/s`

export function Overview() {
  return html`
    <${Heading} title="Overview" path="/v1/reports/metrics"><${Spans} /><//>
    <${Attention} />
    <${Numbers} />
    <${Charts} />
    <div class="columns">
      <${Latest} />
      <${Busiest} />
    </div>`
}

function Numbers() {
  const now = useStore(reading)
  const { log } = useStore(history)
  const value = name => valueOf(now, name)
  const lag = value('headwater_settled_lag')
  const held = value('headwater_settled_held_back_age')
  const queue = value('headwater_append_queue_requests')
  return html`
    <dl class="stats">
      <${Stat} label="Last position" value=${count(value('headwater_head_position'))} />
      <${Stat} label="New messages" value=${short(log.at(-1))} unit="/s" />
      <${Stat} label="Not settled" value=${count(lag)} tone=${held > 5 ? 'warn' : ''} href=${held > 1 ? to('health') : undefined}
        title="Messages that may not be delivered yet, because a lower position may still appear" />
      <${Stat} label="Followers" value=${count(value('headwater_followers'))} />
      <${Stat} label="Appends waiting" value=${count(queue)} tone=${queue > 1_000 ? 'warn' : ''} />
      <${Stat} label="Connections in use" value=${count(value('headwater_pool_connections_in_use'))} unit=${`of ${count(value('headwater_pool_connections_max'))}`} />
    </dl>`
}

function Charts() {
  const series = useStore(history)
  return html`
    <div class="charts">
      <${Chart} title="Messages" floor=${10} times=${series.time} format=${rate} series=${[
        { label: 'into the log', values: series.log, ink: 'accent', fill: true },
        { label: 'to followers', values: series.delivered, ink: 'muted', dash: [4, 3] },
      ]} />
      <${Chart} title="Append, request to answer" times=${series.time} format=${duration} series=${[
        { label: 'p50', values: series.append50, ink: 'accent', fill: true },
        { label: 'p99', values: series.append99, ink: 'muted', dash: [4, 3] },
      ]} />
      <${Chart} title="Commit in PostgreSQL" times=${series.time} format=${duration} series=${[
        { label: 'p50', values: series.commit50, ink: 'accent', fill: true },
        { label: 'p99', values: series.commit99, ink: 'muted', dash: [4, 3] },
      ]} />
      <${Chart} title="Not settled" floor=${10} times=${series.time} format=${short} series=${[
        { label: 'positions', values: series.lag, ink: 'accent', fill: true },
      ]} />
    </div>`
}

function Latest() {
  const log = useMemo(allLog, [])
  const [filter] = useState({})
  const found = useLog(log, { filter })
  const rows = found.rows?.slice(0, LATEST)
  return html`
    <section class="panel">
      <header><h2>Latest messages</h2><a href=${to('log')}>All</a></header>
      <${Failure} error=${found.error} again=${found.again} />
      ${!rows ? html`<${Loading} lines=${LATEST} />`
        : rows.length === 0 ? html`<${FirstMessage} />`
          : html`<${MessageList} rows=${rows} position="global_position" withStream=${true} onSelect=${at => go('log', { at })} linkTo=${at => to('log', { at })} />`}
    </section>`
}

export const FirstMessage = ({ stream = 'order-1' }) => html`
  <${Empty} title="No message yet">
    ${useRights().append(stream) ? html`<${FirstAppend} stream=${stream} />` : html`<p>It is shown as soon as one comes.</p>`}
  <//>`

const FirstAppend = ({ stream }) => html`
  <p>Append the first one:</p>
  <${Command} lines=${curl({ method: 'POST', path: api`/v1/streams/${stream}/messages`, body: { messages: [{ type: 'OrderPlaced', data: { item: 'Tea', quantity: 2 } }] } })} />`

function Busiest() {
  const { value, error } = useLook(signal => getJson('/v1/reports/categories?limit=1000', { signal }), [], 5_000)
  const rates = useRates(useMemo(() => value && new Map(value.categories.map(line => [line.category, line.message_count])), [value]))
  const lines = [...(value?.categories ?? [])].sort((a, b) => b.message_count - a.message_count)
  const most = lines[0]?.message_count ?? 1
  return html`
    <section class="panel">
      <header><h2>Largest categories</h2><a href=${to('streams')}>All</a></header>
      ${!value ? html`<${error ? Failure : Loading} error=${error} />`
        : lines.length === 0 ? html`<${Empty} title="No category yet" />`
          : html`<ol class="bars">
            ${lines.slice(0, BUSIEST).map(line => html`
              <li key=${line.category}><a href=${to('categories', line.category)} title=${line.category}>
                <span class="name">${line.category}</span><span class="num">${rates.get(line.category) > 0 && html`<span class="rate" title="New messages, as they are counted">${rate(rates.get(line.category))}</span> `}${short(line.message_count)}</span>
                <i class="bar" style=${`width:${Math.max((100 * line.message_count) / most, 0.5)}%`} />
              </a></li>`)}
            ${lines.length > BUSIEST && html`<li class="muted">${plural(lines.length - BUSIEST, 'more category', 'more categories')}</li>`}
          </ol>`}
    </section>`
}
