// What needs somebody: found by looking at what the service says of itself, each with the page that mends it.
import { classes, html } from './dom.js'
import { getJson, query } from './api.js'
import { bytes, count, duration, plural, seconds } from './format.js'
import { reading, valueOf } from './metrics.js'
import { poll } from './poll.js'
import { to } from './router.js'
import { behindForLong } from './slow_followers.js'
import { Store, useStore } from './store.js'
import { measured, stoppedAt } from './subscription_status.js'

const LOOK_MS = 5_000
/** Names in a list. */
const LIST_MAX = 1_000
/** Subscriptions whose parked messages are counted, and how often: each takes a request. */
const PARKED_ASKED_MAX = 50
const PARKED_MS = 30_000
const PARKED_SEEN = 100
/** From when on something is worth a line, in seconds. A pending message is late after this many of its ack timeouts. */
const HELD_BACK_SECONDS = 1
const ACK_TIMEOUTS_MAX = 2
const BACKUP_AGE_SECONDS = 86_400
/** Lines that are shown. */
const SHOWN_MAX = 20

/** `null` before the first look; then { id, isBad, what, why, link } each. */
export const attention = new Store(null)

const subscriptionLink = (name, tab) => to('subscriptions', name, { tab })

function ofAggregated({ name, status }) {
  if (status.state !== 'stopped') return []
  return [{ id: `aggregated ${name}`, isBad: true, what: `Aggregated stream ${name} has stopped`, why: status.error && `${status.error.reason}, in ${status.error.stream_name}`, link: to('aggregated', name) }]
}

function ofSubscription({ name, definition, status }, now, parked) {
  const found = []
  const { unacked, consumers, oldest } = measured(now, name)
  if (status.state === 'stopped' || status.state === 'source_deleted') {
    found.push({ id: `stopped ${name}`, isBad: true, what: `Subscription ${name} ${status.state === 'stopped' ? 'has stopped' : 'has lost its source'}`, why: status.state === 'stopped' ? stoppedAt(status) : null, link: to('subscriptions', name) })
  } else if (unacked > 0 && consumers === 0) {
    found.push({ id: `backlog ${name}`, what: `Nobody consumes ${name}`, why: `${plural(unacked, 'unacked message')}${status.state === 'paused' ? '; it is paused' : ''}`, link: subscriptionLink(name, 'consumers') })
  }
  // Where nobody consumes, that is why.
  if (consumers > 0 && oldest > seconds(definition.ack_timeout) * ACK_TIMEOUTS_MAX) {
    found.push({ id: `oldest ${name}`, what: `A message of ${name} has been pending for ${duration(oldest)}`, why: `its ack timeout is ${duration(seconds(definition.ack_timeout))}`, link: subscriptionLink(name, 'pending') })
  }
  if (parked > 0) {
    found.push({ id: `parked ${name}`, what: `${parked === PARKED_SEEN ? 'At least ' : ''}${plural(parked, 'message')} of ${name} ${parked === 1 ? 'is' : 'are'} parked`, why: 'replay or delete what was given up', link: subscriptionLink(name, 'parked') })
  }
  return found
}

/** How often followers have fallen behind lately, by the readings of this page. */
const LATELY_MS = 300_000
let fell = []

function fellLately(now, at) {
  const total = valueOf(now, 'headwater_followers_fell_behind_total')
  if (total === null) return 0
  // A counter that falls belongs to an instance that has started anew.
  fell = [...fell.filter(one => one.at > at - LATELY_MS && one.total <= total), { at, total }]
  return total - fell[0].total
}

/** What the metrics of the instance say. */
export function ofInstance(now, at = Date.now()) {
  if (!now) return []
  const slow = fellLately(now, at)
  const value = name => valueOf(now, name)
  const held = value('headwater_settled_held_back_age')
  const backup = value('headwater_backup_age_seconds')
  const lines = [
    held > HELD_BACK_SECONDS && { what: `The settled position has been held back for ${duration(held)}`, why: 'a transaction is open; followers wait for it', isBad: held > 60 },
    value('headwater_listener_up') === 0 && { what: 'The listener is cut', why: 'what others append reaches followers up to a second late', isBad: true },
    value('headwater_tail_up') === 0 && { what: 'The end of the log cannot be read', why: 'followers get nothing new', isBad: true },
    value('headwater_positions_ahead') === 1 && { what: 'A message is ahead of its sequence', why: 'it waits until the sequence has come there', isBad: true },
    value('headwater_sequence_cache') > 1 && { what: 'The sequence gives several positions at once', why: 'followers may miss messages', isBad: true },
    slow > 0 && { what: `Followers fell behind ${plural(slow, 'time')} in the last minutes`, why: 'they take messages more slowly than they come, and the cache is too small for them' },
    value('headwater_backup_wal_lost') === 1 && { what: 'The backup cannot go on', why: 'changes that it needs are gone: begin another base backup', isBad: true },
    backup > BACKUP_AGE_SECONDS && { what: `The newest base backup is ${duration(backup)} old`, why: `${bytes(value('headwater_backup_wal_behind_bytes'))} are not backed up` },
  ]
  return lines.filter(Boolean).map(line => ({ id: line.what.replace(/[\d.]+/g, ''), link: to('health'), ...line }))
}

/** Counts of parked messages by subscription, looked up now and then. */
async function parkedOf(subscriptions, rights, signal) {
  const asked = subscriptions.filter(({ name }) => rights.subscribe(name)).slice(0, PARKED_ASKED_MAX)
  const counts = await Promise.all(asked.map(async ({ name }) => {
    const page = await getJson(query(`/v1/subscriptions/${encodeURIComponent(name)}/parked`, { limit: PARKED_SEEN }), { signal }).catch(() => ({ parked: [] }))
    return [name, page.parked.length]
  }))
  return new Map(counts)
}

/** Begins to look; returns a function that ends it. */
export function startAttention(rights) {
  let parked = new Map(), parkedAt = -Infinity
  attention.set(null)
  return poll(async signal => {
    const [{ aggregated_streams: aggregated }, { subscriptions }, slow] = await Promise.all([
      getJson(`/v1/aggregated-streams?limit=${LIST_MAX}`, { signal }), getJson(`/v1/subscriptions?limit=${LIST_MAX}`, { signal }),
      rights.readEverything ? behindForLong(signal) : [],
    ])
    if (performance.now() - parkedAt > PARKED_MS) {
      parked = await parkedOf(subscriptions, rights, signal)
      parkedAt = performance.now()
    }
    const lines = [...ofInstance(reading.value), ...slow, ...aggregated.flatMap(ofAggregated), ...subscriptions.flatMap(one => ofSubscription(one, reading.value, parked.get(one.name)))]
    attention.set(lines.sort((a, b) => Boolean(b.isBad) - Boolean(a.isBad)))
  }, LOOK_MS)
}

/** The list, or that there is nothing on it. */
export function Attention() {
  const lines = useStore(attention)
  if (!lines) return null
  if (lines.length === 0) return html`<p class="attention is-calm" role="status"><i class="dot" /> Nothing needs attention.</p>`
  return html`
    <section class="panel attention" aria-label="Needs attention">
      <header><h2>Needs attention</h2><span class="count">${count(lines.length)}</span></header>
      <ul>${lines.slice(0, SHOWN_MAX).map(({ id, isBad, what, why, link }) => html`
        <li key=${id} class=${classes(isBad && 'is-bad')}><i class="dot" /><span><a href=${link}>${what}</a>${why && html`<span class="muted">: ${why}</span>`}</span></li>`)}
      </ul>
      ${lines.length > SHOWN_MAX && html`<p class="hint">${plural(lines.length - SHOWN_MAX, 'more', 'more')}.</p>`}
    </section>`
}
