// Fields of the forms in dialogs, and what is typed into them.
import { html } from './dom.js'

/** A line of text; `list` are texts to choose from. One that `isNumber` says so while it is none. */
export const Text = ({ label, value, onChange, placeholder, isCode, isNumber, isDisabled, list }) => html`
  <label class="field">${label}
    <input aria-label=${label} class=${isCode ? 'code' : ''} value=${value} placeholder=${placeholder} disabled=${isDisabled} list=${list && `list-of-${label}`} spellcheck="false" autocomplete="off"
      inputmode=${isNumber && 'numeric'} aria-invalid=${isNumber && Number.isNaN(wholeOf(value))} onInput=${event => onChange(event.target.value)} />
    ${isNumber && Number.isNaN(wholeOf(value)) && html`<span class="fault" role="status">A whole number, such as 1000.</span>`}
    ${list && html`<datalist id=${`list-of-${label}`}>${list.map(one => html`<option key=${one} value=${one} />`)}</datalist>`}
  </label>`

/** One of several: `options` are [value, text] each. */
export const Choice = ({ label, value, options, onChange, isDisabled }) => html`
  <label class="field">${label}
    <select aria-label=${label} value=${value} disabled=${isDisabled} onChange=${event => onChange(event.target.value)}>${options.map(([id, text]) => html`<option key=${id} value=${id}>${text}</option>`)}</select>
  </label>`

export const Json = ({ label, value, onChange, rows = 5 }) => html`
  <label class="field is-tall">${label}
    <textarea aria-label=${label} class="code" rows=${rows} value=${value} spellcheck="false" onInput=${event => onChange(event.target.value)} /></label>`

export const Tick = ({ label, value, onChange }) => html`
  <label class="check"><input type="checkbox" checked=${value} onChange=${event => onChange(event.target.checked)} /> ${label}</label>`

/** Texts with commas between them. */
export const listOf = text => text.split(',').map(one => one.trim()).filter(Boolean)

/** A whole number, null where there is none, NaN where it is something else. */
export const wholeOf = text => (String(text).trim() === '' ? null : /^\d{1,15}$/.test(String(text).trim()) ? Number(text) : NaN)

/** Whether something in it is no number that should be one. */
export const hasNaN = value => Number.isNaN(value) || (typeof value === 'object' && value !== null && Object.values(value).some(hasNaN))

/** Why a text is no JSON; null if it is. */
export function jsonFault(text) {
  try {
    JSON.parse(text)
    return null
  } catch (error) {
    return error.message
  }
}

/** An object without what is empty. */
export const given = object => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null && value !== undefined && value !== '' && !(Array.isArray(value) && value.length === 0)))
