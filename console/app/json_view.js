// JSON as a tree that opens, with the digits as they are stored.
import { html, useState } from './dom.js'
import { entries, kindOf } from './json_text.js'
import { plural } from './format.js'
import { to } from './router.js'

/** Entries of one object or array that are shown at first, and characters of one string. */
const ENTRIES_SHOWN = 100
const STRING_SHOWN = 400
/** Levels that are open at first. */
const OPEN_DEPTH = 3

/** Keys whose value is a stream's name by Message DB's habit. */
const NAMES_STREAM = /stream_?name$/i

export const JsonView = ({ text }) => html`<div class="json">${html`<${Node} text=${text} depth=${0} isLast=${true} />`}</div>`

function Node({ name, text, depth, isLast }) {
  const kind = kindOf(text)
  const key = name !== undefined && html`<span class="json-key">${JSON.stringify(name)}</span>${': '}`
  const comma = isLast ? '' : ','
  if (kind !== 'object' && kind !== 'array') {
    return html`<div class="json-line">${key}<${Scalar} name=${name} text=${text} kind=${kind} />${comma}</div>`
  }
  return html`<${Branch} label=${key} text=${text} kind=${kind} depth=${depth} comma=${comma} />`
}

function Branch({ label, text, kind, depth, comma }) {
  const [open, setOpen] = useState(depth < OPEN_DEPTH)
  const [shown, setShown] = useState(ENTRIES_SHOWN)
  const [first, last] = kind === 'object' ? '{}' : '[]'
  const all = entries(text)
  if (all.length === 0) return html`<div class="json-line">${label}${first}${last}${comma}</div>`
  if (!open) {
    return html`<div class="json-line"><button class="json-fold" aria-expanded="false" onClick=${() => setOpen(true)}>${label}${first}<span class="json-more">${plural(all.length, kind === 'object' ? 'field' : 'item')}</span>${last}</button>${comma}</div>`
  }
  return html`
    <div class="json-line"><button class="json-fold" aria-expanded="true" onClick=${() => setOpen(false)}>${label}${first}</button></div>
    <div class="json-inner">
      ${all.slice(0, shown).map(([key, value], index) => html`
        <${Node} key=${key} name=${kind === 'object' ? key : undefined} text=${value} depth=${depth + 1} isLast=${index === all.length - 1} />`)}
      ${all.length > shown && html`<button class="quiet" onClick=${() => setShown(shown + ENTRIES_SHOWN)}>${plural(all.length - shown, 'more', 'more')}</button>`}
    </div>
    <div class="json-line">${last}${comma}</div>`
}

function Scalar({ name, text, kind }) {
  const [whole, setWhole] = useState(false)
  if (kind !== 'string') return html`<span class=${`json-${kind}`}>${text}</span>`
  if (typeof name === 'string' && NAMES_STREAM.test(name)) {
    const stream = JSON.parse(text)
    return html`<a class="json-string" href=${to('streams', stream)}>${text}</a>`
  }
  if (whole || text.length <= STRING_SHOWN) return html`<span class="json-string">${text}</span>`
  return html`<span class="json-string">${text.slice(0, STRING_SHOWN)}</span><button class="quiet" onClick=${() => setWhole(true)}>${plural(text.length - STRING_SHOWN, 'more character')}</button>`
}
