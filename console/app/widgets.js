// Small parts that every view is made of.
import { classes, html, useEffect, useRef, useState } from './dom.js'
import { connection, Problem, Unreachable } from './api.js'
import { session } from './session.js'
import { useStore } from './store.js'
import { STATE_TEXT } from './live.js'

/** A view's heading: where one is, and what can be done. */
export function Heading({ trail = [], title, children }) {
  useEffect(() => { document.title = title ? `${title} · Headwater` : 'Headwater' }, [title])
  return html`
    <header class="heading">
      <div class="heading-text">
        ${trail.length > 0 && html`<nav class="trail" aria-label="Breadcrumb">
          ${trail.map(([text, link]) => html`<a href=${link} key=${link}>${text}</a><span aria-hidden="true">/</span>`)}
        </nav>`}
        <h1>${title}</h1>
      </div>
      <div class="heading-actions">${children}</div>
    </header>`
}

export const Empty = ({ title, children }) => html`
  <div class="empty"><p class="empty-title">${title}</p>${children && html`<div class="empty-text">${children}</div>`}</div>`

/** Parts of a view: [id, text, link] each. On a narrow screen they are a row that scrolls. */
export function Tabs({ label, tabs, current }) {
  const row = useRef(null)
  useEffect(() => { row.current.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' }) }, [current])
  return html`
    <nav class="tabs" aria-label=${label} ref=${row}>
      ${tabs.map(([id, text, link]) => html`<a key=${id} href=${link} aria-current=${current === id ? 'page' : undefined}>${text}</a>`)}
    </nav>`
}

/** A command to try, over several lines, as a shell takes it. */
export function Command({ lines }) {
  const text = lines.join(' \\\n  ')
  return html`<div class="command"><pre class="code">${text}</pre><${Copy} text=${text} /></div>`
}

/** `curl` with a JSON body. */
export function curl(path, body, method) {
  const credential = session.value.state === 'in' ? ['-H "Authorization: Bearer $HEADWATER_KEY"'] : []
  return [`curl ${method ? `-X ${method} ` : ''}--json '${JSON.stringify(body)}'`, ...credential, location.origin + path]
}

/** What went wrong with a look, and a way to look again. */
export function Failure({ error, again }) {
  const { state } = useStore(connection)
  // The banner says that already, once for all.
  if (!error || (error instanceof Unreachable && state === 'offline')) return null
  const slug = error instanceof Problem && error.slug
  return html`
    <div class="failure" role="alert">
      <p>${error.message} ${slug && html`<a href=${`/problems/${slug}`} target="_blank" rel="noreferrer">What this means</a>`}</p>
      ${again && html`<button onClick=${again}>Try again</button>`}
    </div>`
}

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
export const LiveSwitch = ({ state, on, onChange }) => html`
  <button class=${classes('live-switch', `is-${state}`)} aria-pressed=${on} onClick=${() => onChange(!on)} data-key="t"
    title=${on ? 'Stop following (t)' : 'Follow (t)'}><i class="dot" />${STATE_TEXT[on ? state : 'off']}</button>`

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
      await navigator.clipboard.writeText(text)
      setDone(true)
      setTimeout(() => setDone(false), 1_200)
    } catch { /* the browser has said no; nothing is lost */ }
  }
  return html`<button class="quiet" onClick=${copy}>${done ? 'Copied' : label}</button>`
}
