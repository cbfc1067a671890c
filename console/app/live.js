// Following, within bounds: what comes too fast is sampled, not stored.
import { useEffect, useRef, useState } from './dom.js'
import { query } from './api.js'
import { EventStream } from './event_stream.js'
import { messageOf } from './json_text.js'

/** More events a second than this cannot be read by anybody: then the newest of each second are shown instead. */
export const EVENTS_PER_SECOND_MAX = 300
const SAMPLE_PAUSE_MS = 1_000
const CALM_MS = 1_500
/** A stream that the browser has given up is opened again by us after this long. */
const REOPEN_PAUSE_MS = 2_000
/** Events that wait for the next picture; older ones are dropped (a hidden page draws none). */
const WAITING_MAX = 500

/**
 * Follows `path`, beginning after the cursor `after` (null: at the end; 'beginning'). `onEvents(items, wasCut)` gets what came since
 * the last picture, oldest first; `wasCut` says that something is missing before it. Returns a function that ends it.
 */
export function follow(path, { after = null, names = ['message'], itemOf = messageOf, onEvents, onState }) {
  let source, timer, calm, frame, waiting = [], isCut = false, isSampling = false, isEnded = false
  let cursor = after, second = 0, count = 0, refusals = 0

  const draw = () => {
    frame = undefined
    const items = waiting
    const cut = isCut
    waiting = []
    isCut = false
    if (items.length) onEvents(items, cut)
  }
  const take = event => {
    refusals = 0
    cursor = event.lastEventId || cursor
    waiting.push(itemOf(event.data, event.type))
    if (waiting.length > WAITING_MAX) {
      waiting.splice(0, waiting.length - WAITING_MAX)
      isCut = true
    }
    frame ??= requestAnimationFrame(draw)
    const now = Math.floor(performance.now() / 1000)
    if (now !== second) { second = now; count = 0 }
    if (++count > EVENTS_PER_SECOND_MAX) {
      source.close()
      clearTimeout(calm)
      cursor = null
      isCut = isSampling = true
      onState('sampling')
      timer = setTimeout(open, SAMPLE_PAUSE_MS)
    }
  }
  function open() {
    if (isEnded || document.hidden) return
    const start = { null: { from: 'end' }, beginning: { from: 'beginning' } }[cursor] ?? { last_event_id: cursor }
    source = new EventStream(query(path, start))
    const own = source
    for (const name of names) own.addEventListener(name, take)
    own.addEventListener('caught-up', event => {
      refusals = 0
      if (!isSampling) {
        cursor = event.lastEventId || cursor
        return onState('live')
      }
      // Live again once it has stayed slow for a while.
      calm = setTimeout(() => { isSampling = false; onState('live') }, CALM_MS)
    })
    own.addEventListener('fell-behind', () => onState('behind'))
    own.addEventListener('error', () => {
      if (isEnded || own !== source) return
      onState('reconnecting')
      if (own.readyState !== EventSource.CLOSED) return
      // Refused. What is refused again has a cursor of another log: truncated, or restored since.
      if (++refusals > 1 && cursor !== 'beginning') {
        cursor = null
        isCut = true
      }
      timer = setTimeout(open, REOPEN_PAUSE_MS)
    })
  }
  // A hidden page gives its connection back, of which a browser has six for a site over HTTP/1.1. It goes on from its
  // cursor when it is seen again.
  const onVisible = () => {
    clearTimeout(timer)
    source?.close()
    onState('connecting')
    open()
  }
  document.addEventListener('visibilitychange', onVisible)
  onState('connecting')
  open()
  return () => {
    isEnded = true
    document.removeEventListener('visibilitychange', onVisible)
    source?.close()
    clearTimeout(timer)
    clearTimeout(calm)
    cancelAnimationFrame(frame)
  }
}

/** The same for a view: follows while `path` is given. Returns the state. */
export function useFollow(path, options, dependencies = []) {
  const [state, setState] = useState('off')
  const latest = useRef(options)
  latest.current = options
  useEffect(() => {
    if (!path) return setState('off')
    return follow(path, {
      after: latest.current.after,
      names: latest.current.names,
      itemOf: latest.current.itemOf,
      onEvents: (items, wasCut) => latest.current.onEvents(items, wasCut),
      onState: setState,
    })
  }, [path, ...dependencies])
  return state
}

export const STATE_TEXT = {
  off: 'Paused', connecting: 'Connecting', live: 'Live', behind: 'Catching up', sampling: 'Sampling', reconnecting: 'Reconnecting',
}
