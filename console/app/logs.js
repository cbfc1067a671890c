// Logs that are shown newest first: one stream, one category, everything. Only a stream can be read backward by the API.
import { api, getJson, getText, query } from './api.js'
import { pageOf } from './json_text.js'

export const PAGE = 50
/** Messages asked for at once where pages only go forward. */
const FORWARD_LIMIT = 200
/** Requests that looking for one page backward may take; then the reader is asked whether to look further. */
const REQUESTS_MAX = 8

const read = async (path, parameters, signal) => pageOf(await getText(query(path, parameters), { signal }))

/**
 * A log: `id`; `position` the field that orders it; `before(position, filter, signal)` a page of what is before a
 * position (null: the newest), newest first, as `{ rows, before, cursor }`: where the next page ends (null: there is
 * none) and where following begins; `events` the path to follow, if it is followed.
 */
export function streamLog(name) {
  const path = api`/v1/streams/${name}/messages`
  return {
    id: `stream ${name}`,
    position: 'position',
    events: api`/v1/streams/${name}/events`,
    async before(position, filter, signal) {
      const from = position === null ? undefined : position - 1
      if (from < 0) return { rows: [], before: null, cursor: null }
      const page = await read(path, { ...filter, direction: 'backward', from, limit: PAGE }, signal)
      const cursor = page.version < 0 ? 'beginning' : String(page.version)
      return { rows: page.messages, before: page.at_end || page.next === null ? null : page.next + 1, cursor, version: page.version }
    },
  }
}

export function categoryLog(name) {
  const path = api`/v1/categories/${name}/messages`
  return {
    id: `category ${name}`,
    position: 'global_position',
    events: api`/v1/categories/${name}/events`,
    async before(position, filter, signal) {
      const report = await getJson(query('/v1/reports/categories', { from: name, limit: 1 }), { signal })
      const line = report.categories.find(line => line.category === name)
      const settled = report.settled_position
      let end = position ?? settled + 1
      // How far back a page is likely to reach, and not beyond the last message if all are counted.
      const span = line ? Math.ceil((PAGE * 1.3 * report.counted_position) / line.message_count) : PAGE * 20
      if (position === null && line && report.counted_position >= settled) end = line.last_global_position + 1
      const page = await backward(path, end, span, filter, signal)
      // A page may hold what is not settled, with something missing below it: following brings that again, and once.
      return { ...page, cursor: String(settled) }
    },
  }
}

export function allLog() {
  const path = '/v1/all/messages'
  return {
    id: 'all',
    position: 'global_position',
    path,
    async before(position, filter, signal) {
      const { settled } = await getJson('/v1/reports/settled', { signal })
      const page = await backward(path, position ?? settled + 1, PAGE * 1.2, filter, signal)
      return { ...page, cursor: String(settled) }
    },
    /** What came after a cursor; far behind, only the newest of it. */
    async after(cursor, filter, signal) {
      const page = await read(path, { ...filter, from: Number(cursor) + 1, limit: FORWARD_LIMIT }, signal)
      if (page.at_end) return { rows: page.messages.reverse(), cursor: String(page.next - 1), wasCut: false }
      const newest = await this.before(null, filter, signal)
      return { ...newest, wasCut: true }
    },
  }
}

/** The page before a global position, put together from pages that go forward. */
async function backward(path, end, span, filter, signal) {
  let rows = []
  let high = end
  let reach = Math.max(Math.ceil(span), PAGE)
  for (let requests = 0; high > 1 && rows.length < PAGE && requests < REQUESTS_MAX;) {
    const low = Math.max(1, high - reach)
    const chunk = []
    let from = low
    while (from < high && requests < REQUESTS_MAX) {
      requests++
      const page = await read(path, { ...filter, from, limit: FORWARD_LIMIT }, signal)
      chunk.push(...page.messages.filter(message => message.global_position < high))
      from = page.at_end ? high : page.next
      // There is more here than a page holds: look at less.
      if (from < high && chunk.length >= FORWARD_LIMIT) break
    }
    if (from < high) {
      reach = Math.max(Math.ceil(reach / 4), PAGE)
      if (requests < REQUESTS_MAX) continue
    }
    rows = rows.concat(chunk.reverse())
    high = low
    reach *= chunk.length < PAGE / 4 ? 8 : 2
  }
  const shown = rows.slice(0, PAGE)
  const before = rows.length > PAGE ? shown.at(-1).global_position : high > 1 ? high : null
  return { rows: shown, before }
}
