// Messages as rows, and the one that is chosen as a whole.
import { classes, html, useEffect, useLayoutEffect, useRef, useState } from './dom.js'
import { EraseDialog, ErasedMark, ErasedPart } from './erase.js'
import { ago, clock, count, plural } from './format.js'
import { entries, kindOf } from './json_text.js'
import { JsonView } from './json_view.js'
import { amend, here, to } from './router.js'
import { useRights } from './session.js'
import { Copy } from './widgets.js'
import { useNow } from './poll.js'

/** Fields of the metadata that are looked at for what ties messages together. */
const TIES_LOOKED_AT = 100
/** Characters of a row's preview; the style sheet cuts what does not fit. */
const PREVIEW = 240

/** A row that says that messages were trimmed, as an event stream has told. */
export const trimmedRow = ({ count, first_position }) => ({ id: `trimmed before ${first_position}`, trimmed: count })

export const isMessage = row => row.trimmed === undefined

export const TrimmedLine = ({ number }) => html`<p class="list-line trimmed-line" role="note">${number === 1 ? '1 message was trimmed' : `${count(number)} messages were trimmed`}</p>`

/** Stands where messages came too fast to be shown; `number` is true if nobody has counted them. */
export const LeftLine = ({ number, link }) => html`
  <p class="list-line left-line" role="note">${number === true ? 'Messages not shown' : `${plural(number, 'message')} not shown`} <a href=${link}>Show</a></p>`

export const Sampling = () => html`<p class="hint" role="note">More messages come than can be read: the newest of each second are shown, and the others counted.</p>`

/** A click that selects text or follows a link chooses nothing. */
const isChoice = event => !event.target.closest('a') && String(getSelection()) === ''

/** `linkTo` gives the link that opens a row; `onSelect` chooses one without leaving the view. */
export function MessageList({ rows: all, position, selected, withStream, onSelect = at => amend({ at }), linkTo = at => here({ at }) }) {
  const body = useRef(null)
  const rows = all.filter(isMessage)
  // Of this very moment: keys may come faster than pictures.
  const current = useRef({})
  current.current = { rows, selected, onSelect }
  useLayoutEffect(() => {
    const onKey = event => {
      if (event.target.closest?.('input, textarea, select, dialog') || event.metaKey || event.ctrlKey || event.altKey) return
      const step = { j: 1, k: -1 }[event.key]
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
        <span role="columnheader">Data</span>
      </div>
      ${all.flatMap(row => !isMessage(row) ? html`<${TrimmedLine} key=${row.id} number=${row.trimmed} />` : [
        html`<${Row} key=${row.id} row=${row} position=${position} withStream=${withStream} isSelected=${row[position] === selected} onSelect=${onSelect} link=${linkTo(row[position])} />`,
        row.left && html`<${LeftLine} key=${`left ${row.id}`} number=${row.left} link=${here({ near: row[position], at: undefined })} />`,
      ])}
    </div>`
}

function Row({ row, position, withStream, isSelected, onSelect, link }) {
  return html`
    <div class="message-row" role="row" aria-selected=${isSelected}
      onClick=${event => { if (isChoice(event)) onSelect(isSelected ? undefined : row[position]) }}>
      <span role="gridcell" class="num"><a href=${link}>${count(row[position])}</a></span>
      <span role="gridcell" class="time">${clock(row.time)}</span>
      ${withStream && html`<span role="gridcell" class="name"><a href=${to('streams', row.stream_name)}>${row.stream_name}</a></span>`}
      <span role="gridcell" class="type" title=${row.type}>${row.type}</span>
      <span role="gridcell" class="preview">${row.erased ? html`<${ErasedMark} erased=${row.erased} /> ${row.erased.reason ?? ''}`
        : row.data === 'null' ? '–' : row.data.slice(0, PREVIEW)}</span>
    </div>`
}

const size = text => new Blob([text]).size

/** What a list knows of a row beside the message. */
const OF_LISTS = { left: undefined, partition_position: undefined }

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
        <${Part} title="Metadata" text=${message.metadata} />
        <${Follow} metadata=${message.metadata} />`}
      ${isErasing && html`<${EraseDialog} message=${message} onDone=${onErased} onClose=${() => setIsErasing(false)} />`}
    </aside>`
}

/** What ties messages together: fields of the metadata by such names. */
const TIES = /correlation|causation|trace|^request_?id/i
/** Of a W3C `traceparent`: the trace. */
const TRACE = /^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/

/** Links to all messages with the same correlation or trace. */
function Follow({ metadata }) {
  if (metadata[0] !== '{') return null
  const ties = entries(metadata, TIES_LOOKED_AT).filter(([key, text]) => TIES.test(key) && kindOf(text) === 'string' && /^[A-Za-z_]\w*$/.test(key))
  if (ties.length === 0) return null
  return html`
    <nav class="part" aria-label="Messages that belong together">
      <h3>Follow</h3>
      <ul>${ties.map(([key, text]) => {
        const trace = TRACE.exec(JSON.parse(text))?.[1]
        const filter = trace ? `has(metadata.${key}) && metadata.${key}.contains("${trace}")` : `has(metadata.${key}) && metadata.${key} == ${text}`
        return html`<li key=${key}><a href=${to('log', { filter })}>${key}</a> <span class="code muted">${trace ?? text}</span></li>`
      })}</ul>
    </nav>`
}

function Part({ title, text }) {
  if (text === 'null') return html`<p class="part-none">No ${title.toLowerCase()}</p>`
  return html`
    <section class="part">
      <h3>${title} <small>${count(size(text))} B</small><${Copy} text=${text} /></h3>
      <${JsonView} key=${text} text=${text} />
    </section>`
}
