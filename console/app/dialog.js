// Dialogs that ask before something is done.
import { html, useEffect, useRef, useState } from './dom.js'
import { perform } from './api.js'
import { hasNaN } from './fields.js'
import { CopyCurl, Failure } from './widgets.js'

/** How long nothing is typed before a preview is made. */
const PREVIEW_PAUSE_MS = 300

/**
 * `request` is what is sent: it can be copied as curl, and is sent unless there is another `run`; `onDone` gets the answer.
 * Open for as long as it is drawn. `run` is done at the press of its own button only, never at the press of a key in a
 * field, and not while a number in the body is none; a failure is shown, and the dialog stays. Without `action` there is nothing to do but to close it.
 */
export function Dialog({ title, action, isDanger, isReady = true, request, run, onDone, onClose, children }) {
  const dialog = useRef(null)
  const [error, setError] = useState(null)
  const [busy, setBusy] = useState(false)
  const isComplete = isReady && !hasNaN(request?.body)
  useEffect(() => {
    const own = dialog.current
    own.showModal()
    return () => own.close()
  }, [])
  const press = async () => {
    setBusy(true)
    setError(null)
    try {
      if (run) await run()
      else onDone(await perform(request))
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
        ${request && isComplete && html`<${CopyCurl} request=${request} /><span class="spacer" />`}
        <button onClick=${onClose}>${action ? 'Cancel' : 'Close'}</button>
        ${action && html`<button class=${isDanger ? 'danger' : 'primary'} disabled=${busy || !isComplete} onClick=${press}>${action}</button>`}
      </div>
    </dialog>`
}

/** Asks before something is done; `ask` is `{ title, text, action, danger, request, run, done }` or null. */
export function Confirm({ ask, onClose }) {
  if (!ask) return null
  const run = async () => {
    await (ask.run ? ask.run() : perform(ask.request))
    onClose()
    ask.done?.()
  }
  return html`<${Dialog} title=${ask.title} action=${ask.action} isDanger=${ask.danger} request=${ask.request} run=${run} onClose=${onClose}><p>${ask.text}</p><//>`
}

/**
 * What would happen, looked up a moment after the last change of what is typed: `{ preview, error }`, both empty meanwhile.
 * `look(signal)` is null while nothing can be looked up.
 */
export function usePreview(look, dependencies) {
  const [state, setState] = useState({})
  useEffect(() => {
    setState({})
    if (!look) return
    const controller = new AbortController()
    const timer = setTimeout(() => look(controller.signal).then(
      preview => { if (!controller.signal.aborted) setState({ preview }) },
      error => { if (!controller.signal.aborted) setState({ error }) },
    ), PREVIEW_PAUSE_MS)
    return () => { clearTimeout(timer); controller.abort() }
  }, dependencies)
  return state
}

/** Where a preview is shown; `waits` is the text while there is none. */
export const PreviewBox = ({ look: { preview, error }, waits, children }) => html`
  <div class="preview-box" aria-live="polite">${error ? html`<${Failure} error=${error} />` : preview === undefined ? html`<p class="muted">${waits}</p>` : children(preview)}</div>`
