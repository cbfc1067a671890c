// A log in a view: the newest messages, older ones on demand, and what comes, in a list that stays bounded.
import { useEffect, useRef, useState } from './dom.js'
import { query } from './api.js'
import { messageOf } from './json_text.js'
import { useFollow } from './live.js'
import { gather } from './logs.js'
import { isMessage, trimmedRow } from './message_list.js'
import { poll, useWhenBack } from './poll.js'

/** Rows that are kept; the oldest go first. */
export const ROWS_MAX = 400
const POLL_MS = 1_000

/** Newer messages than the one that was asked for, to see it among its neighbours. */
const PAGE_ABOVE = 20

const nothing = { rows: null, before: null, cursor: null, error: null, busy: true, version: undefined, around: null, end: undefined }

/** The page around a position; at the end where the position is not before it. */
async function pageAround(log, at, filter, signal) {
  const before = at === null ? null : at + 1 + PAGE_ABOVE
  const page = await gather(log, before, filter, signal)
  if (before === null || before <= page.end) return { ...page, around: at, isAtEnd: before === null }
  return { ...await gather(log, null, filter, signal), around: at, isAtEnd: true }
}

/**
 * `at`: begin near this position, not at the end. `isLive`: follow. Returns `{ rows, hasOlder, older, busy, error,
 * replace, load, state, around }`; before a row with `left` so many more came that are not shown, one with `trimmed` says how many
 * messages are not there any more. `around` is the position that was asked for, `load(at)` asks for another.
 */
export function useLog(log, { filter = {}, at = null, isLive = true }) {
  const key = JSON.stringify([log.id, filter])
  const [state, setState] = useState(nothing)
  const [attempt, setAttempt] = useState(0)
  const start = useRef(at)
  const controller = useRef(null)

  useEffect(() => {
    controller.current?.abort()
    const own = new AbortController()
    controller.current = own
    setState(nothing)
    pageAround(log, start.current, filter, own.signal).then(
      page => { if (!own.signal.aborted) setState({ ...nothing, ...page, busy: false }) },
      error => { if (!own.signal.aborted) setState({ ...nothing, rows: [], busy: false, error }) },
    )
    return () => own.abort()
  }, [key, attempt])
  const load = at => { start.current = at; setAttempt(attempt => attempt + 1) }

  const older = async () => {
    const { signal } = controller.current
    setState(state => ({ ...state, busy: true }))
    try {
      const page = await gather(log, state.before, filter, signal)
      setState(state => ({ ...state, rows: [...state.rows, ...page.rows].slice(-ROWS_MAX), before: page.before, looked: state.looked + page.looked, isAtEnd: state.isAtEnd && state.rows.length + page.rows.length <= ROWS_MAX, busy: false, error: null }))
    } catch (error) {
      if (!signal.aborted) setState(state => ({ ...state, busy: false, error }))
    }
  }

  const add = (came, passedOver, cursor) => setState(state => {
    if (!state.rows) return state
    const newer = log.passes ? came.filter(row => !isMessage(row) || log.passes(row)) : came
    // How many of those that were passed over would be shown, nobody has looked.
    const left = log.passes ? passedOver > 0 : passedOver
    const known = new Set(state.rows.map(message => message.id))
    const newest = state.rows.find(isMessage)?.[log.position] ?? -1
    // What was trimmed is shown below the message that came next.
    const placed = newer.map((row, at) => (isMessage(row) ? row
      : { ...row, [log.position]: (newer.slice(0, at).findLast(isMessage)?.[log.position] ?? newest + 1) - 0.5 }))
    const fresh = placed.filter(row => !known.has(row.id))
    if (fresh.length === 0) return cursor ? { ...state, cursor } : state
    if (left) fresh[fresh.length - 1] = { ...fresh.at(-1), left }
    const rows = [...fresh, ...state.rows].sort((a, b) => b[log.position] - a[log.position])
    const kept = rows.slice(0, ROWS_MAX)
    return {
      ...state,
      rows: kept,
      cursor: cursor ?? state.cursor,
      before: rows.length > ROWS_MAX ? Math.ceil(kept.at(-1)[log.position]) : state.before,
      version: state.version === undefined ? undefined : Math.max(state.version, ...fresh.filter(isMessage).map(row => row.position)),
    }
  })

  const isReady = isLive && state.rows !== null && state.isAtEnd && !state.error
  const followed = useFollow(isReady && log.events ? query(log.events, filter) : null, {
    after: state.cursor,
    names: ['message', 'trimmed'],
    itemOf: (text, type) => (type === 'trimmed' ? trimmedRow(JSON.parse(text)) : (log.itemOf ?? messageOf)(text)),
    onEvents: (items, left, cursor) => add(items.reverse(), left, cursor),
    onLost: () => load(null),
  }, [key, attempt])

  useWhenBack(state.error, () => (state.rows?.length ? older() : load(start.current)))

  const cursor = useRef(null)
  cursor.current = state.cursor
  const isPolled = isReady && Boolean(log.after)
  useEffect(() => {
    if (!isPolled) return
    return poll(async signal => {
      const page = await log.after(cursor.current, filter, signal)
      if (!page) return load(null)
      add(page.rows, page.left, page.cursor)
    }, POLL_MS)
  }, [isPolled, key])

  return {
    ...state,
    hasOlder: state.before !== null,
    older,
    load,
    again: () => load(start.current),
    /** Takes a message as it is by now. */
    replace: message => setState(state => ({ ...state, rows: state.rows.map(row => (row.id === message.id ? { ...row, ...message } : row)) })),
    state: isLive && state.rows === null ? 'connecting' : !isLive || !state.isAtEnd ? 'off' : log.events ? followed : 'live',
  }
}
