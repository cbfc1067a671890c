// Small parts that every view is made of.
import { classes, html, useEffect, useRef, useState } from './dom.js'
import { connection, Problem, Unreachable } from './api.js'
import { session } from './session.js'
import { useStore } from './store.js'
import { STATE_TEXT } from './live.js'

/** A view's heading: where one is, and what can be done; `path` is what the view reads. */
export function Heading({ trail = [], title, path, children }) {
  useEffect(() => { document.title = title ? `${title} · Headwater` : 'Headwater' }, [title])
  return html`
    <header class="heading">
      <div class="heading-text">
        ${trail.length > 0 && html`<nav class="trail" aria-label="Breadcrumb">
          ${trail.map(([text, link]) => html`<a href=${link} key=${link}>${text}</a><span aria-hidden="true">/</span>`)}
        </nav>`}
        <h1>${title}</h1>
      </div>
      <div class="heading-actions">${children}${path && html`<${CopyCurl} request=${{ path }} />`}</div>
    </header>`
}

export const Empty = ({ title, children }) => html`
  <div class="empty"><p class="empty-title">${title}</p>${children && html`<div class="empty-text">${children}</div>`}</div>`

/** Parts of a view: [id, text, link] each. */
export const Tabs = ({ label, tabs, current }) => html`
  <nav class="tabs" aria-label=${label}>
    ${tabs.map(([id, text, link]) => html`<a key=${id} href=${link} aria-current=${current === id ? 'page' : undefined}>${text}</a>`)}
  </nav>`

/** A command to try, over several lines, as a shell takes it. */
export function Command({ lines }) {
  const text = lines.join(' \\\n  ')
  return html`<div class="command"><pre class="code">${text}</pre><${Copy} text=${text} /></div>`
}

/** A text as a shell takes it whole. */
const quoted = text => (/^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`)

/** A request as `curl` lines. `text` is a JSON body that is given as text. */
export function curl({ method = 'GET', path, body, text = body === undefined ? undefined : JSON.stringify(body) }) {
  const credential = session.value.state === 'in' ? ['-H "Authorization: Bearer $HEADWATER_KEY"'] : []
  const verb = method === (text === undefined ? 'GET' : 'POST') ? '' : ` -X ${method}`
  const first = text === undefined ? `curl${verb}` : `curl${verb} --json ${quoted(text)}`
  return [first, ...credential, quoted(location.origin + path)]
}

/** Copies what a view reads, or what an action sends. */
export const CopyCurl = ({ request }) => html`<${Copy} text=${() => curl(request).join(' \\\n  ')} label="Copy as curl" />`

/** What went wrong with a look, and a way to look again. */
export function Failure({ error, again }) {
  const { state } = useStore(connection)
  // The banner says that already, once for all.
  if (!error || (error instanceof Unreachable && state === 'offline')) return null
  const slug = error instanceof Problem && error.slug
  return html`
    <div class="failure" role="alert">
      <p>${error.message} ${slug && html`<a href=${`/problems/${slug}`} target="_blank" rel="noreferrer">What this means</a>`}</p>
      ${again && isWorthAgain(error) && html`<button onClick=${again}>Try again</button>`}
    </div>`
}

export const isNotFound = error => error instanceof Problem && error.status === 404

/** What was refused is refused again, unless the service says that it was short of something. */
const isWorthAgain = error => !(error instanceof Problem) || error.status >= 500 || error.status === 408 || error.status === 429

export const Loading = ({ lines = 6 }) => html`
  <div class="loading" role="status" aria-label="Loading">${Array.from({ length: lines }, (_, n) => html`<i key=${n} />`)}</div>`

/** A field for searching; tells of the text a moment after the last key. */
export function Search({ label, title, value, onChange, placeholder = label, delay = 200, isCode = false }) {
  const [text, setText] = useState(value)
  const timer = useRef()
  useEffect(() => setText(value), [value])
  useEffect(() => () => clearTimeout(timer.current), [])
  const tell = (next, wait) => {
    clearTimeout(timer.current)
    timer.current = setTimeout(() => onChange(next), wait)
  }
  return html`
    <input class=${classes('search', isCode && 'code')} type="search" aria-label=${label} title=${title} placeholder=${placeholder} value=${text}
      spellcheck="false" autocomplete="off" data-search
      onInput=${event => { setText(event.target.value); tell(event.target.value, delay) }}
      onKeyDown=${event => {
        if (event.key === 'Enter') tell(event.target.value, 0)
        if (event.key === 'Escape') event.target.blur()
      }} />`
}

/** Says whether a list follows along, and changes it. */
export function LiveSwitch({ state, on, onChange }) {
  const { state: reached } = useStore(connection)
  // Nothing is live while the service cannot be reached, whatever was asked last.
  const shown = !on || state === 'off' ? 'off' : reached === 'offline' ? 'reconnecting' : state
  return html`<${Switch} state=${shown} on=${on} onChange=${onChange} />`
}

const Switch = ({ state, on, onChange }) => html`
  <button class=${classes('live-switch', `is-${state}`)} aria-pressed=${on} onClick=${() => onChange(!on)} data-key="t"
    title=${on ? 'Stop following (t)' : 'Follow (t)'}><i class="dot" />${STATE_TEXT[state]}</button>`

export const Stat = ({ label, value, unit, tone, href, title }) => html`
  <div class=${classes('stat', tone && `is-${tone}`)} title=${title}>
    <dt>${label}</dt>
    <dd>${href ? html`<a href=${href}>${value}</a>` : value}${unit && html`<small> ${unit}</small>`}</dd>
  </div>`

export const Badge = ({ tone = 'plain', children }) => html`<span class=${`badge is-${tone}`}>${children}</span>`

/** Copies a text; says so for a moment. */
export function Copy({ text, label = 'Copy' }) {
  const [done, setDone] = useState(false)
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(typeof text === 'function' ? text() : text)
      setDone(true)
      setTimeout(() => setDone(false), 1_200)
    } catch { /* the browser has said no; nothing is lost */ }
  }
  return html`<button class="quiet" onClick=${copy}>${done ? 'Copied' : label}</button>`
}
