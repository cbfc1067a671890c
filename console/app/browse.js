// Categories, and the streams of one or of all.
import { classes, html, useEffect, useMemo, useRef, useState } from './dom.js'
import { getJson, query } from './api.js'
import { ago, count, plural, short } from './format.js'
import { LogView } from './log_view.js'
import { categoryLog } from './logs.js'
import { useLook, useNow, useWhenBack } from './poll.js'
import { useRates } from './rates.js'
import { Retention } from './retention.js'
import { amend, go, to, useRoute } from './router.js'
import { useRights } from './session.js'
import { Table } from './table.js'
import { Empty, Failure, Heading, Loading, Search, Tabs } from './widgets.js'
import { FirstMessage } from './overview.js'

const CATEGORIES_MAX = 1_000
const STREAMS_AT_ONCE = 100
/** Requests that a search makes by itself before it asks whether to look further. */
const REQUESTS_MAX = 5
/** Rows that are kept. */
const ROWS_MAX = 2_000

export function Browse({ category }) {
  const { readEverything } = useRights()
  // Lists and counts are of all streams: without the right to them there is what has a name.
  if (!readEverything) return category === undefined ? html`<${ByName} />` : html`<${Category} key=${category} name=${category} />`
  return html`
    <div class=${classes('browse', category !== undefined && 'has-category')}>
      <${Categories} chosen=${category} />
      <div class="browse-main">${category === undefined ? html`<${AllStreams} />` : html`<${Category} key=${category} name=${category} />`}</div>
    </div>`
}

function Categories({ chosen }) {
  const [search, setSearch] = useState('')
  const { value, error, again } = useLook(
    signal => getJson(query('/v1/reports/categories', { contains: search, limit: CATEGORIES_MAX }), { signal }), [search], 3_000)
  const rates = useRates(useMemo(() => value && new Map(value.categories.map(line => [line.category, line.message_count])), [value]))
  const most = Math.max(...(value?.categories ?? []).map(line => line.message_count), 1)
  const isCounting = value && value.counted_position < value.settled_position - 50_000
  return html`
    <section class="side" aria-label="Categories">
      <header><h2>Categories <span class="muted">${value && count(value.categories.length)}${value && !value.at_end && '+'}</span></h2></header>
      <${Search} label="Search categories" value=${search} onChange=${setSearch} />
      ${isCounting && html`<p class="hint">Counting messages: ${Math.floor((100 * value.counted_position) / value.settled_position)} %</p>`}
      <${Failure} error=${error} again=${again} />
      ${!value ? !error && html`<${Loading} />` : html`
        <ul class="bars">
          <li><a href=${to('streams')} aria-current=${chosen === undefined ? 'page' : undefined}>
            <span>All streams</span><span class="num">${short(value.message_count)}</span></a></li>
          ${value.categories.map(line => html`
            <li key=${line.category}><a href=${to('categories', line.category)} aria-current=${line.category === chosen ? 'page' : undefined}
              title=${`${plural(line.message_count, 'message')} in ${plural(line.stream_count, 'stream')}, ${line.percent} %`}>
              <span class="name">${line.category}</span><span class="num">${rates.get(line.category) > 0 && html`<span class="rate">${short(rates.get(line.category))}/s</span> `}${short(line.message_count)}</span>
              <i class="bar" style=${`width:${Math.max((100 * line.message_count) / most, 0.5)}%`} />
            </a></li>`)}
        </ul>
        ${value.categories.length === 0 && search && html`<${Empty} title="No category with this in its name" />`}
        ${!value.at_end && html`<p class="hint">The first ${count(CATEGORIES_MAX)} are shown. Search for others.</p>`}`}
    </section>`
}

function AllStreams() {
  return html`<${Heading} title="Streams" path="/v1/reports/streams" /><${Streams} />`
}

function ByName() {
  return html`
    <${Heading} title="Streams" />
    <${Empty} title="Open a stream or a category by its name">
      <p>This credential may not list all streams. Those that it may read can be opened.</p>
      <${Search} label="Name of a stream or a category" value="" onChange=${name => name && go(name.includes('-') ? 'streams' : 'categories', name)} isCode=${true} delay=${1_500} />
    <//>`
}

/** Id, text, and the right that it takes. */
const TABS = [
  ['streams', 'Streams', 'readEverything'], ['messages', 'Messages', 'readSomething'], ['types', 'Types', 'readEverything'], ['retention', 'Retention', 'admin'],
]

function Category({ name }) {
  const route = useRoute()
  const rights = useRights()
  const tabs = TABS.filter(([, , right]) => rights[right])
  const tab = route.query.get('tab') ?? tabs[0]?.[0]
  const log = useMemo(() => categoryLog(name), [name])
  const { value } = useLook(
    async signal => (rights.readEverything ? getJson(query('/v1/reports/categories', { from: name, limit: 1 }), { signal }) : undefined), [name, rights], 3_000)
  const line = value?.categories.find(line => line.category === name)
  const now = useNow()
  return html`
    <${Heading} trail=${[['Streams', to('streams')]]} title=${name} path=${tab === 'messages' ? undefined : query('/v1/reports/streams', { category: name })}>
      ${line && html`<span class="muted">${plural(line.message_count, 'message')} · ${plural(line.stream_count, 'stream')} · last ${ago(line.last_time, now)}</span>`}
    <//>
    <${Tabs} label="Parts of the category" current=${tab} tabs=${tabs.map(([id, text]) => [id, text, to('categories', name, { tab: id === tabs[0][0] ? undefined : id })])} />
    ${tab === 'messages' ? html`<${LogView} log=${log} withStream=${true}><${FirstMessage} stream=${`${name}-1`} /><//>`
      : tab === 'types' ? html`<${Types} category=${name} />`
        : tab === 'retention' ? html`<${Retention} category=${name} />`
          : html`<${Streams} category=${name} />`}`
}

/** A walk over the names of streams; a search may pass over many before one is found. */
function useStreams(search) {
  const [state, setState] = useState({ rows: [], next: undefined, busy: true, error: null })
  const controller = useRef(null)
  const walk = async (from, rows, signal) => {
    setState({ rows, next: from, busy: true, error: null })
    try {
      let next = from
      const wanted = rows.length + STREAMS_AT_ONCE
      for (let requests = 0; requests < REQUESTS_MAX && next !== null && rows.length < wanted; requests++) {
        const page = await getJson(query('/v1/reports/streams', { ...search, from: next, limit: wanted - rows.length }), { signal })
        rows = [...rows, ...page.streams].slice(-ROWS_MAX)
        next = page.next
      }
      setState({ rows, next, busy: false, error: null })
    } catch (error) {
      if (!signal.aborted) setState(state => ({ ...state, busy: false, error }))
    }
  }
  useEffect(() => {
    controller.current = new AbortController()
    walk(undefined, [], controller.current.signal)
    return () => controller.current.abort()
  }, [JSON.stringify(search)])
  const more = () => walk(state.next, state.rows, controller.current.signal)
  useWhenBack(state.error, more)
  return { ...state, more }
}

function Streams({ category }) {
  const { query: parameters } = useRoute()
  const text = parameters.get('q') ?? ''
  const how = parameters.get('how') === 'begins' ? 'begins' : 'contains'
  const search = { category, contains: how === 'contains' ? text : undefined, prefix: how === 'begins' ? text : undefined }
  const found = useStreams(search)
  const now = useNow(5_000)
  return html`
    <div class="toolbar">
      <select aria-label="How to search" value=${how} onChange=${event => amend({ how: event.target.value === 'begins' ? 'begins' : undefined })}>
        <option value="contains">Name contains</option><option value="begins">Name begins with</option>
      </select>
      <${Search} label="Search streams" value=${text} onChange=${value => amend({ q: value.trim() })} />
      ${text && html`<a class="button" href=${to('streams', text)}>Open “${text}”</a>`}
    </div>
    <${Failure} error=${found.error} again=${found.more} />
    ${found.rows.length === 0 && found.busy ? html`<${Loading} lines=${12} />`
      : found.rows.length === 0
        ? found.error ? null : text ? html`<${Empty} title=${found.next ? 'Nothing found so far' : 'No stream with such a name'} />` : html`<${FirstMessage} stream=${category && `${category}-1`} />`
        : html`
          <${Table} label="Streams" rows=${found.rows} keyOf=${row => row.stream_name} columns=${[
            { label: 'Stream', kind: 'name', cell: row => html`<a href=${to('streams', row.stream_name)}>${row.stream_name}</a>` },
            { label: 'Messages', kind: 'num', cell: row => count(row.message_count) },
            { label: 'Version', kind: 'num', cell: row => count(row.version) },
            { label: 'Last message', kind: 'num', tone: 'muted', cell: row => html`<time datetime=${row.last_time} title=${row.last_time}>${ago(row.last_time, now)}</time>` },
          ]} />`}
    ${found.next && html`
      <div class="more">
        <button onClick=${found.more} disabled=${found.busy}>${found.busy ? 'Looking' : text ? 'Look further' : 'More'}</button>
        <span class="muted">${plural(found.rows.length, 'stream')} shown${found.rows.length < STREAMS_AT_ONCE ? `; looked through the names up to ${found.next}` : ''}</span>
      </div>`}`
}

function Types({ category }) {
  const { value, error, again } = useLook(
    signal => getJson(query('/v1/reports/types', { category, limit: CATEGORIES_MAX }), { signal }), [category], 3_000)
  const now = useNow(5_000)
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} />`
  const lines = [...value.types].sort((a, b) => b.message_count - a.message_count)
  const sum = lines.reduce((sum, line) => sum + line.message_count, 0)
  if (lines.length === 0) return html`<${FirstMessage} stream=${`${category}-1`} />`
  return html`
    <${Table} label="Types" rows=${lines} keyOf=${line => line.type} columns=${[
      { label: 'Type', kind: 'name', cell: line => html`<a href=${to('categories', category, { tab: 'messages', types: line.type })}>${line.type}</a>` },
      { label: 'Messages', kind: 'num', cell: line => count(line.message_count) },
      { label: 'Share', kind: 'num', cell: line => `${((100 * line.message_count) / sum).toFixed(1)} %` },
      { label: 'Last message', kind: 'num', tone: 'muted', cell: line => ago(line.last_time, now) },
    ]} />`
}
