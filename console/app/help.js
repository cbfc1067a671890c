// The keys that the console knows.
import { html, useEffect, useRef } from './dom.js'

const KEYS = [
  ['/', 'Search in this view'], ['j  k', 'Next and previous message'], ['t', 'Follow, or stop following'],
  ['Esc', 'Close the message'], ['?', 'This list'],
]

export function HelpDialog({ isOpen, onClose, sections }) {
  const dialog = useRef(null)
  useEffect(() => {
    if (isOpen) dialog.current.showModal()
    else dialog.current.close()
  }, [isOpen])
  return html`
    <dialog ref=${dialog} onClose=${onClose} class="help">
      <h2>Keys</h2>
      <dl class="keys">
        ${sections.map(({ key, text }) => html`<dt key=${key}><kbd>g</kbd> <kbd>${key}</kbd></dt><dd>${text}</dd>`)}
        ${KEYS.map(([keys, text]) => html`<dt key=${keys}>${keys.split('  ').map(key => html`<kbd>${key}</kbd> `)}</dt><dd>${text}</dd>`)}
      </dl>
      <div class="confirm-actions"><button onClick=${onClose}>Close</button></div>
    </dialog>`
}
