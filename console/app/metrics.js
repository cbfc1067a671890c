// The instance's metrics, read once a second, and what can be computed from two readings of them.
import { getJson, getText, noteConnection, Problem } from './api.js'
import { poll } from './poll.js'
import { Store } from './store.js'

const INTERVAL_MS = 1_000
/** Readings that are kept: ten minutes. */
export const SAMPLES_MAX = 600
/** Latencies are computed over this many readings: those of one second alone are too few. */
const WINDOW = 5

const unescaped = text => text.replace(/\\(.)/g, (_, character) => (character === 'n' ? '\n' : character))

/** `{ name: [{ labels, value }] }` of Prometheus' text form. */
export function parseMetrics(text) {
  const families = new Map()
  for (const line of text.split('\n')) {
    const match = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/i.exec(line)
    if (!match) continue
    const labels = {}
    for (const [, name, value] of (match[2] ?? '').matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/gi)) labels[name] = unescaped(value)
    if (!families.has(match[1])) families.set(match[1], [])
    families.get(match[1]).push({ labels, value: Number(match[3]) })
  }
  return families
}

/** The sum of a metric's values with these labels. */
export function valueOf(families, name, labels = {}) {
  const found = (families?.get(name) ?? [])
    .filter(one => Object.entries(labels).every(([label, value]) => one.labels[label] === value))
  return found.length ? found.reduce((sum, one) => sum + one.value, 0) : null
}

/** A histogram as cumulative counts by upper bound. */
function bucketsOf(families, name, labels) {
  const counts = new Map()
  for (const { labels: own, value } of families.get(`${name}_bucket`) ?? []) {
    if (!Object.entries(labels).every(([label, wanted]) => own[label] === wanted)) continue
    const bound = own.le === '+Inf' ? Infinity : Number(own.le)
    counts.set(bound, (counts.get(bound) ?? 0) + value)
  }
  return counts
}

/** The quantiles of what came between two readings of a histogram; null if nothing did. */
export function quantiles(before, after, wanted) {
  const bounds = [...after.keys()].sort((a, b) => a - b)
  const counts = bounds.map(bound => after.get(bound) - (before.get(bound) ?? 0))
  const total = counts.at(-1) ?? 0
  if (!(total > 0)) return wanted.map(() => null)
  return wanted.map(quantile => {
    const rank = quantile * total
    const at = counts.findIndex(count => count >= rank)
    const low = at > 0 ? bounds[at - 1] : 0
    if (bounds[at] === Infinity) return low
    const below = at > 0 ? counts[at - 1] : 0
    return low + (bounds[at] - low) * ((rank - below) / Math.max(counts[at] - below, 1))
  })
}

const APPEND = { method: 'POST', path: '/v1/streams/{stream_name}/messages' }

/** The last reading; null before the first. */
export const reading = new Store(null)
/** Series over time, each of at most `SAMPLES_MAX` values; replaced as a whole, so that charts see the change. */
export const history = new Store({ time: [], log: [], written: [], delivered: [], append50: [], append99: [], commit50: [], commit99: [], lag: [] })

const readings = []

function sampleOf(now, before, first) {
  const seconds = (now.at - before.at) / 1000
  const rate = name => {
    const change = (valueOf(now.families, name) ?? 0) - (valueOf(before.families, name) ?? 0)
    // A counter that falls belongs to a service that has started anew.
    return change < 0 ? null : change / seconds
  }
  const latency = (name, labels) =>
    quantiles(bucketsOf(first.families, name, labels), bucketsOf(now.families, name, labels), [0.5, 0.99])
  const [append50, append99] = latency('headwater_http_request_seconds', APPEND)
  const [commit50, commit99] = latency('headwater_commit_seconds', {})
  return {
    time: now.at / 1000,
    log: rate('headwater_head_position'),
    written: rate('headwater_messages_appended_total'),
    delivered: rate('headwater_messages_delivered_total'),
    append50, append99, commit50, commit99,
    lag: valueOf(now.families, 'headwater_settled_lag'),
  }
}

/** Of the history that the service keeps: what was before this page was opened. Again now and then, because live readings are kept for minutes only. */
const HISTORY_MS = 300_000
let past = null
/** Live samples; `history` is the past, and then these. */
let live = []

/** Series of a report by what this page calls them. */
function pastOf({ times, series }) {
  const valuesOf = (name, label, value) => series.find(one => one.name === name && (!label || one.labels[label] === value))?.values ?? []
  const at = times.map(time => Date.parse(time) / 1000)
  const rateOf = (name, isKnownAtZero = true) => {
    const values = valuesOf(name)
    return values.map((value, n) => {
      const isKnown = n > 0 && value !== null && values[n - 1] !== null && (isKnownAtZero || values[n - 1] > 0)
      const change = isKnown ? value - values[n - 1] : -1
      return change < 0 ? null : change / (at[n] - at[n - 1])
    })
  }
  const request = 'headwater_http_request_seconds', commit = 'headwater_commit_seconds'
  return {
    time: at, log: rateOf('headwater_head_position', false), // an instance that has just started knows no position yet
    written: rateOf('headwater_messages_appended_total'), delivered: rateOf('headwater_messages_delivered_total'),
    append50: valuesOf(request, 'quantile', '0.5'), append99: valuesOf(request, 'quantile', '0.99'),
    commit50: valuesOf(commit, 'quantile', '0.5'), commit99: valuesOf(commit, 'quantile', '0.99'), lag: valuesOf('headwater_settled_lag'),
  }
}

/** Reads the history; a service that keeps none has nothing before the live readings. */
async function lookBack(signal) {
  try {
    past = pastOf(await getJson('/v1/reports/metrics', { signal }))
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    past = null
  }
}

function joined() {
  // The first reading has no rates: where there is a past, the line goes on from it to the second one.
  const shown = past && live.length > 1 ? live.slice(1) : live
  const first = shown[0]?.time ?? Infinity
  const until = past ? past.time.findIndex(time => time >= first) : 0
  const old = past ? Object.fromEntries(Object.entries(past).map(([name, values]) => [name, until < 0 ? values : values.slice(0, until)])) : {}
  return Object.fromEntries(Object.keys(history.value).map(name => [name, [...(old[name] ?? []), ...shown.map(sample => sample[name])]]))
}

function take(families) {
  const now = { at: Date.now(), families }
  const before = readings.at(-1)
  readings.push(now)
  if (readings.length > WINDOW + 1) readings.shift()
  // After a pause there is no rate worth showing: the line breaks.
  const hasGap = !before || now.at - before.at > 5 * INTERVAL_MS
  if (hasGap) readings.splice(0, readings.length - 1)
  const sample = hasGap
    ? { ...Object.fromEntries(Object.keys(history.value).map(name => [name, null])), time: now.at / 1000 }
    : sampleOf(now, before, readings[0])
  live = [...live.slice(1 - SAMPLES_MAX), sample]
  history.set(joined())
  reading.set(families)
}

/** Begins to read; the same reading says whether the service can be reached. Without the right to read metrics it is asked only that. */
export function startMetrics(mayRead) {
  const endHistory = mayRead ? poll(lookBack, HISTORY_MS) : () => {}
  const end = poll(async signal => {
    let text
    try {
      text = await getText(mayRead ? '/metrics' : '/readyz', { signal })
    } catch (error) {
      if (!signal.aborted) noteConnection(error instanceof Problem ? 'unready' : 'offline')
      throw error
    }
    noteConnection('online')
    if (mayRead) take(parseMetrics(text))
  }, INTERVAL_MS)
  return () => { endHistory(); end() }
}
