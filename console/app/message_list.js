// Messages as rows, and the one that is chosen as a whole.
import { classes, html, useEffect, useLayoutEffect, useRef, useState } from './dom.js'
import { EraseDialog, ErasedMark, ErasedPart } from './erase.js'
import { ago, clock, count } from './format.js'
import { JsonView } from './json_view.js'
import { amend, to } from './router.js'
import { useRights } from './session.js'
import { Copy } from './widgets.js'
import { useNow } from './poll.js'

/** Characters of a row's preview; the style sheet cuts what does not fit. */
const PREVIEW = 240

/** A row that says that messages were trimmed, as an event stream has told. */
export const trimmedRow = ({ count, first_position }) => ({ id: `trimmed before ${first_position}`, trimmed: count })

export const isMessage = row => row.trimmed === undefined

export const TrimmedLine = ({ number }) => html`<p class="trimmed-line" role="note">${number === 1 ? '1 message was trimmed' : `${count(number)} messages were trimmed`}</p>`

export function MessageList({ rows: all, position, selected, withStream, onSelect = at => amend({ at }) }) {
  const body = useRef(null)
  const rows = all.filter(isMessage)
  // Of this very moment: keys may come faster than pictures.
  const current = useRef({})
  current.current = { rows, selected, onSelect }
  useLayoutEffect(() => {
    const onKey = event => {
      if (event.target.closest?.('input, textarea, select, dialog') || event.metaKey || event.ctrlKey || event.altKey) return
      const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key]
      const { rows, selected, onSelect } = current.current
      if (!step || rows.length === 0) return
      event.preventDefault()
      const at = rows.findIndex(row => row[position] === selected)
      const next = rows[at < 0 ? 0 : Math.min(Math.max(at + step, 0), rows.length - 1)]
      current.current.selected = next[position]
      onSelect(next[position])
    }
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  }, [position])
  useEffect(() => {
    body.current?.querySelector('[aria-selected=true]')?.scrollIntoView({ block: 'nearest' })
  }, [selected])
  return html`
    <div class=${classes('messages', withStream && 'with-stream')} role="grid" aria-label="Messages, newest first" ref=${body}>
      <div class="messages-head" role="row">
        <span role="columnheader" class="num">${position === 'global_position' ? 'Global' : 'Position'}</span>
        <span role="columnheader">Time</span>
        ${withStream && html`<span role="columnheader">Stream</span>`}
        <span role="columnheader">Type</span>
        <span role="columnheader" class="wide-only">Data</span>
      </div>
      ${all.map(row => !isMessage(row) ? html`<${TrimmedLine} key=${row.id} number=${row.trimmed} />` : html`<${Row} key=${row.id} row=${row} position=${position} withStream=${withStream} isSelected=${row[position] === selected} onSelect=${onSelect} />`)}
    </div>`
}

function Row({ row, position, withStream, isSelected, onSelect }) {
  return html`
    <button class=${classes('message-row', row.isAfterCut && 'is-after-cut')} role="row" aria-selected=${isSelected}
      onClick=${() => onSelect(isSelected ? undefined : row[position])}>
      <span role="gridcell" class="num">${count(row[position])}</span>
      <span role="gridcell" class="time">${clock(row.time)}</span>
      ${withStream && html`<span role="gridcell" class="name">${row.stream_name}</span>`}
      <span role="gridcell" class="type">${row.type}${row.erased && html`<span class="narrow-only"> <${ErasedMark} erased=${row.erased} /></span>`}</span>
      <span role="gridcell" class="preview wide-only">${row.erased ? html`<${ErasedMark} erased=${row.erased} /> ${row.erased.reason ?? ''}`
        : row.data === 'null' ? '–' : row.data.slice(0, PREVIEW)}</span>
    </button>`
}

const size = text => new Blob([text]).size

/** What a list knows of a row beside the message. */
const OF_LISTS = { isAfterCut: undefined, key_position: undefined }

/** A message whole. `onErased` gets the message as it is once it has been erased here. */
export function MessageDetail({ message, onErased, onClose = () => amend({ at: undefined }) }) {
  const now = useNow()
  const [isErasing, setIsErasing] = useState(false)
  const rights = useRights()
  const whole = JSON.stringify({ ...message, ...OF_LISTS, data: 0, metadata: 0 })
    .replace('"data":0', () => `"data":${message.data}`).replace('"metadata":0', () => `"metadata":${message.metadata}`)
  return html`
    <aside class="detail" aria-label="Message">
      <header>
        <h2>${message.type}</h2>
        <div class="detail-actions">
          <${Copy} text=${whole} label="Copy JSON" />
          ${!message.erased && rights.admin && html`<button class="quiet" onClick=${() => setIsErasing(true)}>Erase…</button>`}
          <button class="quiet" onClick=${onClose} data-key="Escape" aria-label="Close" title="Close (Esc)">✕</button>
        </div>
      </header>
      <dl class="facts">
        <dt>Stream</dt><dd><a class="name" href=${to('streams', message.stream_name, { at: message.position })}>${message.stream_name}</a></dd>
        <dt>Position</dt><dd>${count(message.position)}</dd>
        <dt>Global</dt><dd><a href=${to('log', { at: message.global_position })}>${count(message.global_position)}</a></dd>
        <dt>Time</dt><dd><time datetime=${message.time} title=${message.time}>${clock(message.time)}</time> <span class="muted">${ago(message.time, now)}</span></dd>
        <dt>Id</dt><dd><span class="code">${message.id}</span></dd>
      </dl>
      ${message.erased ? html`<${ErasedPart} erased=${message.erased} />` : html`
        <${Part} title="Data" text=${message.data} />
        <${Part} title="Metadata" text=${message.metadata} />`}
      ${isErasing && html`<${EraseDialog} message=${message} onDone=${onErased} onClose=${() => setIsErasing(false)} />`}
    </aside>`
}

function Part({ title, text }) {
  if (text === 'null') return html`<p class="part-none">No ${title.toLowerCase()}</p>`
  return html`
    <section class="part">
      <h3>${title} <small>${count(size(text))} B</small><${Copy} text=${text} /></h3>
      <${JsonView} key=${text} text=${text} />
    </section>`
}
