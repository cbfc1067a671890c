// What a retention would delete now, computed from reads: the service has no dry run of it.
import { api, getJson, getText, query } from './api.js'
import { pageOf } from './json_text.js'

/** Messages that are counted one by one; of more the number is estimated by their share of global positions. */
const COUNTED_MAX = 1_000

/**
 * `age` in seconds and `max` may be absent. Answers `{ byAge, byCount, total, first }`: how many messages are too old and too
 * many, as `{ goes, isAbout }` each, of how many, and the oldest message.
 */
export async function previewRetention(category, age, max, signal) {
  const path = api`/v1/categories/${category}/messages`
  const [report, page] = await Promise.all([
    getJson(query('/v1/reports/categories', { from: category, limit: 1 }), { signal }),
    readPage(path, { limit: 1 }, signal),
  ])
  const line = report.categories.find(line => line.category === category)
  const first = page.messages[0]
  if (!line || !first) return { byAge: age ? { goes: 0 } : null, byCount: max ? { goes: 0 } : null, total: 0, first }
  const isCounted = report.counted_position >= report.settled_position
  // The newest message of every stream stays.
  const most = Math.max(line.message_count - line.stream_count, 0)
  const bounded = ({ goes, isAbout }) => ({ goes: Math.min(goes, most), isAbout })
  return {
    byAge: age ? bounded(await tooOld(path, line, first, age, signal)) : null,
    byCount: max ? bounded({ goes: Math.max(line.message_count - max, 0), isAbout: !isCounted || line.stream_count > 1 }) : null,
    total: line.message_count,
    first,
  }
}

async function readPage(path, parameters, signal) {
  return pageOf(await getText(query(path, parameters), { signal }))
}

async function tooOld(path, line, first, age, signal) {
  const time = new Date(Date.now() - age * 1_000).toISOString()
  if (first.time >= time) return { goes: 0 }
  const isAbout = line.stream_count > 1
  const old = await readPage(path, { to_time: time, limit: COUNTED_MAX }, signal)
  if (old.at_end) return { goes: old.messages.length, isAbout }
  const { messages: [stays] } = await readPage(path, { from_time: time, limit: 1 }, signal)
  const last = line.last_global_position
  const share = ((stays?.global_position ?? last) - first.global_position) / Math.max(last - first.global_position, 1)
  return { goes: Math.max(Math.round(share * line.message_count), COUNTED_MAX), isAbout: true }
}
