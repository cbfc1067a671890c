// What runs here: version, storage and its growth, and the settings in effect, as far as this service tells.
import { html } from './dom.js'
import { getJson, Problem } from './api.js'
import { bytes, clock, count, duration, plural, short } from './format.js'
import { useLook } from './poll.js'
import { useRights } from './session.js'
import { Table } from './table.js'
import { CopyCurl, Failure, Stat } from './widgets.js'

/** What a path answers; null where the service does not have it. */
async function known(path, signal) {
  try {
    return await getJson(path, { signal })
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return null
    throw error
  }
}

const VERSION_MS = 60_000
const STORAGE_MS = 15_000

const DAY_SECONDS = 86_400

/** For how long there have been messages, in seconds. */
const aged = ({ first_time, measured_at }) => (Date.parse(measured_at) - Date.parse(first_time)) / 1000

/** What is added in a day; within the first day, what has been added so far: nobody knows how the day goes on. */
const grown = (value, perDay, text) => (perDay === null ? '–' : text(Math.round(perDay * Math.min(aged(value) / DAY_SECONDS, 1))))
const span = value => (value.first_time && aged(value) < DAY_SECONDS ? `in ${duration(aged(value))}` : 'a day')

export function Storage() {
  const { value, error } = useLook(signal => known('/v1/reports/storage', signal), [], STORAGE_MS)
  if (!value) return html`<${Failure} error=${error} />`
  const tables = [...value.tables].sort((a, b) => b.bytes + b.index_bytes - a.bytes - a.index_bytes)
  return html`
    <section class="panel" aria-label="Storage">
      <header><h2>Storage</h2><${CopyCurl} request=${{ path: '/v1/reports/storage' }} /></header>
      <dl class="stats">
        <${Stat} label="Database" value=${bytes(value.database_bytes)} />
        <${Stat} label="Growth" value=${grown(value, value.bytes_per_day, bytes)} unit=${span(value)} title="Messages and their indexes, on average since the first message" />
        <${Stat} label="Messages" value=${grown(value, value.messages_per_day, short)} unit=${span(value)} />
        <${Stat} label="First message" value=${value.first_time ? clock(value.first_time) : '–'} />
      </dl>
      <details><summary>Tables</summary><${Table} label="Tables" rows=${tables} keyOf=${table => table.name} columns=${[
        { label: 'Table', kind: 'name', cell: table => html`<span class="code">${table.name}</span>` },
        { label: 'Rows, about', kind: 'num', cell: table => count(table.rows_estimated) },
        { label: 'Rows take', kind: 'num', cell: table => bytes(table.bytes) },
        { label: 'Indexes', kind: 'num', cell: table => bytes(table.index_bytes) },
      ]} /></details>
    </section>`
}

export function Settings() {
  const rights = useRights()
  const { value } = useLook(async signal => (rights.admin ? known('/v1/settings', signal) : null), [rights])
  if (!value) return null
  const changed = value.settings.filter(one => !one.is_default)
  return html`
    <section class="panel" aria-label="Settings">
      <header><h2>Settings in effect</h2><${CopyCurl} request=${{ path: '/v1/settings' }} /></header>
      ${changed.length === 0 ? html`<p class="muted">All have their defaults.</p>` : html`<${SettingsTable} rows=${changed} />`}
      <details><summary>${plural(value.settings.length - changed.length, 'default')}</summary><${SettingsTable} rows=${value.settings.filter(one => one.is_default)} /></details>
    </section>`
}

const SettingsTable = ({ rows }) => html`
  <${Table} label="Settings" rows=${rows} keyOf=${row => row.name} columns=${[
    { label: 'Setting', kind: 'name', cell: row => html`<span class="code">--${row.name}</span>` },
    { label: 'Value', tone: 'code', cell: row => (row.is_hidden ? html`<span class="muted">set, and not shown</span>` : row.value ?? html`<span class="muted">not set</span>`) },
  ]} />`

const VERSIONS = { version: 'Headwater', commit: 'Commit', rustc: 'Rust', functions_version: 'SQL functions', postgresql: 'PostgreSQL' }

export function Version() {
  const { value } = useLook(signal => known('/version', signal), [], VERSION_MS)
  if (!value) return null
  const facts = Object.entries(value).filter(([, fact]) => fact !== null && typeof fact !== 'object')
  return html`
    <section class="panel" aria-label="Version">
      <header><h2>Version</h2><${CopyCurl} request=${{ path: '/version' }} /></header>
      <dl class="facts">${facts.map(([name, fact]) => html`<dt key=${name}>${VERSIONS[name] ?? name}</dt><dd class="code">${String(fact)}</dd>`)}</dl>
    </section>`
}
