// Parked messages: why each was given up, and what to do with it.
import { classes, html, useState } from './dom.js'
import { api, getText, query, send } from './api.js'
import { ErasedMark } from './erase.js'
import { ago, count, plural } from './format.js'
import { deliveryOf, pageOf } from './json_text.js'
import { MessageDetail } from './message_list.js'
import { useLook, useNow } from './poll.js'
import { to } from './router.js'
import { Table } from './table.js'
import { Empty, Failure, Loading } from './widgets.js'

const PARKED_MAX = 200

const keyOf = row => `${row.partition} ${row.position}`

export function Parked({ path, onAsk }) {
  const look = useLook(async signal => pageOf(await getText(query(`${path}/parked`, { limit: PARKED_MAX }), { signal }), 'parked', deliveryOf), [path], 2_000)
  const [picked, setPicked] = useState(new Set())
  const [open, setOpen] = useState(null)
  const now = useNow()
  const { value, error, again } = look
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} lines=${3} />`
  const rows = value.parked
  if (rows.length === 0) return html`<${Empty} title="Nothing is parked"><p>A message is parked when it was delivered as often as allowed, or when a consumer says so.</p><//>`
  const chosen = rows.filter(row => picked.has(keyOf(row)))
  const shown = rows.find(row => keyOf(row) === open)
  const pick = row => setPicked(picked => {
    const next = new Set(picked)
    if (!next.delete(keyOf(row))) next.add(keyOf(row))
    return next
  })
  const done = () => { setPicked(new Set()); again() }
  const replay = all => onAsk({
    title: all ? 'Replay all parked messages?' : `Replay ${plural(chosen.length, 'message')}?`,
    text: 'They are delivered again, with their deliveries counted anew.', action: 'Replay',
    request: { method: 'POST', path: `${path}/parked/replay`, body: all ? { all: true } : { positions: chosen.map(({ partition, position }) => ({ partition, position })) } }, done,
  })
  const remove = () => onAsk({
    title: `Delete ${plural(chosen.length, 'parked message')}?`,
    text: 'The subscription will never deliver them. The messages themselves stay in their streams.', action: 'Delete', danger: true,
    request: chosen.length === 1 ? { method: 'DELETE', path: path + api`/parked/${chosen[0].partition}/${chosen[0].position}` } : undefined,
    run: async () => {
      for (const { partition, position } of chosen) await send('DELETE', path + api`/parked/${partition}/${position}`)
      done()
    },
  })
  const isAll = chosen.length === rows.length
  return html`
    <div class="toolbar">
      <button onClick=${() => replay(false)} disabled=${chosen.length === 0}>Replay ${chosen.length ? count(chosen.length) : 'chosen'}</button>
      <button onClick=${remove} disabled=${chosen.length === 0}>Delete ${chosen.length ? count(chosen.length) : 'chosen'}</button>
      <span class="spacer" />
      <button onClick=${() => replay(true)}>Replay all</button>
    </div>
    <${Failure} error=${error} again=${again} />
    <div class=${classes('split', shown && 'has-detail')}>
      <div class="split-list"><${Table} label="Parked messages" rows=${rows} keyOf=${keyOf} isSelected=${row => keyOf(row) === open} columns=${[
        { label: 'Choose', kind: 'tick', cell: row => html`<input type="checkbox" aria-label=${`Choose ${row.position}`} checked=${picked.has(keyOf(row))} onChange=${() => pick(row)} />`,
          head: html`<input type="checkbox" aria-label="All" checked=${isAll} onChange=${() => setPicked(new Set(isAll ? [] : rows.map(keyOf)))} />` },
        { label: 'Type', cell: row => (row.message ? html`<button class="link" onClick=${() => setOpen(keyOf(row) === open ? null : keyOf(row))}>${row.message.type}</button>${row.message.erased && html` <${ErasedMark} erased=${row.message.erased} />`}`
          : html`<span class="muted" title="The message is not in its stream any more; replayed, it is passed over">trimmed</span>`) },
        { label: 'Partition', kind: 'num', cell: row => row.partition },
        { label: 'Position', kind: 'num', cell: row => count(row.position) },
        { label: 'Stream', tone: 'stream', cell: row => (row.message ? html`<a href=${to('streams', row.message.stream_name, { at: row.message.position })}>${row.message.stream_name}</a>` : '–') },
        { label: 'Reason', tone: 'reason', cell: row => html`<span title=${row.reason}>${row.reason}</span>` },
        { label: 'Deliveries', kind: 'num', cell: row => count(row.deliveries) },
        { label: 'Parked', kind: 'num', tone: 'muted', cell: row => ago(row.parked_at, now) },
      ]} /></div>
      ${shown?.message && html`<${MessageDetail} message=${shown.message} onErased=${again} onClose=${() => setOpen(null)} />`}
    </div>
    ${value.next && html`<p class="hint">The first ${count(PARKED_MAX)} are shown.</p>`}`
}
