// Dialogs that ask before something is done.
import { html, useEffect, useRef, useState } from './dom.js'
import { Failure } from './widgets.js'

/**
 * Open for as long as it is drawn. `run` is done at the press of its own button only, never at the press of a key in a
 * field; a failure is shown, and the dialog stays. Without `action` there is nothing to do but to close it.
 */
export function Dialog({ title, action, isDanger, isReady = true, run, onClose, children }) {
  const dialog = useRef(null)
  const [error, setError] = useState(null)
  const [busy, setBusy] = useState(false)
  useEffect(() => {
    const own = dialog.current
    own.showModal()
    return () => own.close()
  }, [])
  const press = async () => {
    setBusy(true)
    setError(null)
    try {
      await run()
    } catch (error) {
      setError(error)
    }
    setBusy(false)
  }
  return html`
    <dialog ref=${dialog} onClose=${onClose} class="confirm" aria-label=${title}>
      <h2>${title}</h2>
      ${children}
      <${Failure} error=${error} />
      <div class="confirm-actions">
        <button onClick=${onClose}>${action ? 'Cancel' : 'Close'}</button>
        ${action && html`<button class=${isDanger ? 'danger' : 'primary'} disabled=${busy || !isReady} onClick=${press}>${action}</button>`}
      </div>
    </dialog>`
}

/** Asks before something is done; `ask` is `{ title, text, action, danger, run }` or null. */
export function Confirm({ ask, onClose }) {
  if (!ask) return null
  const run = async () => { await ask.run(); onClose() }
  return html`<${Dialog} title=${ask.title} action=${ask.action} isDanger=${ask.danger} run=${run} onClose=${onClose}><p>${ask.text}</p><//>`
}
