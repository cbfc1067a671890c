// The list of subscriptions.
import { html } from './dom.js'
import { getJson } from './api.js'
import { LIST_MAX, State } from './aggregated.js'
import { count, duration } from './format.js'
import { useLook } from './poll.js'
import { to } from './router.js'
import { Command, curl, Empty, Failure, Heading, Loading } from './widgets.js'
import { measured } from './subscription_status.js'
import { reading } from './metrics.js'
import { useStore } from './store.js'

export function sourceText(source = {}) {
  if (source.all) return 'the whole log'
  if (source.stream_name) return html`stream <a href=${to('streams', source.stream_name)}>${source.stream_name}</a>`
  if (source.category) return html`category <a href=${to('categories', source.category)}>${source.category}</a>`
  if (source.categories) return `categories ${source.categories.join(', ')}`
  if (source.aggregated_stream) return html`aggregated stream <a href=${to('aggregated', source.aggregated_stream)}>${source.aggregated_stream}</a>`
  return JSON.stringify(source)
}

export function SubscriptionList() {
  const { value, error, again } = useLook(signal => getJson(`/v1/subscriptions?limit=${LIST_MAX}`, { signal }), [], 2_000)
  const rows = value?.subscriptions
  const metrics = useStore(reading)
  return html`
    <${Heading} title="Subscriptions" />
    <${Failure} error=${error} again=${again} />
    ${!rows ? !error && html`<${Loading} />`
      : rows.length === 0 ? html`
        <${Empty} title="No subscription yet">
          <p>A subscription gives each message to one of its consumers, and knows what has been acknowledged.</p>
          <${Command} lines=${curl('/v1/subscriptions/billing', { source: { category: 'order' }, mode: 'partitioned', partitions: 4 }, 'PUT')} />
        <//>`
        : html`
          <div class="scroll"><table class="table">
            <thead><tr><th>Name</th><th>State</th><th class="wide-only">Mode</th><th class="wide-only">Source</th><th class="num">Consumers</th><th class="num">Lag</th><th class="num">Oldest unacked</th></tr></thead>
            <tbody>${rows.map(row => {
              const now = measured(metrics, row.name)
              return html`
                <tr key=${row.name}>
                  <td class="name"><a href=${to('subscriptions', row.name)}>${row.name}</a></td>
                  <td><${State} state=${row.status.state} /></td>
                  <td class="wide-only muted">${row.definition.mode}</td>
                  <td class="wide-only muted">${sourceText(row.definition.source)}</td>
                  <td class="num">${count(now.consumers)}</td>
                  <td class="num"><b>${count(now.lag)}</b></td>
                  <td class="num">${duration(now.oldest || null)}</td>
                </tr>`
            })}</tbody>
          </table></div>
          ${value.next && html`<p class="hint">The first ${count(LIST_MAX)} are shown.</p>`}`}`
}
