// Logs that are shown newest first: one stream, one category, everything.
import { api, getJson, getText, Problem, query } from './api.js'
import { pageOf } from './json_text.js'
import { reading, valueOf } from './metrics.js'

export const PAGE = 50
/** Messages asked for at once to go on where the whole log was read last. */
const FORWARD_LIMIT = 200

const read = async (path, parameters, signal) => pageOf(await getText(query(path, parameters), { signal }))

/**
 * A log: `id`; `path` what is read; `position` the field that orders it; `before(position, filter, signal)` a page of what is before a
 * position (null: the newest), newest first, as `{ rows, before, cursor, end }`: where the next page ends (null: there
 * is none), where following begins, and the last position there is; `events` the path to follow, if it is followed; `passes(row)` what is shown, if not all.
 */
export function streamLog(name) {
  const path = api`/v1/streams/${name}/messages`
  return {
    id: `stream ${name}`,
    path,
    position: 'position',
    // By positions in the log, so that all streams and categories can share a connection.
    events: query('/v1/events', { stream_name: name }),
    async before(position, filter, signal, limit) {
      const cursor = await settled(signal)
      try {
        const page = await backward(path, position, filter, signal, limit)
        return { ...page, cursor, end: page.version }
      } catch (error) {
        // Trimmed while somebody looked: here it begins now.
        if (error instanceof Problem && error.slug === 'position-trimmed') return { rows: [], before: null, cursor, end: position }
        throw error
      }
    },
  }
}

export function categoryLog(name) {
  return { ...globalLog(`category ${name}`, api`/v1/categories/${name}/messages`), events: api`/v1/categories/${name}/events` }
}

export function allLog() {
  const path = '/v1/all/messages'
  return {
    ...globalLog('all', path),
    /** What came after a cursor; far behind, only the newest of it. Null where the log ends before the cursor by now. */
    async after(cursor, filter, signal) {
      const page = await read(path, { ...filter, from: Number(cursor) + 1, limit: FORWARD_LIMIT }, signal)
      if (page.messages.length === 0 && await hasGoneBack(cursor, signal)) return null
      if (page.at_end) return { rows: page.messages.reverse(), cursor: String(page.next - 1), left: 0 }
      const newest = await this.before(null, filter, signal)
      // Positions between: with a filter, nobody has counted the messages there.
      const between = newest.rows.length ? newest.rows.at(-1).global_position - Number(cursor) - 1 : 0
      return { ...newest, left: filter.types || filter.filter ? true : Math.max(between, 0) }
    },
  }
}

/** A log that is ordered by global position. */
function globalLog(id, path) {
  return {
    id,
    path,
    position: 'global_position',
    async before(position, filter, signal, limit) {
      const cursor = await settled(signal)
      return { ...await backward(path, position, filter, signal, limit), cursor, end: Number(cursor) }
    },
  }
}

/**
 * Where following begins after a page. Asked before it: a page may hold what is not settled, with something missing below it.
 * Following brings that again, and once.
 */
async function settled(signal) {
  const { settled } = await getJson('/v1/reports/settled', { signal })
  return String(settled)
}

/** Whether the log ends before a cursor: it was restored, or emptied. The metrics say so first, or are older than the cursor. */
async function hasGoneBack(cursor, signal) {
  const head = valueOf(reading.value, 'headwater_head_position') ?? Infinity
  return head < Number(cursor) && Number(await settled(signal)) < Number(cursor)
}

/** Messages of a page that are searched for a text, and requests that looking for matches may take before it asks whether to go on. */
const SEARCHED_AT_ONCE = 500
const REQUESTS_MAX = 10
/** Matches that are enough for now. */
const ENOUGH = 20

/** A log of the messages that have a text in their data or metadata, in whatever case: looked for here, in the page. */
export function containing(log, text) {
  const wanted = [text.toLowerCase(), JSON.stringify(text).slice(1, -1).toLowerCase()]
  const passes = row => [row.data, row.metadata].some(part => part && wanted.some(one => part.toLowerCase().includes(one)))
  return { ...log, id: `${log.id} containing ${text}`, passes }
}

/** The page before a position as the log's `before` gives it; where few messages match, it looks further back. */
export async function gather(log, position, filter, signal) {
  let rows = [], at = position, first, looked = 0
  for (let requests = 0; requests < REQUESTS_MAX; requests++) {
    const page = await log.before(at, filter, signal, log.passes ? SEARCHED_AT_ONCE : undefined)
    first ??= page
    looked += page.rows.length
    rows = rows.concat(log.passes ? page.rows.filter(log.passes) : page.rows)
    at = page.before
    if (at === null || rows.length >= ENOUGH) break
  }
  return { ...first, rows, before: at, looked }
}

/** The position of the first message at a time or later; null if there is none yet. */
export async function firstAt(log, time, signal) {
  const { messages: [message] } = await read(log.path, { from_time: time, limit: 1 }, signal)
  return message ? message[log.position] : null
}

/** The page before a position. */
async function backward(path, position, filter, signal, limit = PAGE) {
  const from = position === null ? undefined : position - 1
  if (from < 0) return { rows: [], before: null }
  const page = await read(path, { ...filter, direction: 'backward', from, limit }, signal)
  return { rows: page.messages, before: page.at_end || page.next === null ? null : page.next + 1, version: page.version }
}
