// The messages of a stream, a category or the whole log: filter, list, detail.
import { classes, html, useEffect, useMemo, useRef, useState } from './dom.js'
import { getText, api, query as apiQuery } from './api.js'
import { messageOf } from './json_text.js'
import { isMessage, MessageDetail, MessageList, Sampling, TrimmedLine } from './message_list.js'
import { containing, firstAt } from './logs.js'
import { amend, here, useRoute } from './router.js'
import { useLog } from './use_log.js'
import { CopyCurl, Empty, Failure, LiveSwitch, Loading, Search } from './widgets.js'
import { count, plural } from './format.js'

const number = text => (text !== null && /^\d+$/.test(text) ? Number(text) : null)

/** `children` is shown where there is no message at all. `trimmed`: how many messages were before the first. `onNewest` is told the position of the first row, -1 without one. */
export function LogView({ log: whole, withStream, children, onVersion, onNewest, trimmed = 0 }) {
  const { query, visit } = useRoute()
  const at = number(query.get('at'))
  // Where the list begins if that is no message that is chosen.
  const near = number(query.get('near'))
  const [isLive, setIsLive] = useState(at === null && near === null)
  const types = query.get('types') ?? ''
  const expression = query.get('filter') ?? ''
  const filter = useMemo(() => ({ types: types || undefined, filter: expression || undefined }), [types, expression])
  const text = query.get('text') ?? ''
  const log = useMemo(() => (text ? containing(whole, text) : whole), [whole, text])
  const found = useLog(log, { filter, at: near ?? at, isLive })
  useEffect(() => { if (found.version !== undefined) onVersion?.(found.version) }, [found.version])
  const newest = found.rows?.find(isMessage)?.[log.position] ?? -1
  useEffect(() => { onNewest?.(newest) }, [newest])
  const isFiltered = Boolean(types || expression || text)
  // What went while somebody looked is still shown.
  const missing = Math.min(trimmed, found.rows?.findLast(isMessage)?.position ?? 0)
  const chosen = found.rows?.find(row => row[log.position] === at)

  // A link that was followed while the view was open leads to its place, as it does from elsewhere.
  const seen = useRef(visit)
  useEffect(() => {
    if (seen.current === visit) return
    seen.current = visit
    const wanted = near ?? (chosen ? undefined : at)
    if (wanted === undefined || (wanted === null && found.isAtEnd)) return
    setIsLive(wanted === null)
    found.load(wanted)
  }, [visit])

  const setLive = on => {
    setIsLive(on)
    // Where the list began at a position, it begins at the end again.
    if (on && !found.isAtEnd) { amend({ at: undefined, near: undefined }); found.load(null) }
  }
  return html`
    <div class="toolbar">
      <${Search} label="Text" title="A text in the data or metadata, in whatever case" placeholder="Text in the data" value=${text} onChange=${value => amend({ text: value.trim() })} delay=${700} />
      ${log.hasFilter === false ? '' : html`
        <${Search} label="Types" title="Message types, separated by commas: OrderPlaced,OrderShipped" placeholder="Types" value=${types} onChange=${value => amend({ types: value.replace(/\s+/g, '') })} delay=${500} />
        <${Search} label="Filter" title="A CEL expression, such as data.quantity > 10" placeholder="Filter (CEL)" value=${expression} onChange=${value => amend({ filter: value.trim() })} delay=${900} isCode=${true} />`}
      ${log.path && html`<${JumpToTime} log=${log} />`}
      ${log.path && html`<${CopyCurl} request=${{ path: apiQuery(log.path, { ...filter, direction: 'backward', from: near ?? at }) }} />`}
      <${LiveSwitch} state=${found.state} on=${isLive && found.isAtEnd !== false} onChange=${setLive} />
    </div>
    <${Failure} error=${found.error} again=${found.again} />
    ${found.rows && !found.busy && !found.error && html`<${Place} found=${found} log=${log} isFiltered=${isFiltered} />`}
    ${found.state === 'sampling' && html`<${Sampling} />`}
    <div class=${classes('split', chosen && 'has-detail')}>
      <div class="split-list">
        ${found.rows === null ? html`<${Loading} lines=${12} />`
          : found.rows.length === 0 && !found.error
            ? isFiltered || found.hasOlder
              ? html`<${Empty} title=${found.hasOlder ? 'No match yet' : 'No message passes the filter'}>${found.hasOlder && html`<p>${text ? `The newest ${plural(found.looked, 'message')} ${found.looked === 1 ? 'was' : 'were'} searched.` : 'The newest messages were searched.'}</p>`}${isFiltered && html`<p><a href=${here({ text: undefined, types: undefined, filter: undefined })}>Without the filter</a></p>`}<//>`
              : children
            : html`<${MessageList} rows=${found.rows} position=${log.position} selected=${at} withStream=${withStream} />`}
        ${missing > 0 && !found.hasOlder && !isFiltered && html`<${TrimmedLine} number=${missing} />`}
        ${found.hasOlder && found.rows && html`
          <div class="more"><button onClick=${found.older} disabled=${found.busy}>${found.rows.length === 0 ? 'Look further back' : 'Older'}</button>
          <span class="muted">${plural(found.rows.filter(isMessage).length, 'message')} shown</span></div>`}
      </div>
      ${chosen && html`<${MessageDetail} message=${chosen} onErased=${found.replace} />`}
    </div>`
}

/** Leads to the first message at a time or later. */
function JumpToTime({ log }) {
  const [error, setError] = useState(null)
  // Each part of the date that is typed asks anew; who has left the view goes nowhere.
  const asked = useRef(new AbortController())
  useEffect(() => () => asked.current.abort(), [])
  const jump = async event => {
    const time = new Date(event.target.value)
    if (Number.isNaN(time.getTime())) return
    asked.current.abort()
    const { signal } = asked.current = new AbortController()
    try {
      const at = await firstAt(log, time.toISOString(), signal)
      setError(at === null ? new Error('No message is so late.') : null)
      if (at !== null) location.hash = here({ at, near: undefined })
    } catch (error) {
      if (!signal.aborted) setError(error)
    }
  }
  return html`<input class="jump" type="datetime-local" step="1" aria-label="Jump to a time" title=${error?.message ?? 'Jump to the first message at a time, here'} onChange=${jump} />
    ${error && html`<span class="hint" role="status">${error.message}</span>`}`
}

/** Says where the list begins, if that is not where it was asked to. */
function Place({ found: { around, end, rows }, log, isFiltered }) {
  if (around === null || rows.some(row => row[log.position] === around)) return null
  if (around > end) return html`<p class="hint" role="note">${count(around)} is beyond the end${end >= 0 ? html`, which is at ${count(end)}` : ''}.</p>`
  return html`<p class="hint" role="note">No message ${isFiltered ? 'that passes the filter ' : ''}is at ${count(around)}; its neighbours are shown.</p>`
}

/** A message by its id: leads to its place in its stream. */
export async function placeOf(id, signal) {
  return messageOf(await getText(api`/v1/messages/${id}`, { signal }))
}
