// What a trim of a stream would do, computed from reads: the service has no dry run of it.
import { api, getJson, getText, query } from './api.js'
import { deliveryOf, pageOf } from './json_text.js'

/** Subscriptions that are asked what they have not acked. */
const ASKED_MAX = 50
/** Names in a list, and parked messages that are looked at. */
const LIST_MAX = 1_000

/** The first message of a stream at or after a position, or a time. */
async function firstOf(stream, from, signal) {
  const page = pageOf(await getText(query(api`/v1/streams/${stream}/messages`, { ...from, limit: 1 }), { signal }))
  return page.messages[0]
}

/**
 * `oldest` as a trim takes it: `before_position`, `before_time` or `keep_last`. Answers `{ summary, before, wanted, goes,
 * first, holders, isPartial }`: the `wanted` messages below the position `before` were asked for; `goes` of them go at
 * most, and then `first` is the first that stays; `holders` keep the others. `isPartial`: not all subscriptions were asked.
 */
export async function previewTrim(stream, oldest, unlessUnacked, signal) {
  const summary = await getJson(api`/v1/streams/${stream}`, { signal })
  const { version, first_position } = summary
  let before = oldest.before_position ?? version - oldest.keep_last + 1
  if (oldest.before_time) before = (await firstOf(stream, { from_time: oldest.before_time }, signal))?.position ?? version
  // The newest message always stays.
  before = Math.max(Math.min(before, version), first_position)
  const wanted = before - first_position
  const { holders, isPartial } = unlessUnacked && wanted > 0 ? await holdersOf(stream, first_position, before, signal) : { holders: [], isPartial: false }
  const kept = Math.min(before, ...holders.map(holder => holder.from))
  return { summary, before, wanted, goes: kept - first_position, first: await firstOf(stream, { from: kept }, signal), holders, isPartial }
}

/** Subscriptions that have not acked messages of a stream below a position: `{ name, from, isEstimate }` each. */
async function holdersOf(stream, first, before, signal) {
  const list = await getJson(query('/v1/subscriptions', { limit: LIST_MAX }), { signal })
  const concerned = list.subscriptions.filter(({ definition: { source } }) => covers(source, stream))
  const asked = await Promise.all(concerned.slice(0, ASKED_MAX).map(({ name }) => holderOf(name, stream, first, before, signal)))
  return { holders: asked.filter(holder => holder.from < before), isPartial: list.next !== null || concerned.length > ASKED_MAX }
}

/** Whether a subscription's source may have messages of a stream. */
function covers(source, stream) {
  const category = stream.split('-', 1)[0]
  return source.all || source.aggregated_stream || source.stream_name === stream || source.category === category
    || source.categories?.includes(category)
}

/** From where on a subscription keeps messages of a stream: exactly, or an estimate that keeps no fewer. */
async function holderOf(name, stream, first, before, signal) {
  const path = api`/v1/subscriptions/${name}`
  const { definition: { source, types, filter }, status } = await getJson(path, { signal })
  const isNarrowed = types?.length > 0 || Boolean(filter)
  const behind = status.partitions.filter(one => one.committed_lag > 0 || one.in_flight > 0)
  const held = { name, from: Infinity, isEstimate: isNarrowed }
  if (behind.length > 0) {
    const acked = Math.min(...behind.map(one => one.committed_position))
    if (source.stream_name) held.from = Math.max(acked + 1, first)
    else if (source.aggregated_stream) Object.assign(held, { from: first, isEstimate: true })
    else {
      held.from = await firstAfter(stream, acked, first, before, signal)
      held.isEstimate ||= status.partitions.length > 1
    }
  }
  const parked = pageOf(await getText(query(`${path}/parked`, { limit: LIST_MAX }), { signal }), 'parked', deliveryOf)
  const positions = parked.parked.filter(one => one.message?.stream_name === stream).map(one => one.message.position)
  const from = Math.min(...positions, Infinity)
  return { ...held, from: Math.min(held.from, from), isEstimate: held.isEstimate && held.from <= from || parked.next !== null }
}

/** The first position of a stream whose message comes after a global position, found by halving. */
async function firstAfter(stream, globalPosition, first, before, signal) {
  let low = first, high = before
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const message = await firstOf(stream, { from: middle }, signal)
    if (!message || message.global_position > globalPosition) high = middle
    else low = message.position + 1
  }
  return low
}
