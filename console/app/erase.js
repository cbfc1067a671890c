// Erasing a message: what goes and what stays is shown first.
import { html, useState } from './dom.js'
import { api, getText, query } from './api.js'
import { Dialog } from './dialog.js'
import { ago, clock, count } from './format.js'
import { messageOf } from './json_text.js'
import { useNow } from './poll.js'

/** What the service takes. */
const REASON_LENGTH_MAX = 1_000

const size = text => new Blob([text]).size
const sizeText = (name, text) => (text === 'null' ? `no ${name}` : `${name}, ${count(size(text))} B`)

/** `onDone` gets the message as it is afterwards. */
export function EraseDialog({ message, onDone, onClose }) {
  const [reason, setReason] = useState('')
  const request = { method: 'DELETE', path: query(api`/v1/messages/${message.id}`, { reason }) }
  const run = async () => {
    onDone(messageOf(await getText(request.path, request)))
    onClose()
  }
  return html`
    <${Dialog} title="Erase this message?" action="Erase its data" isDanger=${true} request=${request} run=${run} onClose=${onClose}>
      <dl class="facts">
        <dt>Goes</dt><dd>${sizeText('data', message.data)}; ${sizeText('metadata', message.metadata)}</dd>
        <dt>Stays</dt><dd>position ${count(message.position)} of <span class="name">${message.stream_name}</span>, global ${count(message.global_position)}; its type ${message.type}, its time and its id</dd>
      </dl>
      <label class="field">Reason
        <input value=${reason} maxlength=${REASON_LENGTH_MAX} placeholder="Request 4711" autocomplete="off" onInput=${event => setReason(event.target.value)} />
      </label>
      <p class="hint">The reason is kept with the message. What was erased does not come back; copies that others have made, exports and backups keep it.</p>
    <//>`
}

/** What is shown in place of an erased message's data. */
export function ErasedPart({ erased }) {
  const now = useNow()
  return html`
    <section class="part erased">
      <h3>Erased</h3>
      <dl class="facts">
        <dt>When</dt><dd><time datetime=${erased.at} title=${erased.at}>${clock(erased.at)}</time> <span class="muted">${ago(erased.at, now)}</span></dd>
        <dt>Why</dt><dd>${erased.reason ?? html`<span class="muted">no reason was given</span>`}</dd>
      </dl>
      <p class="hint">Its data and metadata are gone. Its place, id, type and time stay.</p>
    </section>`
}

/** The same in a list. */
export const ErasedMark = ({ erased }) => html`<span class="badge" title=${`Erased ${erased.at}${erased.reason ? `: ${erased.reason}` : ''}`}>Erased</span>`
