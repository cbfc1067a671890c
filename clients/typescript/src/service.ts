// The service as a program sees it.
import { consume, type ConsumeOptions, type Handler } from './consuming.ts'
import { Conflict, Unavailable } from './errors.ts'
import { appendMessages, createSubscription, readStream } from './generated/sdk.gen.ts'
import type {
  AggregatedMessage, AppendResult, CaughtUpEvent, FellBehindEvent, Message, NewMessage, SubscriptionDefinition, TrimmedEvent,
} from './generated/types.gen.ts'
import { pause, randomUuid, Transport, type Credential } from './transport.ts'

const PAGE_MESSAGES = 1_000
const CONFLICTS_MAX = 100
const CONFLICT_PAUSE_MAX_MS = 50
const HEARTBEAT_S = 5

export interface HeadwaterOptions {
  credential?: Credential
  /** What cannot be done within this time, the service being away, is `Unavailable`; 30 s if it is not given. */
  timeoutMs?: number
}

/** Gets a stream's messages and says what is to be appended. What it throws is thrown by `change`. */
export type Decide = (history: readonly Message[]) => NewMessage[] | Promise<NewMessage[]>

/** What is followed: one of the first five, or else the whole log. */
export interface FollowOptions {
  stream?: string
  category?: string
  aggregatedStream?: string
  streams?: string[]
  categories?: string[]
  /** `beginning`, `end` (if it is not given), a position or a time; `latest_of_each` of categories. */
  from?: string | number
  lastEventId?: string
  types?: string[]
  filter?: string
  signal?: AbortSignal
}

/** `cursor`, kept together with what was made of the message, is where to go on (`lastEventId`). */
export type Followed =
  | { name: 'message', cursor: string, message: Message, data: Message | AggregatedMessage }
  | { name: 'caught-up', cursor: string, data: CaughtUpEvent }
  | { name: 'fell-behind', cursor: string, data: FellBehindEvent }
  | { name: 'trimmed', cursor: string, data: TrimmedEvent }

export class Headwater {
  readonly transport: Transport

  constructor(url: string, { credential, timeoutMs = 30_000 }: HeadwaterOptions = {}) {
    this.transport = new Transport(url.replace(/\/$/, ''), credential, timeoutMs)
  }

  /**
   * Appends all messages or none. Each gets an id unless it has one, so an answer that was lost is asked for again, and
   * nothing is written twice; yours stay as they are. Throws `Conflict` if the stream has another version; -1 is that of an
   * empty one. `Unavailable` has what was sent in `messages`: sent again, it is written once.
   */
  async append(stream: string, messages: NewMessage[], expectedVersion?: number): Promise<AppendResult> {
    const sent = messages.map(withId)
    const body = { messages: sent, ...(expectedVersion !== undefined && { expected_version: expectedVersion }) }
    try {
      return await this.transport.send<AppendResult>(client => appendMessages({ client, path: { stream_name: stream }, body }))
    } catch (error) {
      if (error instanceof Unavailable) error.messages = sent
      throw error
    }
  }

  /** All messages from a position on, or from the newest one of a type (a snapshot), and the stream's version. */
  async read(stream: string, { from, fromLast }: { from?: number, fromLast?: string } = {}): Promise<{ messages: Message[], version: number }> {
    const messages: Message[] = []
    for (;;) {
      // A stream that was trimmed has no position 0: where it begins is for the service to say.
      const start = from !== undefined ? { from } : fromLast !== undefined ? { from_last: fromLast } : {}
      const page = await this.transport.send(client => readStream({
        client, path: { stream_name: stream }, query: { ...start, limit: PAGE_MESSAGES },
      }))
      messages.push(...page!.messages)
      if (page!.at_end || typeof page!.next !== 'number') return { messages, version: page!.version }
      from = page!.next
    }
  }

  /**
   * Loads, decides and appends. If somebody else has appended meanwhile, reads what has come and decides again, at most 100
   * times. `undefined` if nothing is to be appended.
   */
  async change(stream: string, decide: Decide, options: { fromLast?: string } = {}): Promise<AppendResult | undefined> {
    let { messages: history, version } = await this.read(stream, options)
    for (let conflicts = 0; ; conflicts++) {
      const messages = await decide(history)
      if (messages.length === 0) return undefined
      try {
        return await this.append(stream, messages, version)
      } catch (error) {
        if (!(error instanceof Conflict) || conflicts === CONFLICTS_MAX) throw error
      }
      await pause(Math.random() * CONFLICT_PAUSE_MAX_MS)
      const news = await this.read(stream, { from: version + 1 })
      history = [...history, ...news.messages]
      version = news.version
    }
  }

  /**
   * Follows, and goes on where it was after every lost connection. Throws `Refused` if that cannot be:
   * `/problems/history-changed` (begin anew), `/problems/not-found` (deleted); `TypeError` if `streams` and `categories` are
   * empty.
   */
  async *follow(options: FollowOptions = {}): AsyncGenerator<Followed> {
    const { from = 'end', lastEventId = '', types, filter, signal = new AbortController().signal } = options
    if ((options.streams || options.categories) && !options.streams?.length && !options.categories?.length) {
      throw new TypeError('there is nothing to follow: streams and categories are empty')
    }
    const address = (cursor: string) => {
      const query = {
        heartbeat: `${HEARTBEAT_S}s`, ...(cursor ? { last_event_id: cursor } : { from: String(from) }),
        ...(types && { types: types.join(',') }), ...(filter !== undefined && { filter }),
      }
      return this.transport.client.buildUrl(target(options, query))
    }
    for await (const { name, cursor, data } of this.transport.events(address, lastEventId, HEARTBEAT_S * 1_000, signal)) {
      if (name === 'message') {
        const whole = data as Message | AggregatedMessage
        yield { name, cursor, data: whole, message: 'message' in whole ? whole.message : whole }
      } else if (name === 'caught-up' || name === 'fell-behind' || name === 'trimmed') {
        yield { name, cursor, data } as Followed
      }
    }
  }

  /** Makes the subscription unless it exists with this definition. Throws `Refused` if it has another one. */
  async subscribe(name: string, definition: SubscriptionDefinition): Promise<void> {
    await this.transport.send(client => createSubscription({ client, path: { name }, body: definition }))
  }

  /** Calls `handler` for each message of a subscription until `signal` is aborted; see `consume` in consuming.ts. */
  consume(subscription: string, handler: Handler, options: ConsumeOptions = {}): Promise<void> {
    return consume(this.transport, subscription, handler, options)
  }
}

function target({ stream, category, aggregatedStream, streams, categories }: FollowOptions, query: Record<string, unknown>) {
  if (stream !== undefined) return { url: '/v1/streams/{stream_name}/events', path: { stream_name: stream }, query }
  if (category !== undefined) return { url: '/v1/categories/{category}/events', path: { category }, query }
  if (aggregatedStream !== undefined) return { url: '/v1/aggregated-streams/{name}/events', path: { name: aggregatedStream }, query }
  if (streams || categories) return { url: '/v1/events', query: { ...query, stream_name: streams, category: categories } }
  return { url: '/v1/all/events', query }
}

const withId = (message: NewMessage): NewMessage => ({ ...message, id: message.id || randomUuid() })
