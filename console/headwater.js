// EventSource's interface over one connection for all tabs of a browser: browsers allow six connections of HTTP/1.1. And an
// append that is written once, however often it has to be sent.
//
//   import { append, SharedEventSource } from '/headwater.js'
//   const orders = new SharedEventSource('/v1/categories/order/events?from=beginning&event_names=type')
//   orders.addEventListener('OrderPlaced', event => show(JSON.parse(event.data)))
//   await append('', 'order-1', [{ type: 'OrderPlaced', data: { item: 'Tea' } }], { expectedVersion: -1 })
//
// docs/CLIENTS.md says what is shared, how tickets are renewed, and what happens between origins. The file is a module
// without imports, used as it is: the page runs the upper half, one hub for all tabs the lower half. The hub is a
// SharedWorker; where a page may not start that one, the tab that holds a lock, heard over a BroadcastChannel; where
// there is neither, every tab is its own.
//
// A source first reads what it has missed over a connection of its own, which ends as soon as it has caught up at a
// position. From there on it shares: the shared connection is opened again for it, at the earlier one of both positions.
// Messages that come twice by this are dropped in the tab, which knows what it has dispatched.

/** Raised when tab and hub would not understand each other any more: an old hub lives as long as an old tab. */
const PROTOCOL = 'headwater.js 1'
/** How many sources read history at once: browsers allow six connections, and others need some of them. */
const CATCH_UPS_MAX = 3
/** The service takes so many streams and categories on one connection. */
const SOURCES_MAX = 100
/** Bytes of them in a URL, of which the service takes 8,192 in all: a ticket and a filter need some. */
const SOURCES_BYTES_MAX = 4_000
/** Of a shared cursor that is further behind, the service is asked first where it is: nothing may have come since. */
const BEHIND_MAX = 1_000
/** How long a connection may be quiet; one that is dead is known by three of these. */
const HEARTBEAT = '15s'
const RETRY_MS = 1_000
const RETRY_MAX_MS = 30_000
/** How long a tab may take to get a ticket; then the next one is asked. */
const TICKET_WAIT_MS = 10_000
/** How often an append is sent at most: its answer was lost, or the service cannot take it now. */
const APPEND_ATTEMPTS_MAX = 7
/** The first pause before it is sent again; the next ones are twice as long each. */
const APPEND_RETRY_MS = 200
/** An answer that takes longer is lost. */
const ANSWER_WAIT_MS = 30_000

/** The names of events that are no messages: a message whose type is one of them is named `message`, as the service does. */
const OTHER_EVENTS = ['caught-up', 'trimmed', 'fell-behind', 'heartbeat', 'closing', 'progress', 'error', 'open']

const [CONNECTING, OPEN, CLOSED] = [0, 1, 2]

// ---- In the page

/** See EventSource. Beside its events there are the service's own: `caught-up`, `fell-behind`, `trimmed`, `heartbeat`. */
export class SharedEventSource extends EventTarget {
  static CONNECTING = CONNECTING
  static OPEN = OPEN
  static CLOSED = CLOSED
  CONNECTING = CONNECTING
  OPEN = OPEN
  CLOSED = CLOSED
  readyState = CONNECTING
  lastEventId = ''
  onopen = null
  onmessage = null
  onerror = null
  #id = randomId()
  #request
  #ticket
  #link
  /** How far each source of messages was dispatched, by global position. */
  #seen = new Map()

  /**
   * @param {string | URL} url the address of an event stream
   * @param {object} [options]
   * @param {boolean} [options.withCredentials] send cookies to other origins
   * @param {() => Promise<string | {ticket: string, expires_at?: string} | null>} [options.ticket] gets a ticket, as
   *   `POST /v1/tickets` answers it. Called again before one ends. `null`: there is none, which closes the source.
   * @param {string | (() => string | null | Promise<string | null>)} [options.key] an API key or a JWT, of which tickets are
   *   made here, in the place of `ticket`. `null` is right where the service asks for none; elsewhere it closes the source.
   * @param {string} [options.group] tabs share with those of the same group: one for each set of rights
   */
  constructor(url, { withCredentials = false, ticket, key, group = '' } = {}) {
    super()
    this.url = new URL(url, document.baseURI).href
    this.withCredentials = withCredentials
    this.#ticket = ticket ?? (key === undefined ? undefined : () => ticketFor(this.url, key))
    this.#request = { ...readUrl(new URL(this.url)), withCredentials, group, hasTicket: Boolean(this.#ticket) }
    this.#link = linkFor(this.#request)
    this.#link.add(this.#id, this)
    // As listeners: where one throws, what comes after it is dispatched all the same.
    for (const type of ['open', 'message', 'error']) this.addEventListener(type, event => this[`on${type}`]?.(event))
  }

  /** `worker`, `channel` or `page`: where the connection is. */
  get via() {
    return this.#link.via
  }

  close() {
    this.readyState = CLOSED
    this.#link.remove(this.#id)
  }

  /** What the hub is told, now and whenever there is another hub. */
  joining() {
    return { join: this.#id, request: this.#request }
  }

  /** What the hub says. */
  async take({ events, cursor, isOpen, lost, refused, wantsTicket }) {
    if (wantsTicket) return this.#link.send({ ticketOf: this.#id, ...await this.#getTicket() })
    if (this.readyState === CLOSED) return
    if (cursor) this.#request.cursor = cursor
    if (isOpen) this.#enter(OPEN, new Event('open'))
    if (lost) this.#enter(CONNECTING, Object.assign(new Event('error'), { problem: lost.problem }))
    for (const event of events ?? []) this.#dispatch(event)
    if (!refused) return
    this.close()
    this.#enter(CLOSED, Object.assign(new Event('error'), { problem: refused }))
  }

  async #getTicket() {
    try {
      const given = await this.#ticket()
      return { ticket: typeof given === 'string' ? { ticket: given } : given ?? null }
    } catch (error) {
      const isFinal = error instanceof Problem && !mayPass(error.status)
      return isFinal ? { ticket: null, problem: { ...error } } : {}
    }
  }

  #enter(state, event) {
    this.readyState = state
    this.dispatchEvent(event)
  }

  #dispatch({ name, data, id, at, source, type, streamId }) {
    if (this.readyState === CLOSED) return
    if (at !== undefined) {
      if (at <= (this.#seen.get(source) ?? -1)) return
      this.#seen.set(source, at)
    }
    // Of one stream, ids are positions in it, as they are without sharing.
    if (id && !(this.#request.isStream && !streamId)) this.lastEventId = this.#request.isStream ? streamId : id
    const isNamedByType = type !== undefined && this.#request.isNamedByType && !OTHER_EVENTS.includes(type)
    const eventName = isNamedByType ? type : name
    this.dispatchEvent(new MessageEvent(eventName, { data, lastEventId: this.lastEventId, origin: new URL(this.url).origin }))
  }
}

/**
 * Appends messages to a stream, all or none, once: each has an id, its own or one that is made here, by which the service
 * knows what is sent again. It is sent again when no answer has come, and when the service cannot take it now.
 *
 * @param {string | URL} baseUrl where the service is; `''` is the page's own origin
 * @param {string} streamName
 * @param {{id?: string, type: string, data?: unknown, metadata?: unknown, time?: string}[]} messages
 * @param {object} [options]
 * @param {number} [options.expectedVersion] -1: the stream is empty; none: whatever it is
 * @param {string | (() => string | null | Promise<string | null>)} [options.key] an API key or a JWT
 * @returns {Promise<{stream_name: string, version: number, duplicate: boolean, messages: object[]}>}
 * @throws {Problem} also when it was given up; `problem.messages` have their ids: sent again, they are not written twice. So has
 *   what `key` throws once something was sent
 */
export async function append(baseUrl, streamName, messages, { expectedVersion, key } = {}) {
  const sent = messages.map(message => ({ ...message, id: message.id ?? randomUuid() }))
  const url = `${String(baseUrl).replace(/\/+$/, '')}/v1/streams/${encodeURIComponent(streamName)}/messages`
  let isSent = false
  for (let attempt = 1; ; attempt++) {
    try {
      const credential = await credentialOf(key)
      isSent = true
      return await ask(url, credential, { expected_version: expectedVersion, messages: sent })
    } catch (error) {
      if (!isSent) throw error
      const isOver = !(error instanceof Problem) || !mayPass(error.status) || attempt === APPEND_ATTEMPTS_MAX
      if (isOver) throw Object.assign(error instanceof Error ? error : new Error(String(error), { cause: error }), { messages: sent })
      const grown = error.retryAfterMs || APPEND_RETRY_MS * 2 ** (attempt - 1)
      await pause(Math.min(RETRY_MAX_MS, grown) * (1 + Math.random() / 4))
    }
  }
}

/** What was answered in the place of a success: the fields of the problem document. `status` is 0 where no answer has come. */
export class Problem extends Error {
  static {
    this.prototype.name = 'Problem'
  }

  constructor(document, { retryAfterMs, cause } = {}) {
    super(document.detail ?? document.title, { cause })
    Object.assign(this, document)
    // No fact of the document, so not among those that are listed.
    Object.defineProperty(this, 'retryAfterMs', { value: retryAfterMs })
  }
}

/** A ticket for all that a key may read: tabs with other sources share the connection that it opens. */
async function ticketFor(url, key) {
  const credential = await credentialOf(key)
  const api = url.replace(/\/v1\/.*/, '/v1')
  const { scopes } = await ask(`${api}/caller`, credential)
  const mayRead = scopes.includes('admin') ? ['read:*'] : scopes.filter(scope => scope.startsWith('read:'))
  return ask(`${api}/tickets`, credential, { scopes: mayRead })
}

/** Gets JSON, or posts a body. */
async function ask(url, credential, body) {
  let response, answer
  try {
    response = await fetch(url, {
      method: body ? 'POST' : 'GET', body: body && JSON.stringify(body), cache: 'no-store', signal: AbortSignal.timeout(ANSWER_WAIT_MS),
      headers: { ...(body && { 'content-type': 'application/json' }), ...(credential && { authorization: `Bearer ${credential}` }) },
    })
    answer = response.ok ? await response.json() : await problemOf(response)
  } catch (cause) {
    throw new Problem({ type: 'about:blank', title: 'No answer', status: 0, detail: 'The service cannot be reached.' }, { cause })
  }
  if (response.ok) return answer
  throw new Problem(answer, { retryAfterMs: retryAfterMs(response) })
}

/** What a URL asks for, and what of it may be shared: streams and categories with other streams and categories. */
function readUrl(url) {
  const params = url.searchParams
  const take = name => {
    const values = params.getAll(name)
    params.delete(name)
    return values
  }
  const isNamedByType = take('event_names').includes('type')
  const [from = 'end'] = take('from')
  const [cursor = ''] = take('last_event_id')
  const [, root, kind, name] = /^(.*\/v1\/)(?:([a-z-]+)\/([^/]+)\/)?events$/.exec(url.pathname) ?? []
  const isStream = kind === 'streams'
  // A place in one stream says nothing of other streams, and to consume a subscription is to take messages from others.
  const isAlone = !root || kind === 'subscriptions' || (isStream && (cursor !== '' || /^\d+$/.test(from)))
  const sources = []
  if (!isAlone && (isStream || kind === 'categories')) {
    sources.push(new URLSearchParams([[isStream ? 'stream_name' : 'category', decodeURIComponent(name)]]).toString())
    url.pathname = `${root}events`
  } else if (!kind && root && !params.has('aggregated_stream')) {
    for (const which of ['stream_name', 'category']) {
      for (const one of take(which)) sources.push(new URLSearchParams([[which, one]]).toString())
    }
  }
  if (!params.has('heartbeat')) params.set('heartbeat', HEARTBEAT)
  params.sort()
  return { address: url.href, sources, from, cursor, isNamedByType, isAlone, isStream: isStream && !isAlone }
}

/** The page's end of a way to a hub. */
class Link {
  #sources = new Map()
  #page = randomId()
  /** While this lock is held, the page lives: the hub waits for it. It needs a page of https or localhost. */
  #isHeld = new Promise(resolve => {
    if (!navigator.locks) return resolve()
    navigator.locks.request(pageLock(this.#page), () => (resolve(), new Promise(() => {})))
  })

  constructor() {
    addEventListener('pagehide', () => this.send({ leave: [...this.#sources.keys()] }))
    addEventListener('pageshow', event => event.persisted && this.joinAll())
  }

  async add(id, source) {
    this.#sources.set(id, source)
    await this.#isHeld
    if (this.#sources.has(id)) this.send(source.joining())
  }

  remove(id) {
    if (this.#sources.delete(id)) this.send({ leave: [id] })
  }

  /** There is another hub, which knows nobody. */
  joinAll() {
    for (const source of this.#sources.values()) this.send(source.joining())
  }

  send(message) {
    this.post({ page: this.#page, ...message })
  }

  receive({ to, isNewHub, ...what }) {
    if (isNewHub) this.joinAll()
    for (const id of to ?? []) this.#sources.get(id)?.take(what)
  }
}

class WorkerLink extends Link {
  via = 'worker'
  #worker = new SharedWorker(import.meta.url, { type: 'module', name: PROTOCOL })

  constructor() {
    super()
    this.#worker.port.onmessage = event => this.receive(event.data)
    // The page's policy forbids it, or the browser knows no modules there.
    this.#worker.onerror = () => this.#giveUp()
  }

  post(message) {
    if (this.instead) this.instead.post(message)
    else this.#worker.port.postMessage(message)
  }

  #giveUp() {
    this.instead = navigator.locks ? new ChannelLink() : new LocalLink()
    this.instead.receive = message => this.receive(message)
    this.via = this.instead.via
    this.joinAll()
  }
}

class ChannelLink extends Link {
  via = 'channel'
  #channel = new BroadcastChannel(PROTOCOL)

  constructor() {
    super()
    this.#channel.onmessage = event => this.receive(event.data)
    navigator.locks.request(PROTOCOL, () => this.#lead())
  }

  post(message) {
    // The tab with the hub does not hear itself.
    if (this.hub) this.hub.take(message)
    else this.#channel.postMessage(message)
  }

  /** From here on the hub is in this tab, until it is closed. */
  #lead() {
    this.hub = new Hub(message => {
      this.#channel.postMessage(message)
      queueMicrotask(() => this.receive(message))
    })
    this.#channel.onmessage = event => event.data.page && this.hub.take(event.data)
    this.hub.send({ isNewHub: true })
    return new Promise(() => {})
  }
}

class LocalLink extends Link {
  via = 'page'
  #hub = new Hub(message => queueMicrotask(() => this.receive(message)))

  post(message) {
    this.#hub.take(message)
  }
}

/** One of each is enough for a page. */
const links = new Map()

function linkFor({ isAlone }) {
  const mayWork = !isAlone && self.SharedWorker && new URL(import.meta.url).origin === location.origin
  const kind = mayWork ? WorkerLink : !isAlone && navigator.locks ? ChannelLink : LocalLink
  if (!links.has(kind)) links.set(kind, new kind())
  return links.get(kind)
}

// ---- In the hub

/** Knows all sources of all tabs, and connects for them. */
class Hub {
  #clients = new Map()
  #groups = new Map()
  #pages = new Set()
  catchUps = new Slots(CATCH_UPS_MAX)

  constructor(send) {
    this.send = send
  }

  take({ page, join, request, leave, ticketOf, ticket, problem }) {
    if (join && !this.#clients.has(join)) {
      this.#clients.set(join, new Client(this, page, join, request))
      this.#watch(page)
    }
    for (const id of leave ?? []) this.drop(this.#clients.get(id))
    if (ticketOf) this.#clients.get(ticketOf)?.takeTicket(ticket, problem)
  }

  drop(client) {
    if (!client) return
    this.#clients.delete(client.id)
    client.leave()
  }

  /** A tab that crashed says nothing, but its lock is free then. */
  #watch(page) {
    if (!globalThis.navigator?.locks || this.#pages.has(page)) return
    this.#pages.add(page)
    navigator.locks.request(pageLock(page), () => {
      this.#pages.delete(page)
      for (const client of [...this.#clients.values()].filter(client => client.page === page)) this.drop(client)
    })
  }

  /** The group with room for a client's sources. */
  groupFor(client) {
    const { address, withCredentials, group, hasTicket } = client.request
    for (let n = 0; ; n++) {
      const key = JSON.stringify([address, withCredentials, group, hasTicket, n])
      if (!this.#groups.has(key)) this.#groups.set(key, new Group(this, client.request, () => this.#groups.delete(key)))
      if (this.#groups.get(key).hasRoomFor(client)) return this.#groups.get(key)
    }
  }
}

/** One source of a tab: catches up by itself, then belongs to a group. */
class Client {
  isLive = false
  #tickets = []
  #ticket

  constructor(hub, page, id, request) {
    Object.assign(this, { hub, page, id, request, cursor: request.cursor, wanted: new Set(request.sources) })
    this.catchUp()
  }

  catchUp() {
    const { request, hub } = this
    this.connection = new Connection({
      request, slots: request.isAlone ? undefined : hub.catchUps,
      address: () => withParams(request.address, [...request.sources, this.#start()]),
      ticket: () => this.ticket(),
      onOpen: () => this.say({ isOpen: true }),
      onLost: problem => this.say({ lost: { problem } }),
      onRefused: problem => this.refuse(problem),
      onEvents: events => this.#take(events),
    })
  }

  #start() {
    return this.cursor === '' ? `from=${encodeURIComponent(this.request.from)}` : `last_event_id=${encodeURIComponent(this.cursor)}`
  }

  #take(events) {
    const { isAlone } = this.request
    // A heartbeat before it has caught up: it waits for a projection, which others may wait for together.
    const last = isAlone ? -1 : events.findIndex(({ name }) => name === 'caught-up' || name === 'heartbeat')
    const mine = last < 0 ? events : events.slice(0, last + 1)
    for (const event of mine) this.cursor = cursorAfter(event, this.cursor)
    const told = mine.filter(({ name }) => name !== undefined && name !== 'closing')
    this.say({ events: told, cursor: isAlone ? undefined : this.cursor })
    if (last < 0) return
    this.isLive = events[last].name === 'caught-up'
    // It goes on where the service says, or from its beginning.
    if (this.cursor === '') this.cursor = '0'
    this.connection.close()
    this.group = this.hub.groupFor(this)
    this.group.join(this)
  }

  /** A ticket that has not ended; `null` if the tab has none, `undefined` if it does not answer. */
  async ticket() {
    if (this.#ticket?.until > Date.now()) return this.#ticket
    const answer = new Promise(resolve => {
      this.#tickets.push(resolve)
      setTimeout(resolve, TICKET_WAIT_MS)
    })
    this.say({ wantsTicket: true })
    const { ticket: given, problem } = await answer ?? {}
    if (given === null) this.refuse(problem ?? { type: '/problems/unauthenticated', title: 'There is no ticket', status: 401 })
    if (!given) return given
    const ends = Date.parse(given.expires_at)
    const lifetime = ends - Date.now()
    // Renewed when a tenth is left. Of a ticket that seems to have ended already, a clock is wrong: the service will say.
    const until = lifetime > 0 ? ends - lifetime / 10 : Infinity
    this.#ticket = { ...given, until, forget: () => { this.#ticket = undefined } }
    return this.#ticket
  }

  takeTicket(ticket, problem) {
    for (const resolve of this.#tickets.splice(0)) resolve({ ticket, problem })
  }

  say(what) {
    this.hub.send({ to: [this.id], ...what })
  }

  refuse(problem) {
    this.say({ refused: problem })
    this.hub.drop(this)
  }

  leave() {
    this.connection.close()
    this.takeTicket(undefined)
    this.group?.leave(this)
  }
}

/** Clients that share one connection: they differ in sources only. */
class Group {
  #clients = new Set()
  /** Those that have caught up, until the connection has their sources and their place. */
  #waiting = new Set()
  #sources = new Set()
  #cursor = ''
  #wasOpen = false
  #connection

  constructor(hub, request, onEmpty) {
    Object.assign(this, { hub, request, onEmpty })
  }

  hasRoomFor(client) {
    const all = new Set([client, ...this.#clients, ...this.#waiting].flatMap(({ request }) => request.sources))
    // What is too much by itself has a connection of its own.
    return all.size === client.wanted.size || (all.size <= SOURCES_MAX && [...all].join('&').length <= SOURCES_BYTES_MAX)
  }

  join(client) {
    this.#waiting.add(client)
    const isNew = [...client.wanted].some(source => !this.#sources.has(source))
    const isBehind = position(client.cursor) - position(this.#cursor) > BEHIND_MAX
    if (this.#connection && isNew && isBehind) this.#connection.reopen()
    else this.#admit()
  }

  leave(client) {
    this.#waiting.delete(client)
    if (!this.#clients.delete(client)) return
    if (this.#clients.size === 0) return this.#end()
    const wanted = this.#wanted()
    if (wanted.size < this.#sources.size) this.#connection.reopen()
    this.#sources = wanted
  }

  #wanted() {
    return new Set([...this.#clients].flatMap(({ request }) => request.sources))
  }

  #end() {
    this.#connection?.close()
    this.#connection = undefined
    this.#cursor = ''
    if (this.#waiting.size > 0) this.#admit()
    else this.onEmpty()
  }

  #admit() {
    let isMoved = !this.#connection
    for (const client of this.#waiting) {
      this.#clients.add(client)
      if (this.#cursor === '' || position(client.cursor) < position(this.#cursor)) {
        this.#cursor = client.cursor
        isMoved = true
      }
    }
    this.#waiting.clear()
    const wanted = this.#wanted()
    isMoved ||= wanted.size > this.#sources.size
    this.#sources = wanted
    if (!this.#connection) this.#connect()
    // Who has caught up just now has reached the service: the others need not wait any longer.
    else if (isMoved || this.#connection.isLost) this.#connection.reopen()
  }

  #connect() {
    this.#wasOpen = false
    this.#connection = new Connection({
      request: this.request,
      address: () => withParams(this.request.address, [...this.#sources, `last_event_id=${encodeURIComponent(this.#cursor)}`]),
      ticket: () => this.#ticket(),
      onOpen: isBack => this.#opened(isBack),
      onLost: problem => this.#lost(problem),
      onRefused: problem => this.#refused(problem),
      onEvents: events => this.#take(events),
    })
  }

  #opened(isBack) {
    this.#wasOpen = true
    if (isBack) this.#tell([...this.#clients], { isOpen: true })
  }

  #lost(problem) {
    for (const client of this.#clients) client.isLive = false
    this.#tell([...this.#clients, ...this.#waiting], { lost: { problem } })
  }

  /** Each client asks by itself whether it is the one that is refused; the others come together again. */
  #refused(problem) {
    const all = [...this.#clients, ...this.#waiting]
    for (const client of this.#clients) client.cursor = this.#cursor
    this.#clients.clear()
    this.#waiting.clear()
    const wasOpen = this.#wasOpen
    this.#end()
    for (const client of all) {
      client.group = undefined
      if (wasOpen) client.catchUp()
      else client.refuse(problem)
    }
  }

  #take(events) {
    for (const event of events) this.#cursor = cursorAfter(event, this.#cursor)
    const alike = new Map()
    for (const client of this.#clients) {
      const key = [client.isLive, ...client.wanted].join()
      alike.set(key, [...alike.get(key) ?? [], client])
    }
    for (const clients of alike.values()) this.#pass(clients, events)
    if (events.some(({ name }) => name === 'caught-up') && this.#waiting.size > 0) this.#admit()
  }

  /** Passes on what is for clients with the same sources. They are not told that the connection was opened for others. */
  #pass(clients, events) {
    let [{ isLive, wanted }] = clients
    const told = events.filter(event => {
      if (event.name === 'caught-up') return !isLive && (isLive = true)
      if (event.name === 'fell-behind') return isLive && !(isLive = false)
      if (event.name === undefined || event.name === 'closing') return false
      return !event.sources || wanted.size === 0 || event.sources.some(one => wanted.has(one))
    })
    for (const client of clients) client.isLive = isLive
    this.#tell(clients, { events: told.map(({ sources, ...event }) => event), cursor: this.#cursor })
  }

  #tell(clients, what) {
    if (clients.length > 0) this.hub.send({ to: clients.map(({ id }) => id), ...what })
  }

  async #ticket() {
    for (const client of [...this.#clients]) {
      const ticket = await client.ticket()
      if (ticket) return ticket
    }
  }
}

/** An event stream that connects again by itself, from where its address says. */
class Connection {
  #isClosed = false
  #attempt = new AbortController()
  #retryMs = RETRY_MS
  #failures = 0
  /** A ticket was refused, and another one is tried. */
  #isRenewed = false
  isLost = false

  constructor(options) {
    Object.assign(this, options)
    this.#run()
  }

  close() {
    this.#isClosed = true
    this.#attempt.abort()
  }

  /** At once and in silence. */
  reopen() {
    this.#attempt.abort(REOPENED)
  }

  async #run() {
    while (!this.#isClosed) {
      this.#attempt = new AbortController()
      const { refused, problem, pauses } = await this.#once().catch(() => ({ pauses: true }))
      if (this.#isClosed) return
      if (refused) {
        this.#isClosed = true
        return this.onRefused(refused)
      }
      if (this.#attempt.signal.reason === REOPENED || !pauses) continue
      this.isLost = true
      this.onLost(problem)
      const grown = Math.min(RETRY_MAX_MS, this.#retryMs * 2 ** this.#failures++)
      // The attempt may have been given up already, and then hears of nothing.
      this.#attempt = new AbortController()
      await pause(grown * (1 + Math.random() / 4), this.#attempt)
    }
  }

  async #once() {
    const free = await this.slots?.take()
    let renewal
    try {
      const ticket = this.request.hasTicket ? await this.ticket() : undefined
      if (this.#isClosed) return {}
      if (this.request.hasTicket && !ticket) return { pauses: true }
      const address = ticket ? withParams(this.address(), [`ticket=${encodeURIComponent(ticket.ticket)}`]) : this.address()
      const response = await this.#watched(fetch(address, {
        headers: { accept: 'text/event-stream' }, cache: 'no-store', signal: this.#attempt.signal,
        credentials: this.request.withCredentials ? 'include' : 'same-origin',
      }))
      if (!response.ok) return await this.#judge(response, ticket)
      const left = ticket?.until - Date.now()
      if (left < 2 ** 31) renewal = setTimeout(() => this.reopen(), left)
      this.onOpen(this.isLost)
      this.isLost = false
      return await this.#read(response.body, ticket)
    } finally {
      clearTimeout(renewal)
      free?.()
    }
  }

  /** A connection that is dead without having been closed is as quiet as one that only has heartbeats to wait for. */
  #watched(answer) {
    const attempt = this.#attempt
    const watch = setTimeout(() => attempt.abort(), 3 * heartbeatMs(this.request.address))
    return answer.finally(() => clearTimeout(watch))
  }

  async #judge(response, ticket) {
    const { status } = response
    const problem = await problemOf(response)
    this.#retryMs = retryAfterMs(response) || RETRY_MS
    if (mayPass(status)) return { pauses: true, problem }
    if (status !== 401 || !ticket || this.#isRenewed) return { refused: problem }
    // The ticket has ended. If the next one is refused too, it is something else.
    ticket.forget()
    this.#isRenewed = true
    return {}
  }

  async #read(body, ticket) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader()
    const began = Date.now()
    let rest = ''
    let reason
    for (;;) {
      const { done, value } = await this.#watched(reader.read())
      if (done || this.#isClosed) break
      const frames = (rest + value).split('\n\n')
      rest = frames.pop()
      const events = frames.map(parse)
      for (const { name, data, retry } of events) {
        if (retry) this.#retryMs = retry
        if (name === 'closing') ({ reason } = JSON.parse(data))
      }
      this.#failures = 0
      this.#isRenewed = false
      this.onEvents(events.filter(({ name, id }) => name !== undefined || id))
    }
    if (reason === 'replaced') return { refused: { title: 'Another connection has joined under this name', reason } }
    if (reason === 'expired') ticket?.forget()
    // What ends at once each time is not asked for again at once.
    const isAsked = ['expired', 'deleted', 'history-changed', 'removed'].includes(reason)
    return { pauses: !isAsked || Date.now() - began < RETRY_MS }
  }
}

/** Lets so many at once, the others in their order. */
class Slots {
  #waiting = []

  constructor(free) {
    this.free = free
  }

  async take() {
    if (this.free > 0) this.free--
    else await new Promise(resolve => this.#waiting.push(resolve))
    return () => {
      const next = this.#waiting.shift()
      if (next) next()
      else this.free++
    }
  }
}

/** One frame, and of a message what tabs need to know of it: its place, its type, and the sources that have it. */
function parse(frame) {
  const fields = {}
  for (const line of frame.split('\n')) {
    const at = line.indexOf(': ')
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2)
  }
  const { event: name, data, id, retry } = fields
  if (name !== 'message') return { name, data, id, retry: Number(retry) || 0 }
  const whole = JSON.parse(data)
  const message = whole.message ?? whole
  const { type, stream_name, position, global_position } = message
  const told = { name, data, id, type, source: whole.aggregated_stream ?? '' }
  if (!id) return told
  return {
    ...told, at: global_position, streamId: `${position}~${message.id.slice(-8)}`,
    sources: [['stream_name', stream_name], ['category', stream_name.split('-', 1)[0]]].map(one => new URLSearchParams([one]).toString()),
  }
}

/** The cursor after an event. At a position that only some of several sources have been seen at, it stays before that. */
function cursorAfter({ name, data, id }, cursor) {
  if (name === 'caught-up') {
    // Its id may be that of an earlier message, if there is none at the position.
    const at = JSON.parse(data).position
    return position(id) === at ? id : String(at)
  }
  return id && !id.includes('.') && !(position(id) < position(cursor)) ? id : cursor
}

const REOPENED = 'reopened'
const position = cursor => Number.parseInt(cursor, 10)
const pageLock = page => `${PROTOCOL} ${page}`
const randomId = () => [...crypto.getRandomValues(new Uint8Array(12))].map(byte => byte.toString(16).padStart(2, '0')).join('')
const credentialOf = async key => (typeof key === 'function' ? key() : key)
const mayPass = status => status === 0 || status >= 500 || status === 429 || status === 408
const retryAfterMs = response => 1_000 * response.headers.get('retry-after')
const problemOf = async response => {
  const document = await response.json().catch(() => ({ type: 'about:blank', title: response.statusText }))
  return { ...document, status: response.status }
}
const withParams = (address, params) => `${address}${address.includes('?') ? '&' : '?'}${params.join('&')}`

function heartbeatMs(address) {
  const [, number, unit] = /^(\d+)(ms|s|m)$/.exec(new URL(address).searchParams.get('heartbeat')) ?? /^(\d+)(s)$/.exec(HEARTBEAT)
  return number * { ms: 1, s: 1_000, m: 60_000 }[unit]
}

/** Of version 7, as the service's own; `crypto.randomUUID` is for pages of https and localhost only. */
function randomUuid() {
  const [time, chance] = [Date.now().toString(16).padStart(12, '0'), randomId()]
  return `${time.slice(0, 8)}-${time.slice(8)}-7${chance.slice(0, 3)}-8${chance.slice(3, 6)}-${chance.slice(6, 18)}`
}

function pause(ms, { signal } = {}) {
  return new Promise(resolve => {
    setTimeout(resolve, ms)
    signal?.addEventListener('abort', resolve)
  })
}

// The worker that all tabs of the origin share.
if (self.SharedWorkerGlobalScope && self instanceof SharedWorkerGlobalScope) {
  const ports = new Map()
  const hub = new Hub(({ to, ...what }) => {
    const byPort = new Map()
    for (const id of to ?? []) byPort.set(ports.get(id), [...byPort.get(ports.get(id)) ?? [], id])
    for (const [port, ids] of byPort) port?.postMessage({ to: ids, ...what })
  })
  self.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data }) => {
      if (data.join) ports.set(data.join, port)
      hub.take(data)
      for (const id of data.leave ?? []) ports.delete(id)
    }
  }
}
