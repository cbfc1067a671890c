// Requests that are sent again while the service is away, and event streams that are opened again.
import { Closed, Conflict, HeadwaterError, Refused, Unavailable } from './errors.ts'
import { createClient, type Client } from './generated/client/index.ts'
import type { Problem } from './generated/types.gen.ts'

const PAUSE_FIRST_MS = 100
const PAUSE_MAX_MS = 30_000
/** The longest time that a timer takes. */
const TIMER_MAX_MS = 2 ** 31 - 1
/** A connection is dead if it was quiet for so many heartbeats. */
const HEARTBEATS_MISSED_MAX = 3
/** Problems and gateways' answers that pass. */
const PASSING = new Set([408, 429, 502, 503, 504])

/** An API key or a JWT, or a function that gets one, which is asked again when it has ended. */
export type Credential = string | (() => string | Promise<string>)

export interface Event { name: string, cursor: string, data: unknown }

export interface Answer<T> { data?: T | undefined, error?: unknown, response?: Response | undefined }

/** Pauses that grow, each with up to a quarter on top, so that not all come back at once. */
export class BackOff {
  failures = 0

  next(atLeast = PAUSE_FIRST_MS): number {
    const pause = Math.min(PAUSE_MAX_MS, atLeast * 2 ** this.failures++)
    return pause * (1 + Math.random() / 4)
  }
}

export class Transport {
  readonly client: Client
  readonly #credential: Credential | undefined
  readonly #timeoutMs: number
  #token: string | undefined

  constructor(url: string, credential: Credential | undefined, timeoutMs: number) {
    if (!/^https?:$/.test(new URL(url || '/', globalThis.location?.href).protocol)) {
      throw new TypeError(`the URL of a service begins with http:// or https://, which ${url} does not`)
    }
    this.#credential = credential
    this.#timeoutMs = timeoutMs
    this.client = createClient({ baseUrl: url, auth: () => this.#currentToken() })
  }

  /** The data of a successful answer. Requests are sent again, so they must be safe to repeat. */
  async send<T>(request: (client: Client) => Promise<Answer<T>>): Promise<T> {
    const backOff = new BackOff()
    const end = Date.now() + this.#timeoutMs
    // What accepts a connection and says nothing is given up at the end, too.
    const leftMs = () => Math.min(Math.max(end - Date.now(), 0), TIMER_MAX_MS)
    const inTime: typeof fetch = (input, init) => fetch(input, { ...init, signal: AbortSignal.timeout(leftMs()) })
    const client = createClient({ ...this.client.getConfig(), fetch: inTime })
    let isRenewed = false
    for (;;) {
      let pauseMs = PAUSE_FIRST_MS
      const { data, error, response } = await request(client).catch((error: unknown): Answer<T> => ({ error }))
      const isLost = response?.ok && !isWhole(response, data, error)
      if (response?.ok && !isLost) return data as T
      if (response && !isRenewed && this.#renews(response)) {
        isRenewed = true
        continue
      }
      const failure = response && !isLost ? refusal(response, error) : error ?? `${response?.status}, which is no answer of the service`
      if (response && !isLost && !PASSING.has(response.status)) throw failure
      if (response) pauseMs = retryAfterMs(response)
      pauseMs = backOff.next(pauseMs)
      if (Date.now() + pauseMs > end) throw new Unavailable(`the service cannot be used: ${String(failure)}`, { cause: failure })
      await pause(pauseMs)
    }
  }

  /**
   * The events of an event stream, across connections. `address` makes the address that begins after a cursor. The event
   * `disconnected` says that a connection has ended.
   */
  async *events(address: (cursor: string) => string, cursor: string, heartbeatMs: number, stop: AbortSignal): AsyncGenerator<Event> {
    const backOff = new BackOff()
    let retryMs = 1_000
    let isRenewed = false
    while (!stop.aborted) {
      const opened = Date.now()
      let reason = ''
      const attempt = new AbortController()
      const abort = () => attempt.abort()
      stop.addEventListener('abort', abort)
      try {
        const token = await this.#currentToken()
        const headers = { accept: 'text/event-stream', ...(token && { authorization: `Bearer ${token}` }) }
        const quietMs = heartbeatMs * HEARTBEATS_MISSED_MAX
        const response = await watched(fetch(address(cursor), { headers, signal: attempt.signal }), quietMs, abort)
        if (!response.ok) {
          if (!isRenewed && this.#renews(response)) {
            isRenewed = true
            continue
          }
          const failure = refusal(response, await response.json().catch(() => undefined))
          if (!PASSING.has(response.status) && response.status < 500) throw failure
          retryMs = retryAfterMs(response)
        } else {
          for await (const { event, data, id, retry } of frames(response, quietMs, abort)) {
            backOff.failures = 0
            isRenewed = false
            if (retry) retryMs = Number(retry)
            cursor = id ?? cursor
            if (event === 'closing') ({ reason } = JSON.parse(data ?? '{}'))
            else if (event && data) yield { name: event, cursor, data: JSON.parse(data) }
          }
        }
      } catch (error) {
        if (error instanceof HeadwaterError) throw error
      } finally {
        stop.removeEventListener('abort', abort)
        abort()
      }
      if (stop.aborted) return
      if (reason === 'replaced') throw new Closed('another consumer has joined under the same name')
      if (reason === 'expired') this.#token = undefined
      yield { name: 'disconnected', cursor, data: reason }
      // What was deleted or has another history refuses the next request, and says why.
      const isPrompt = ['expired', 'removed', 'deleted', 'history-changed'].includes(reason) && Date.now() - opened > 1_000
      if (!isPrompt) await pause(backOff.next(retryMs), stop)
    }
  }

  async #currentToken(): Promise<string | undefined> {
    return this.#token ??= typeof this.#credential === 'function' ? await this.#credential() : this.#credential
  }

  /** Whether another credential may be had in place of one that has ended. */
  #renews(response: Response): boolean {
    if (response.status !== 401 || typeof this.#credential !== 'function') return false
    this.#token = undefined
    return true
  }
}

/** Whether a successful answer is the service's, and was not cut off after its headers. */
function isWhole(response: Response, data: unknown, error: unknown): boolean {
  if (error !== undefined) return false
  const type = response.headers.get('content-type') ?? ''
  return response.status === 204 || (type.startsWith('application/json') ? !isEmpty(data) : type.startsWith('text/plain'))
}

/** What is made of no body. */
const isEmpty = (data: unknown) => typeof data === 'object' && data !== null && Object.keys(data).length === 0

/** The problem of an answer that is no success. */
function refusal(response: Response, body: unknown): HeadwaterError {
  const problem = body as Problem | undefined
  if (typeof problem?.type !== 'string') return new Unavailable(`${response.status}, which is no answer of the service`)
  return problem.type === '/problems/wrong-expected-version' ? new Conflict(problem) : new Refused(problem)
}

function retryAfterMs(response: Response): number {
  return Math.max(PAUSE_FIRST_MS, 1_000 * Number(response.headers.get('retry-after')) || 0)
}

/** The fields of each event. A connection that is quiet for too long is given up. */
async function* frames(response: Response, quietMs: number, giveUp: () => void): AsyncGenerator<Record<string, string | undefined>> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await watched(reader.read(), quietMs, giveUp)
    if (done) return
    const whole = (rest + value).split('\n\n')
    rest = whole.pop() ?? ''
    for (const frame of whole) {
      const lines = frame.split('\n').map(line => [line, line.indexOf(': ')] as const).filter(([, at]) => at > 0)
      yield Object.fromEntries(lines.map(([line, at]) => [line.slice(0, at), line.slice(at + 2)]))
    }
  }
}

function watched<T>(answer: Promise<T>, quietMs: number, giveUp: () => void): Promise<T> {
  const watch = setTimeout(giveUp, quietMs)
  return answer.finally(() => clearTimeout(watch))
}

/** Of version 4; `crypto.randomUUID` is for pages of https and localhost only. */
export function randomUuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  bytes.set([0x40 | bytes[6]! & 0x0f], 6)
  bytes.set([0x80 | bytes[8]! & 0x3f], 8)
  const digits = Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('')
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

export function pause(ms: number, stop?: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const end = () => {
      clearTimeout(timer)
      stop?.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    stop?.addEventListener('abort', end)
  })
}
