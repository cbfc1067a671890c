// How fast counts grow, as this page has seen them.
import { useEffect, useRef, useState } from './dom.js'

/** Readings that a rate is taken over: those of one alone jump. */
const READINGS_MAX = 6

/** Per second and by name; `counts` is a map of what was counted, a new one for each reading. Names without a rate yet are left out. */
export function useRates(counts) {
  const readings = useRef([])
  const [rates, setRates] = useState(new Map())
  useEffect(() => {
    if (!counts) return
    readings.current = [...readings.current, { at: performance.now(), counts }].slice(-READINGS_MAX)
    const [first, last] = [readings.current[0], readings.current.at(-1)]
    if (first === last) return
    const seconds = (last.at - first.at) / 1000
    const grown = [...last.counts].filter(([name]) => first.counts.has(name)).map(([name, count]) => [name, Math.max(count - first.counts.get(name), 0) / seconds])
    setRates(new Map(grown))
  }, [counts])
  return rates
}
