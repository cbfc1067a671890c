// The messages of a stream, a category or the whole log: filter, list, detail.
import { classes, html, useEffect, useMemo, useState } from './dom.js'
import { getText, api } from './api.js'
import { messageOf } from './json_text.js'
import { isMessage, MessageDetail, MessageList, TrimmedLine } from './message_list.js'
import { amend, useRoute } from './router.js'
import { useLog } from './use_log.js'
import { Empty, Failure, LiveSwitch, Loading, Search } from './widgets.js'
import { plural } from './format.js'

const number = text => (text !== null && /^\d+$/.test(text) ? Number(text) : null)

/** `children` is shown where there is no message at all. `trimmed`: how many messages were before the first. */
export function LogView({ log, withStream, children, onVersion, trimmed = 0 }) {
  const { query } = useRoute()
  const at = number(query.get('at'))
  const [isLive, setIsLive] = useState(at === null)
  const types = query.get('types') ?? ''
  const expression = query.get('filter') ?? ''
  const filter = useMemo(() => ({ types: types || undefined, filter: expression || undefined }), [types, expression])
  const found = useLog(log, { filter, at, isLive })
  useEffect(() => { if (found.version !== undefined) onVersion?.(found.version) }, [found.version])
  const isFiltered = Boolean(types || expression)
  // What went while somebody looked is still shown.
  const missing = Math.min(trimmed, found.rows?.findLast(isMessage)?.position ?? 0)
  const chosen = found.rows?.find(row => row[log.position] === at)

  const setLive = on => {
    setIsLive(on)
    // Where the list began at a position, it begins at the end again.
    if (on && !found.isAtEnd) { amend({ at: undefined }); found.again() }
  }
  return html`
    <div class="toolbar">
      ${log.hasFilter === false ? html`<span class="spacer" />` : html`
        <${Search} label="Types" title="Message types, separated by commas: Opened,Closed" placeholder="Types" value=${types} onChange=${value => amend({ types: value.replace(/\s+/g, '') })} delay=${500} />
        <${Search} label="Filter" title="A CEL expression, such as data.amount > 100" placeholder="Filter (CEL)" value=${expression} onChange=${value => amend({ filter: value.trim() })} delay=${900} isCode=${true} />`}
      <${LiveSwitch} state=${found.state} on=${isLive && found.isAtEnd !== false} onChange=${setLive} />
    </div>
    <${Failure} error=${found.error} again=${found.again} />
    <div class=${classes('split', chosen && 'has-detail')}>
      <div class="split-list">
        ${found.rows === null ? html`<${Loading} lines=${12} />`
          : found.rows.length === 0 && !found.error
            ? isFiltered || found.hasOlder
              ? html`<${Empty} title=${found.hasOlder ? 'No match yet' : 'No message passes the filter'}>${found.hasOlder && html`<p>The newest messages were searched.</p>`}<//>`
              : children
            : html`<${MessageList} rows=${found.rows} position=${log.position} selected=${at} withStream=${withStream} />`}
        ${missing > 0 && !found.hasOlder && !isFiltered && html`<${TrimmedLine} number=${missing} />`}
        ${found.state === 'sampling' && html`<p class="hint">More messages come than can be read: the newest of each second are shown.</p>`}
        ${found.hasOlder && found.rows && html`
          <div class="more"><button onClick=${found.older} disabled=${found.busy}>${found.rows.length === 0 ? 'Look further back' : 'Older'}</button>
          <span class="muted">${plural(found.rows.filter(isMessage).length, 'message')} shown</span></div>`}
      </div>
      ${chosen && html`<${MessageDetail} message=${chosen} onErased=${found.replace} />`}
    </div>`
}

/** A message by its id: leads to its place in its stream. */
export async function placeOf(id, signal) {
  return messageOf(await getText(api`/v1/messages/${id}`, { signal }))
}
