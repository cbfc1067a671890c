// The partitions of an aggregated stream as columns: the newest on top, filling as messages are projected.
import { classes, html, useEffect, useRef, useState } from './dom.js'
import { api, getText, Problem, query } from './api.js'
import { Spark } from './chart.js'
import { ErasedMark } from './erase.js'
import { ago, clock, count, short } from './format.js'
import { deliveryOf, pageOf } from './json_text.js'
import { useFollow } from './live.js'
import { MessageDetail, TrimmedLine } from './message_list.js'
import { useNow } from './poll.js'
import { amend, useRoute } from './router.js'
import { LiveSwitch } from './widgets.js'

/** Columns at once, and messages kept in each. */
const COLUMNS_MAX = 8
const CELLS_MAX = 30
/** Pages that reading a partition's end may take: the status that says where it is may be a second old. */
const PAGES_MAX = 3
const PAGE = 200
/** Rates that are kept, one for each look at the status. */
const RATES_MAX = 60

export function Columns({ name, partitions }) {
  const { query: route } = useRoute()
  const [isLive, setIsLive] = useState(true)
  const first = Math.min(Number(route.get('from')) || 0, Math.max(partitions.length - 1, 0))
  const shown = partitions.slice(first, first + COLUMNS_MAX)
  const numbers = shown.map(one => one.partition)
  const key = numbers.join()
  const [cells, setCells] = useState(null)
  const [chosen, setChosen] = useState(null)
  const [trimmed, setTrimmed] = useState(0)
  const base = api`/v1/aggregated-streams/${name}`

  const path = `${base}/events?${numbers.map(number => `partition=${number}`).join('&')}`
  const state = useFollow(isLive ? path : null, {
    names: ['message', 'trimmed'],
    itemOf: (text, type) => (type === 'trimmed' ? { trimmed: JSON.parse(text).count } : deliveryOf(text)),
    onEvents: items => {
      setTrimmed(sum => items.reduce((sum, item) => sum + (item.trimmed ?? 0), sum))
      setCells(now => merge(now ?? {}, byPartition(items.filter(item => item.message))))
    },
  }, [key])

  // The ends are read once it follows, so no message falls between them; what comes twice has the same position.
  const isFollowing = state === 'live' || state === 'sampling' || !isLive
  useEffect(() => { setCells(null); setTrimmed(0) }, [name, key])
  useEffect(() => {
    if (!isFollowing) return
    const controller = new AbortController()
    Promise.all(shown.map(one => readEnd(base, one, controller.signal))).then(
      ends => setCells(now => merge(now ?? {}, Object.fromEntries(numbers.map((number, at) => [number, ends[at]])))),
      () => { if (!controller.signal.aborted) setCells(now => now ?? {}) })
    return () => controller.abort()
  }, [name, key, isFollowing])

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
      <${LiveSwitch} state=${state} on=${isLive} onChange=${setIsLive} />
    </div>
    <div class=${classes('split', chosen && 'has-detail')}>
      <div class="split-list">
        ${trimmed > 0 && html`<${TrimmedLine} number=${trimmed} />`}
        <div class="partition-columns" style=${`--columns:${shown.length}`}>
          ${shown.map(one => html`<${Column} key=${one.partition} status=${one} cells=${cells?.[one.partition]} chosen=${chosen} onChoose=${setChosen} />`)}
        </div>
        ${state === 'sampling' && html`<p class="hint">More messages come than can be read: the newest of each second are shown.</p>`}
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

function Column({ status, cells, chosen, onChoose }) {
  const now = useNow()
  const rates = useRates(status.message_count)
  const newest = useRef(null)
  const before = newest.current
  useEffect(() => { if (cells?.length) newest.current = cells[0].position }, [cells])
  return html`
    <section class="partition" aria-label=${`Partition ${status.partition}`}>
      <header>
        <h3><small>Partition</small> ${status.partition}</h3>
        <span class="num">${short(status.message_count)}</span>
        <${Spark} values=${rates} label="New messages" width=${64} height=${18} />
        <span class="muted">${status.last_time ? ago(status.last_time, now) : ''}</span>
      </header>
      <ol>
        ${(cells ?? []).map((cell, at) => html`
          <li key=${cell.position} class=${at + 1 < cells.length && cells[at + 1].position < cell.position - 1 ? 'is-after-cut' : ''}>
            <button class=${classes('cell', before !== null && cell.position > before && 'is-new')} aria-pressed=${chosen?.id === cell.message.id}
              title=${`${cell.message.type} in ${cell.message.stream_name} at ${clock(cell.message.time)}`} onClick=${() => onChoose(chosen?.id === cell.message.id ? null : cell.message)}>
              <span class="cell-top"><b class="num">${count(cell.position)}</b><span class="type">${cell.message.type}</span></span>
              <span class="name">${cell.message.stream_name}${cell.message.erased && html` <${ErasedMark} erased=${cell.message.erased} />`}</span>
            </button>
          </li>`)}
        ${cells && cells.length === 0 && html`<li class="muted">Empty</li>`}
      </ol>
    </section>`
}

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
