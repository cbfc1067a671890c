// The public API: requests, problems, and whether the service can be reached.
import { authorization, noteRefused } from './session.js'
import { Store } from './store.js'

/** An answer that is no success, as a problem document says it. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The service answered ${status}.`)
    this.status = status
    this.slug = (document.type ?? '').replace('/problems/', '')
    this.document = document
  }
}

/** The service gave no answer. */
export class Unreachable extends Error {
  constructor() { super('The service cannot be reached.') }
}

/** `{ state: 'connecting' | 'online' | 'unready' | 'offline', since, heard }`, in milliseconds of this clock. */
export const connection = new Store({ state: 'connecting', since: Date.now(), heard: 0 })

export function noteConnection(state) {
  const before = connection.value
  const now = Date.now()
  const since = before.state === state ? before.since : now
  connection.set({ state, since, heard: state === 'offline' ? before.heard : now })
}

/** How long any request may take beyond what it waits for by itself. */
const TIMEOUT_MS = 20_000

async function request(path, { signal, method = 'GET', body, text: given = body === undefined ? undefined : JSON.stringify(body) } = {}) {
  const signals = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])]
  let response
  try {
    response = await fetch(path, {
      method,
      signal: AbortSignal.any(signals),
      headers: { ...authorization(), ...(given !== undefined && { 'content-type': 'application/json' }) },
      body: given,
      cache: 'no-store',
    })
    const text = await response.text()
    if (response.ok) return text
    if (response.status === 401) noteRefused()
    let document = {}
    try { document = JSON.parse(text) } catch { /* something between here and the service has answered */ }
    throw new Problem(response.status, document)
  } catch (error) {
    if (error instanceof Problem || signal?.aborted) throw error
    throw new Unreachable()
  }
}

export const getText = (path, options) => request(path, options)
export const getJson = async (path, options) => JSON.parse(await request(path, options))
export const send = (method, path, body) => perform({ method, path, body })

/** Sends a request that a dialog has shown: `{ method, path, body }`, or with a JSON `text` as its body. */
export async function perform({ method, path, body, text }) {
  const answer = await request(path, { method, body, text })
  return answer ? JSON.parse(answer) : null
}

/** A path of the API with its names encoded: api`/v1/streams/${name}/messages`. */
export const api = (texts, ...names) => String.raw({ raw: texts }, ...names.map(encodeURIComponent))

/** Adds what is given to the query. */
export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== '')
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()
  return text ? `${path}${path.includes('?') ? '&' : '?'}${text}` : path
}
