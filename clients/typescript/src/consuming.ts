// A consumer of a subscription: its handlers, its acks, and what it does when a partition is taken from it.
import { HeadwaterError, Refused, Unavailable } from './errors.ts'
import type { Client } from './generated/client/index.ts'
import { ackMessages, listPending, nackMessages, readSubscription, removeConsumer } from './generated/sdk.gen.ts'
import type {
  AssignedEvent, DeliveredMessage, DeliveryPlace, Message, Nack, NackAction, NackResult, RevokedEvent, SubscriptionDefinition,
} from './generated/types.gen.ts'
import { randomUuid, type Answer, type Event, type Transport } from './transport.ts'

const HEARTBEAT_S = 2
/** Acks wait so long for others to be sent with them, unless half of what may be in flight waits already. */
const ACK_DELAY_MS = 50
const ACKS_MAX = 1_000
const PENDING_MAX = 1_000
const REASON_MAX = 2_000
/** What a reason may be refused as. */
const UNREADABLE = ['/problems/invalid', '/problems/malformed-request']

export type Handler = (message: Message) => unknown

export interface ConsumeOptions {
  /** The consumer's name in its group; one is made up if it is not given. */
  consumer?: string
  /** How many handlers run at once at most; 32 if it is not given. */
  maxInFlight?: number
  /** When it is aborted, what is being handled is finished and acked, and the consumer leaves. */
  signal?: AbortSignal
  /** Told of what goes wrong and is tried again. */
  onWarning?: (error: unknown) => void
}

/** Thrown by a handler: no attempt will ever change this message, so put it aside, where people can look at it. */
export class Park extends Error {}

/** What is handled in order, one after the other: a partition under one epoch, or a message of a competing subscription. */
class Lane {
  readonly epoch: number
  waiting: DeliveredMessage[] = []
  isLost = false
  /**
   * The message that was refused last. Does it come again, then what was on its way behind it comes again too, after it; was
   * it parked, then that is all there is of it. Only the service knows: see `#isStale`.
   */
  refused: DeliveredMessage | undefined

  constructor(epoch: number) {
    this.epoch = epoch
  }
}

/**
 * Consumes a subscription.
 *
 * Messages of a partition are handled in order, one after the other; those of different partitions, and of competing
 * subscriptions, by at most `maxInFlight` handlers at once. A message is acked once its handler has resolved; acks are sent
 * in batches. A handler that throws has its message delivered again as the subscription says, after those before it in its
 * partition were acked; `Park` puts it aside. Of a partition that goes to another consumer what waits is dropped; what is
 * being handled is acked as long as the service takes it, unless the partition begins anew. Handlers may see a message twice,
 * after a crash for example: that is for them to bear.
 */
export async function consume(transport: Transport, subscription: string, handler: Handler, options: ConsumeOptions): Promise<void> {
  const found = await transport.send(client => readSubscription({ client, path: { name: subscription } }))
  await new Consumer(transport, subscription, handler, found!.definition, options).run()
}

class Consumer {
  readonly #name: string
  readonly #maxInFlight: number
  readonly #stop: AbortSignal
  readonly #warn: (error: unknown) => void
  readonly #ended = new AbortController()
  readonly #lanes = new Map<number, Lane>()
  /** Partitions that are being handled, or are to be: one after the other, across epochs. */
  readonly #busy = new Set<number>()
  readonly #ready: (() => Promise<void>)[] = []
  /** What was handled and is to be acked. */
  #acks: { lane: Lane, place: DeliveryPlace }[] = []
  #running = 0
  /**
   * No handler begins any more, but the event stream stays open for those that run: without it, the messages that they
   * handle would go to other consumers at once.
   */
  #isStopping = false
  #timer: ReturnType<typeof setTimeout> | undefined
  #sending: Promise<void> = Promise.resolve()
  #whenIdle = () => {}
  #failure: unknown
  readonly #transport: Transport
  readonly #subscription: string
  readonly #handler: Handler
  readonly #definition: SubscriptionDefinition

  constructor(transport: Transport, subscription: string, handler: Handler, definition: SubscriptionDefinition, options: ConsumeOptions) {
    this.#transport = transport
    this.#subscription = subscription
    this.#handler = handler
    this.#definition = definition
    this.#name = options.consumer ?? `consumer-${randomUuid()}`
    this.#maxInFlight = options.maxInFlight ?? 32
    this.#stop = options.signal ?? new AbortController().signal
    this.#warn = options.onWarning ?? (() => {})
  }

  async run(): Promise<void> {
    let stop = () => {}
    const stopped = new Promise<void>(resolve => { stop = resolve })
    this.#stop.addEventListener('abort', stop)
    if (this.#stop.aborted) stop()
    const reading = this.#read()
    await Promise.race([stopped, reading])
    this.#stop.removeEventListener('abort', stop)
    this.#isStopping = true
    while (this.#running > 0) await new Promise<void>(resolve => { this.#whenIdle = resolve })
    await this.#leave()
    this.#ended.abort()
    await reading
    if (this.#failure !== undefined) throw this.#failure
  }

  async #read(): Promise<void> {
    const address = () => this.#transport.client.buildUrl({
      url: '/v1/subscriptions/{name}/events', path: { name: this.#subscription },
      query: { consumer: this.#name, max_in_flight: this.#maxInFlight, heartbeat: `${HEARTBEAT_S}s` },
    })
    try {
      for await (const event of this.#transport.events(address, '', HEARTBEAT_S * 1_000, this.#ended.signal)) {
        this.#take(event)
        if (event.name === 'disconnected' && !this.#begins()) break
      }
    } catch (error) {
      this.#fail(error)
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= error
    this.#ended.abort()
  }

  /** Whether handlers may begin. */
  #begins(): boolean {
    return !(this.#isStopping || this.#stop.aborted || this.#ended.signal.aborted)
  }

  #take({ name, data }: Event): void {
    if (name === 'message') {
      this.#begin(data as DeliveredMessage)
    } else if (name === 'assigned') {
      const { partition, epoch } = data as AssignedEvent
      this.#lose(partition)
      this.#lanes.set(partition, new Lane(epoch))
    } else if (name === 'revoked') {
      const { partition, reason } = data as RevokedEvent
      // What is done, and what is being handled, is acked as long as it is this consumer's: the service judges.
      if (reason === 'rebalance') this.#leaveToOthers(partition)
      else this.#lose(partition)
    } else if (name === 'disconnected') {
      // Whatever is still this consumer's is delivered again. What is being handled is acked: the service judges.
      for (const lane of this.#lanes.values()) lane.waiting.length = 0
      this.#lanes.clear()
    }
  }

  #leaveToOthers(partition: number): void {
    const lane = this.#lanes.get(partition)
    if (lane) lane.waiting.length = 0
    this.#lanes.delete(partition)
  }

  /** What waits of it is dropped. What is being handled is finished, and only then the partition's next message begins. */
  #lose(partition: number): void {
    const lane = this.#lanes.get(partition)
    if (lane) lane.isLost = true
    this.#lanes.delete(partition)
  }

  #begin(delivery: DeliveredMessage): void {
    if (!this.#begins()) return
    const { partition, epoch } = delivery
    if (this.#definition.mode === 'competing') {
      this.#queue(() => this.#handle(new Lane(epoch), delivery))
      return
    }
    const lane = this.#lanes.get(partition)
    if (lane?.epoch !== epoch) return
    lane.waiting.push(delivery)
    if (this.#busy.has(partition)) return
    this.#busy.add(partition)
    this.#queue(() => this.#handlePartition(partition))
  }

  #queue(work: () => Promise<void>): void {
    this.#ready.push(work)
    this.#startNext()
  }

  #startNext(): void {
    while (this.#running < this.#maxInFlight && this.#ready.length > 0 && this.#begins()) {
      const work = this.#ready.shift()!
      this.#running++
      work().catch(error => this.#fail(error)).finally(() => {
        this.#running--
        if (this.#running === 0) this.#whenIdle()
        this.#startNext()
      })
    }
  }

  async #handlePartition(partition: number): Promise<void> {
    for (;;) {
      // The lane of the epoch that counts now.
      const lane = this.#lanes.get(partition)
      const delivery = this.#begins() ? lane?.waiting.shift() : undefined
      if (!lane || !delivery) break
      // Each by itself: what waits behind a stale message may have come anew already, where that one was parked.
      if (await this.#isStale(lane, delivery)) continue
      // While that was found out, the partition may have gone, or the consumer been stopped.
      if (this.#lanes.get(partition) === lane && this.#begins()) await this.#handle(lane, delivery)
    }
    this.#busy.delete(partition)
  }

  /** Whether it was on its way behind a refused message that comes again, and so comes again itself. */
  async #isStale(lane: Lane, delivery: DeliveredMessage): Promise<boolean> {
    const { refused } = lane
    if (!refused || delivery.position < refused.position) return false
    if (delivery.position > refused.position && !await this.#isStillDue(refused, delivery)) return true
    lane.refused = undefined
    return false
  }

  /**
   * Whether a message behind a refused one is to be handled as it came. `max_deliveries` does not tell, since it may be
   * changed at any time; but what comes again is not pending until then.
   */
  async #isStillDue(refused: DeliveredMessage, delivery: DeliveredMessage): Promise<boolean> {
    const query = { consumer: this.#name, after: `${refused.partition}:${refused.position - 1}`, limit: PENDING_MAX }
    const found = await this.#unlessAway(client => listPending({ client, path: { name: this.#subscription }, query }))
    if (!found) return false
    const counts = new Map(found.pending.filter(({ partition }) => partition === refused.partition)
      .map(({ position, delivery_count }) => [position, delivery_count]))
    // Its nack has not arrived: an ack of what is behind it would be its ack, too.
    if (counts.get(refused.position) === refused.delivery_count) return false
    // One before it that is pending is yet to come, and it comes again behind that.
    const behind = [...counts.keys()].filter(position => position > refused.position)
    return behind.length > 0 ? delivery.position === Math.min(...behind) : await this.#isAckedAsDelivered()
  }

  /** Whether the subscription is one of `ack: "auto"` now. */
  async #isAckedAsDelivered(): Promise<boolean> {
    const found = await this.#unlessAway(client => readSubscription({ client, path: { name: this.#subscription } }))
    return found?.definition.ack === 'auto'
  }

  async #unlessAway<T>(request: (client: Client) => Promise<Answer<T>>): Promise<T | undefined> {
    try {
      return await this.#transport.send(request)
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error
      this.#warn(error)
      return undefined
    }
  }

  async #handle(lane: Lane, delivery: DeliveredMessage): Promise<void> {
    const { partition, position, epoch, message } = delivery
    try {
      await this.#handler(message)
    } catch (error) {
      if (error instanceof Park) return this.#refuse(lane, delivery, 'park', textOf(error))
      this.#warn(error)
      return this.#refuse(lane, delivery, 'retry', textOf(error))
    }
    if (lane.isLost) return
    // Each by itself: the ack of a later message stands for those before it, but not for a parked one that is replayed, and a
    // delivery does not say which it is.
    this.#acks.push({ lane, place: { partition, position, epoch } })
    if (this.#acks.length >= Math.max(1, Math.floor(this.#maxInFlight / 2))) this.#sendAcksSoon(0)
    else this.#sendAcksSoon(ACK_DELAY_MS)
  }

  #sendAcksSoon(ms: number): void {
    if (ms > 0 && this.#timer !== undefined) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#sendAcks().catch(error => this.#fail(error))
    }, ms)
  }

  /** One batch after the other: a partition's acks must not overtake each other. */
  #sendAcks(): Promise<void> {
    const sent = this.#sending.then(async () => {
      // A lane that was lost is not acked: another consumer has its messages.
      const acks = this.#acks.filter(({ lane }) => !lane.isLost).map(({ place }) => place)
      this.#acks = []
      for (let first = 0; first < acks.length; first += ACKS_MAX) {
        const body = { consumer: this.#name, acks: acks.slice(first, first + ACKS_MAX) }
        await this.#answer(() => this.#transport.send(client => ackMessages({ client, path: { name: this.#subscription }, body })))
      }
    })
    this.#sending = sent.catch(() => {})
    return sent
  }

  async #refuse(lane: Lane, delivery: DeliveredMessage, action: NackAction, reason: string): Promise<void> {
    // What was handled before it is acked first, so that it does not come again with it.
    await this.#sendAcks()
    if (lane.isLost) return
    const { partition, position, epoch } = delivery
    const result = await this.#nack({ partition, position, epoch, action, reason })
    if (result && result.nacked > 0 && action === 'park') return
    // Missing: by an earlier request whose answer was lost, because its time was over, or because it never was to be acked.
    if (result && result.missing > 0 && await this.#isAckedAsDelivered()) {
      return this.#warn(new Error(`${position} does not come again, it was acked as it was delivered`))
    }
    lane.refused = delivery
  }

  /** `undefined`: it was fenced, or there was no answer. */
  async #nack(nack: Nack): Promise<NackResult | undefined> {
    const body = { consumer: this.#name, nacks: [nack] }
    try {
      return await this.#unlessAway(client => nackMessages({ client, path: { name: this.#subscription }, body }))
    } catch (error) {
      const type = error instanceof Refused ? error.type : undefined
      // Of the partition, or only of a parked message that is replayed: what is pending tells.
      if (type === '/problems/fenced') return undefined
      if (type === undefined || nack.reason === undefined || !UNREADABLE.includes(type)) throw error
      this.#warn(error)
      const { reason: _, ...bare } = nack
      return this.#nack(bare)
    }
  }

  async #answer(send: () => Promise<unknown>): Promise<void> {
    try {
      await send()
    } catch (error) {
      const problem = error instanceof Refused ? error.problem : undefined
      // Without an answer, the messages come again once their time is over.
      if (error instanceof Unavailable) return this.#warn(error)
      if (problem?.type !== '/problems/fenced') throw error
      if (problem.partition !== undefined && this.#lanes.get(problem.partition)?.epoch === problem.epoch) this.#lose(problem.partition)
    }
  }

  /** Others get what is left at once. */
  async #leave(): Promise<void> {
    clearTimeout(this.#timer)
    try {
      await this.#sendAcks()
      await this.#transport.send(client => removeConsumer({ client, path: { name: this.#subscription, consumer: this.#name } }))
    } catch (error) {
      if (!(error instanceof HeadwaterError)) throw error
      // It has left already, where its event stream has ended first.
      if (!(error instanceof Refused && error.type === '/problems/not-found')) this.#warn(error)
    }
  }
}

/** What was thrown, as text that JSON and PostgreSQL can keep: no NUL characters, no half of a character. */
function textOf(error: unknown): string {
  try {
    const text = String(error instanceof Error ? error.message : error)
    return text.slice(0, REASON_MAX).replace(/\0|\p{Surrogate}/gu, '\ufffd')
  } catch {
    return 'it cannot say what it is'
  }
}
