// The partitions of an aggregated stream as columns: the newest on top, filling as messages are projected.
import { classes, html, useEffect, useRef, useState } from './dom.js'
import { api, getText, Problem, query } from './api.js'
import { Spark } from './chart.js'
import { ErasedMark } from './erase.js'
import { ago, clock, count, short } from './format.js'
import { deliveryOf, pageOf } from './json_text.js'
import { useFollow } from './live.js'
import { MessageDetail, Sampling, TrimmedLine } from './message_list.js'
import { useNow } from './poll.js'
import { amend, to, useRoute } from './router.js'
import { LiveSwitch } from './widgets.js'

/** Columns at once, and messages kept in each. */
const COLUMNS_MAX = 8
const CELLS_MAX = 30
/** Pages that reading a partition's end may take: the status that says where it is may be a second old. */
const PAGES_MAX = 3
const PAGE = 200
/** Rates that are kept, one for each look at the status. */
const RATES_MAX = 60

/** `isHeld`: nothing comes, because the aggregated stream is paused or has stopped. */
export function Columns({ name, partitions, isHeld }) {
  const { query: route } = useRoute()
  const [isLive, setIsLive] = useState(true)
  const first = Math.min(Number(route.get('from')) || 0, Math.max(partitions.length - 1, 0))
  const shown = partitions.slice(first, first + COLUMNS_MAX)
  const numbers = shown.map(one => one.partition)
  const key = numbers.join()
  const [cells, setCells] = useState(null)
  const [chosen, setChosen] = useState(null)
  const [trimmed, setTrimmed] = useState(0)
  const [attempt, setAttempt] = useState(0)
  const base = api`/v1/aggregated-streams/${name}`

  const path = `${base}/events?${numbers.map(number => `partition=${number}`).join('&')}`
  const state = useFollow(isLive ? path : null, {
    names: ['message', 'trimmed'],
    itemOf: (text, type) => (type === 'trimmed' ? { trimmed: JSON.parse(text).count } : deliveryOf(text)),
    onEvents: items => {
      setTrimmed(sum => items.reduce((sum, item) => sum + (item.trimmed ?? 0), sum))
      setCells(now => merge(now ?? {}, byPartition(items.filter(item => item.message))))
    },
    onLost: () => setAttempt(attempt => attempt + 1),
  }, [key, attempt])

  // The ends are read once it follows, so no message falls between them; what comes twice has the same position.
  const isFollowing = state === 'live' || state === 'sampling' || !isLive
  useEffect(() => { setCells(null); setTrimmed(0) }, [name, key, attempt])
  useEffect(() => {
    if (!isFollowing) return
    const controller = new AbortController()
    Promise.all(shown.map(one => readEnd(base, one, controller.signal))).then(
      ends => setCells(now => merge(now ?? {}, Object.fromEntries(numbers.map((number, at) => [number, ends[at]])))),
      () => { if (!controller.signal.aborted) setCells(now => now ?? {}) })
    return () => controller.abort()
  }, [name, key, attempt, isFollowing])

  const onErased = message => {
    setChosen(message)
    setCells(now => Object.fromEntries(Object.entries(now).map(([partition, items]) =>
      [partition, items.map(item => (item.message.id === message.id ? { ...item, message } : item))])))
  }

  return html`
    <div class="toolbar">
      ${partitions.length > COLUMNS_MAX && html`
        <nav class="pager" aria-label="Partitions">
          ${Array.from({ length: Math.ceil(partitions.length / COLUMNS_MAX) }, (_, page) => html`
            <button key=${page} aria-pressed=${first === page * COLUMNS_MAX} onClick=${() => amend({ from: page * COLUMNS_MAX || undefined })}>
              ${partitions[page * COLUMNS_MAX].partition}–${partitions[Math.min((page + 1) * COLUMNS_MAX, partitions.length) - 1].partition}</button>`)}
        </nav>`}
      <span class="spacer" />
      ${!isHeld && html`<${LiveSwitch} state=${state} on=${isLive} onChange=${setIsLive} />`}
    </div>
    ${state === 'sampling' && html`<${Sampling} />`}
    <div class=${classes('split', chosen && 'has-detail')}>
      <div class="split-list">
        ${trimmed > 0 && html`<${TrimmedLine} number=${trimmed} />`}
        <div class="partition-columns" style=${`--columns:${shown.length}`}>
          ${shown.map(one => html`<${Column} key=${one.partition} name=${name} status=${one} cells=${cells?.[one.partition]} chosen=${chosen} onChoose=${setChosen} />`)}
        </div>
      </div>
      ${chosen && html`<${MessageDetail} message=${chosen} onErased=${onErased} onClose=${() => setChosen(null)} />`}
    </div>`
}

/** The newest messages of a partition, however many there are. */
async function readEnd(base, { partition, last_position }, signal) {
  let found = []
  let from = Math.max(last_position - CELLS_MAX + 1, 0)
  for (let pages = 0; pages < PAGES_MAX; pages++) {
    let page
    try {
      page = pageOf(await getText(query(`${base}/partitions/${partition}/messages`, { from, limit: PAGE }), { signal }), 'messages', deliveryOf)
    } catch (error) {
      if (!(error instanceof Problem) || error.slug !== 'position-trimmed') throw error
      from = error.document.first_position
      continue
    }
    found = found.concat(page.messages)
    if (page.at_end) break
    from = page.next
  }
  return found.slice(-CELLS_MAX).reverse()
}

function byPartition(items) {
  const groups = {}
  for (const item of items) (groups[item.partition] ??= []).unshift(item)
  return groups
}

/** Newest first, without repeats. */
function merge(now, newer) {
  const merged = { ...now }
  for (const [partition, items] of Object.entries(newer)) {
    const all = new Map([...(now[partition] ?? []), ...items].map(item => [item.position, item]))
    merged[partition] = [...all.values()].sort((a, b) => b.position - a.position).slice(0, CELLS_MAX)
  }
  return merged
}

function Column({ name, status, cells, chosen, onChoose }) {
  const now = useNow()
  const rates = useRates(status.message_count)
  const newest = useRef(null)
  const before = newest.current
  useEffect(() => { if (cells?.length) newest.current = cells[0].position }, [cells])
  const link = near => to('aggregated', name, 'partitions', status.partition, { near })
  return html`
    <section class="partition" aria-label=${`Partition ${status.partition}`}>
      <header>
        <h3><a href=${link()} title="All messages of this partition"><small>Partition</small> ${status.partition}</a></h3>
        <span class="num">${short(status.message_count)}</span>
        <${Spark} values=${rates} label="New messages" width=${64} height=${18} />
        <span class="muted">${status.last_time ? ago(status.last_time, now) : ''}</span>
      </header>
      <ol>
        ${(cells ?? []).flatMap((cell, at) => [
          html`<${Cell} key=${cell.position} cell=${cell} isNew=${before !== null && cell.position > before} isChosen=${chosen?.id === cell.message.id} onChoose=${onChoose} />`,
          at + 1 < cells.length && cells[at + 1].position < cell.position - 1 && html`
            <li key=${`left ${cell.position}`} class="left-line">${count(cell.position - cells[at + 1].position - 1)} not shown <a href=${link(cell.position)}>Show</a></li>`,
        ])}
        ${cells && cells.length === 0 && html`<li class="muted">Empty</li>`}
      </ol>
    </section>`
}

const Cell = ({ cell: { position, message }, isNew, isChosen, onChoose }) => html`
  <li>
    <button class=${classes('cell', isNew && 'is-new')} aria-pressed=${isChosen}
      title=${`${message.type} in ${message.stream_name} at ${clock(message.time)}`} onClick=${() => onChoose(isChosen ? null : message)}>
      <span class="type">${message.type}</span>
      <span class="cell-place"><span class="name">${message.stream_name}</span><b class="num">${count(position)}</b></span>
      ${message.erased && html`<${ErasedMark} erased=${message.erased} />`}
    </button>
  </li>`

/** How much was added between two looks. */
function useRates(total) {
  const [rates, setRates] = useState([])
  const last = useRef(total)
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.hidden) return
      const added = current.current - last.current
      last.current = current.current
      setRates(rates => [...rates, Math.max(added, 0)].slice(-RATES_MAX))
    }, 1_000)
    return () => clearInterval(timer)
  }, [])
  const current = useRef(total)
  current.current = total
  return rates
}
