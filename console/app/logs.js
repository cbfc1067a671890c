// Logs that are shown newest first: one stream, one category, everything.
import { api, getJson, getText, Problem, query } from './api.js'
import { pageOf } from './json_text.js'

export const PAGE = 50
/** Messages asked for at once to go on where the whole log was read last. */
const FORWARD_LIMIT = 200

const read = async (path, parameters, signal) => pageOf(await getText(query(path, parameters), { signal }))

/**
 * A log: `id`; `position` the field that orders it; `before(position, filter, signal)` a page of what is before a
 * position (null: the newest), newest first, as `{ rows, before, cursor, end }`: where the next page ends (null: there
 * is none), where following begins, and the last position there is; `events` the path to follow, if it is followed.
 */
export function streamLog(name) {
  const path = api`/v1/streams/${name}/messages`
  return {
    id: `stream ${name}`,
    position: 'position',
    events: api`/v1/streams/${name}/events`,
    async before(position, filter, signal) {
      try {
        const page = await backward(path, position, filter, signal)
        const cursor = page.version < 0 ? 'beginning' : String(page.version)
        return { ...page, cursor, end: page.version }
      } catch (error) {
        // Trimmed while somebody looked: here it begins now.
        if (error instanceof Problem && error.slug === 'position-trimmed') return { rows: [], before: null, cursor: null, end: position }
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
    /** What came after a cursor; far behind, only the newest of it. */
    async after(cursor, filter, signal) {
      const page = await read(path, { ...filter, from: Number(cursor) + 1, limit: FORWARD_LIMIT }, signal)
      if (page.at_end) return { rows: page.messages.reverse(), cursor: String(page.next - 1), wasCut: false }
      const newest = await this.before(null, filter, signal)
      return { ...newest, wasCut: true }
    },
  }
}

/** A log that is ordered by global position. */
function globalLog(id, path) {
  return {
    id,
    position: 'global_position',
    async before(position, filter, signal) {
      // Asked first: a page may hold what is not settled, with something missing below it. Following brings that again, and once.
      const { settled } = await getJson('/v1/reports/settled', { signal })
      return { ...await backward(path, position, filter, signal), cursor: String(settled), end: settled }
    },
  }
}

/** The page before a position. */
async function backward(path, position, filter, signal) {
  const from = position === null ? undefined : position - 1
  if (from < 0) return { rows: [], before: null }
  const page = await read(path, { ...filter, direction: 'backward', from, limit: PAGE }, signal)
  return { rows: page.messages, before: page.at_end || page.next === null ? null : page.next + 1, version: page.version }
}
