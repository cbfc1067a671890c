// Looking again and again, for as long as somebody looks at the page.
import { useEffect, useRef, useState } from './dom.js'
import { connection, Problem, Unreachable } from './api.js'

/** After a failure the next look is later and later, up to this. */
const PAUSE_MAX_MS = 5_000

/**
 * Calls `look(signal)` now and every `interval` milliseconds after the last answer; rests while the page is hidden.
 * Returns a function that ends it.
 */
export function poll(look, interval) {
  const ended = new AbortController()
  let timer, isLooking = false, pause = interval
  async function round() {
    if (document.hidden || isLooking) return
    isLooking = true
    try {
      await look(ended.signal)
      pause = interval
    } catch {
      pause = Math.min(Math.max(pause * 2, 500), Math.max(PAUSE_MAX_MS, interval))
    }
    isLooking = false
    if (!ended.signal.aborted) timer = setTimeout(round, pause)
  }
  const onVisible = () => {
    if (document.hidden) return
    clearTimeout(timer)
    round()
  }
  document.addEventListener('visibilitychange', onVisible)
  round()
  return () => {
    ended.abort()
    clearTimeout(timer)
    document.removeEventListener('visibilitychange', onVisible)
  }
}

/**
 * What a look last gave: `{ value, error, again }`. With an interval it looks again by itself. Where the answer is lost
 * for a while, the last value stays.
 */
export function useLook(look, dependencies, interval = 0) {
  const [state, setState] = useState({ value: undefined, error: null })
  const latest = useRef(look)
  const again = useRef(() => {})
  latest.current = look
  useEffect(() => {
    setState({ value: undefined, error: null })
    let ended = false
    const once = async signal => {
      try {
        const value = await latest.current(signal)
        if (!ended) setState({ value, error: null })
      } catch (error) {
        if (!ended) setState(state => ({ value: error instanceof Problem && error.status === 404 ? undefined : state.value, error }))
        throw error
      }
    }
    const controller = new AbortController()
    again.current = () => once(controller.signal).catch(() => {})
    let end = () => {}
    if (interval) end = poll(once, interval)
    else again.current()
    return () => { ended = true; controller.abort(); end() }
  }, [...dependencies, interval])
  useWhenBack(state.error, () => again.current())
  return { ...state, again: () => again.current() }
}

/** What found nobody is done once more when the service is back. */
export function useWhenBack(error, again) {
  useEffect(() => {
    if (!(error instanceof Unreachable)) return
    return connection.watch(({ state }) => { if (state === 'online') again() })
  }, [error])
}

/** The present, told once a second, for texts such as "5 s ago". */
export function useNow(interval = 1_000) {
  const [now, setNow] = useState(Date.now())
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) setNow(Date.now()) }, interval)
    return () => clearInterval(timer)
  }, [interval])
  return now
}
