// Numbers, times and durations as they are shown.
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

/** 1,234,567 */
export const count = value => (value === null || value === undefined ? '–' : whole.format(value))

/** 1.2 M, for places where the exact number would be too wide. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–'
  const size = Math.abs(value)
  if (size >= 999_500_000) return `${trim(value / 1e9)} G`
  if (size >= 999_500) return `${trim(value / 1e6)} M`
  if (size >= 10_000) return `${trim(value / 1e3)} k`
  return size >= 100 || Number.isInteger(value) ? whole.format(value) : trim(value)
}

const trim = value => value.toFixed(Math.abs(value) >= 100 ? 0 : 1)

/** Seconds as 0.8 ms, 12 ms, 1.5 s, 3 min 20 s, 2 h 5 min, 4 d 3 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '–'
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`
  if (seconds < 1) return `${(seconds * 1e3).toFixed(0)} ms`
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  if (seconds < 60) return `${seconds.toFixed(0)} s`
  const parts = (big, bigName, small, smallName) => `${big} ${bigName}${small ? ` ${small} ${smallName}` : ''}`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return parts(minutes, 'min', minutes < 10 ? Math.floor(seconds % 60) : 0, 's')
  const hours = Math.floor(minutes / 60)
  if (hours < 24) return parts(hours, 'h', minutes % 60, 'min')
  return parts(Math.floor(hours / 24), 'd', hours % 24, 'h')
}

const UNITS = { ns: 1e-9, us: 1e-6, ms: 1e-3, s: 1, m: 60, h: 3_600, d: 86_400, w: 604_800, month: 2_630_016, y: 31_557_600 }

/** A duration as the service writes it, such as "1200ms", "1m 5s" or "30days", in seconds. */
export function seconds(text) {
  if (text === null || text === undefined) return null
  let sum = 0
  for (const [, number, unit] of text.matchAll(/([\d.]+)\s*(ns|us|ms|month|s|m|h|d|w|y)/g)) sum += Number(number) * UNITS[unit]
  return sum
}

/** How long ago a time of the service was. Clocks differ: what seems to be a little ahead is now. */
export const ago = (time, now = Date.now()) => {
  const seconds = (now - Date.parse(time)) / 1000
  if (seconds < -60) return `in ${duration(Math.floor(-seconds))}`
  if (seconds < 1) return 'now'
  return `${seconds < 10 ? `${Math.floor(seconds)} s` : duration(Math.floor(seconds))} ago`
}

const two = number => String(number).padStart(2, '0')

/** The time of day with milliseconds; with its date unless that is today. In the reader's own zone. */
export function clock(time) {
  const at = new Date(time)
  if (Number.isNaN(at.getTime())) return time
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
  const of = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}`
  return at.toDateString() === new Date().toDateString() ? of : `${day} ${of.slice(0, 8)}`
}

export const bytes = value =>
  value === null || value === undefined ? '–'
    : value < 1024 ? `${value} B`
      : value < 1 << 20 ? `${trim(value / 1024)} KiB`
        : value < 1 << 30 ? `${trim(value / (1 << 20))} MiB` : `${trim(value / 2 ** 30)} GiB`

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`
