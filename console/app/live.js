// Following, within bounds: of what comes too fast the newest is shown, and the rest is counted.
import { useEffect, useRef, useState } from './dom.js'
import { connection, query } from './api.js'
import { messageOf } from './json_text.js'
import { sharedEvents } from './shared_events.js'

/** More events a second than this cannot be read by anybody: then the newest of each second are shown. */
export const EVENTS_PER_SECOND_MAX = 300
/** How often a picture is drawn then, and how many messages come into it. */
const SAMPLE_PAUSE_MS = 1_000
const SAMPLE_MAX = 50
const CALM_MS = 1_500
/** Messages that are passed over before the event stream has caught up; beyond, the view begins anew at the end. */
const PASSED_OVER_MAX = 20_000
/** What was refused is asked for again after this long. */
const REOPEN_PAUSE_MS = 2_000

/**
 * Follows `path`, whose cursors are positions in the log, beginning after the cursor `after` (null: at the end). `onEvents(items, left, cursor)` gets what came since the
 * last picture, oldest first; `left` messages before it came as well and are not shown. Nothing is skipped without being counted:
 * `onLost()` says that it cannot go on from here, so that the view has to begin anew. Returns a function that ends it.
 */
export function follow(path, { after = null, names = ['message'], itemOf = messageOf, onEvents, onState, onLost }) {
  let source, timer, timed, frame, waiting = [], left = 0, passedOver = 0, isEnded = false
  let cursor = after, second = 0, count = 0, busyAt = -Infinity, base = 'connecting', refusals = 0

  const tell = next => {
    base = next
    onState(base === 'live' && isBusy() ? 'sampling' : base)
  }
  const isBusy = () => performance.now() - busyAt < CALM_MS
  const draw = () => {
    cancelAnimationFrame(frame)
    clearTimeout(timed)
    frame = timed = undefined
    const items = waiting
    const before = left
    waiting = []
    left = 0
    if (items.length) onEvents(items.map(({ data, type }) => itemOf(data, type)), before, cursor)
    // Once it has stayed slow for a while it is live again.
    if (isBusy()) timed = setTimeout(draw, SAMPLE_PAUSE_MS)
    tell(base)
  }
  const take = event => {
    refusals = 0
    cursor = event.lastEventId || cursor
    const now = performance.now()
    if (Math.floor(now / 1000) !== second) { second = Math.floor(now / 1000); count = 0 }
    if (++count > EVENTS_PER_SECOND_MAX) busyAt = now
    waiting.push({ data: event.data, type: event.type })
    while (waiting.length > (isBusy() ? SAMPLE_MAX : EVENTS_PER_SECOND_MAX)) {
      // What else comes, such as that messages were trimmed, is always shown.
      const oldest = waiting.findIndex(({ type }) => type === 'message')
      if (oldest < 0) break
      waiting.splice(oldest, 1)
      left++
      passedOver++
    }
    if (base === 'live') passedOver = 0
    else if (base !== 'behind') tell('behind')
    if (passedOver > PASSED_OVER_MAX) return lose()
    if (isBusy()) timed ??= setTimeout(draw, SAMPLE_PAUSE_MS)
    else frame ??= requestAnimationFrame(draw)
  }
  const lose = () => {
    source.close()
    timer = setTimeout(onLost, REOPEN_PAUSE_MS)
  }
  function open() {
    if (isEnded || document.hidden) return
    source = sharedEvents(query(path, cursor === null ? { from: 'end' } : { last_event_id: cursor }))
    const own = source
    for (const name of names) own.addEventListener(name, take)
    own.addEventListener('caught-up', event => {
      refusals = passedOver = 0
      // The event has no id where no message has been before it.
      cursor = event.lastEventId || (cursor ?? String(JSON.parse(event.data).position))
      tell('live')
    })
    own.addEventListener('fell-behind', () => tell('behind'))
    own.addEventListener('error', () => {
      if (isEnded || own !== source) return
      tell('reconnecting')
      if (own.readyState !== EventSource.CLOSED) return
      // Refused. What is refused again has a cursor of another log: truncated, or restored since.
      if (++refusals > 1) return lose()
      timer = setTimeout(open, REOPEN_PAUSE_MS)
    })
  }
  const restart = () => {
    clearTimeout(timer)
    source?.close()
    tell('connecting')
    open()
  }
  // A hidden page draws nothing, so nothing is sent to it. It goes on from its cursor when it is seen again.
  document.addEventListener('visibilitychange', restart)
  // Other requests find out sooner that the service is back: between attempts to connect there may be half a minute.
  let before = connection.value.state
  const unwatch = connection.watch(({ state }) => {
    const isBack = before !== 'online' && state === 'online'
    before = state
    if (isBack && base === 'reconnecting') restart()
  })
  restart()
  return () => {
    isEnded = true
    document.removeEventListener('visibilitychange', restart)
    unwatch()
    source?.close()
    clearTimeout(timer)
    clearTimeout(timed)
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
      onEvents: (...came) => latest.current.onEvents(...came),
      onLost: () => latest.current.onLost(),
      onState: setState,
    })
  }, [path, ...dependencies])
  return state
}

export const STATE_TEXT = {
  off: 'Paused', connecting: 'Connecting', live: 'Live', behind: 'Catching up', sampling: 'Sampling', reconnecting: 'Reconnecting',
}
