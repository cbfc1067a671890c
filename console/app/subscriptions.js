// The list of subscriptions.
import { html, useState } from './dom.js'
import { api, getJson } from './api.js'
import { LIST_MAX, State } from './aggregated.js'
import { count, duration } from './format.js'
import { useLook } from './poll.js'
import { go, to } from './router.js'
import { useRights } from './session.js'
import { NewSubscription } from './subscription_form.js'
import { Table } from './table.js'
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

export const CreateCommand = ({ name }) => html`
  <${Command} lines=${curl({ method: 'PUT', path: api`/v1/subscriptions/${name}`, body: { source: { category: 'order' }, partitions: 4 } })} />`

export function SubscriptionList() {
  const { value, error, again } = useLook(signal => getJson(`/v1/subscriptions?limit=${LIST_MAX}`, { signal }), [], 2_000)
  const rows = value?.subscriptions
  const metrics = useStore(reading)
  const [isCreating, setIsCreating] = useState(false)
  const rights = useRights()
  return html`
    <${Heading} title="Subscriptions" path="/v1/subscriptions">
      ${rights.subscribeSomething && html`<button onClick=${() => setIsCreating(true)}>New…</button>`}
    <//>
    ${isCreating && html`<${NewSubscription} onDone=${name => go('subscriptions', name)} onClose=${() => setIsCreating(false)} />`}
    <${Failure} error=${error} again=${again} />
    ${!rows ? !error && html`<${Loading} />`
      : rows.length === 0 ? html`
        <${Empty} title="No subscription yet">
          <p>A subscription gives each message to one of its consumers, and knows what has been acked.</p>
          ${rights.subscribeSomething && html`<${CreateCommand} name="billing" />`}
        <//>`
        : html`
          <${Table} label="Subscriptions" rows=${rows.map(row => ({ ...row, now: measured(metrics, row.name) }))} keyOf=${row => row.name} columns=${[
            { label: 'Name', kind: 'name', cell: row => html`<a href=${to('subscriptions', row.name)}>${row.name}</a>` },
            { label: 'State', cell: row => html`<${State} state=${row.status.state} />` },
            { label: 'Mode', tone: 'muted', cell: row => row.definition.mode },
            { label: 'Source', tone: 'muted', cell: row => sourceText(row.definition.source) },
            { label: 'Consumers', kind: 'num', cell: row => count(row.now.consumers) },
            { label: 'Unacked', kind: 'num', cell: row => html`<b>${count(row.now.unacked)}</b>` },
            { label: 'Oldest pending', kind: 'num', cell: row => duration(row.now.oldest || null) },
          ]} />
          ${value.next && html`<p class="hint">The first ${count(LIST_MAX)} are shown.</p>`}`}`
}
