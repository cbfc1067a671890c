// What the tests of the TypeScript client share.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { api, Headwater, type ConsumeOptions, type Handler, type Message, type SubscriptionDefinition } from 'headwater-client'
import type { Service } from './service.ts'

const WAIT_MS = 60_000

export const aName = () => `c${randomUUID().replaceAll('-', '')}`
export const counted = (n: number) => ({ type: 'Counted', data: { n } })
export const number = (message: Message) => (message.data as { n: number }).n
export const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)

/** Waits for a fact, which the service or a handler brings about. */
export async function until(condition: () => boolean | Promise<boolean>, withinMs = WAIT_MS): Promise<void> {
  const end = Date.now() + withinMs
  while (!await condition()) {
    assert.ok(Date.now() < end, 'it did not come about')
    await sleep(20)
  }
}

/** Subscriptions of a service, and their consumers. */
export function consuming(service: Service, headwater: Headwater) {
  const { client } = headwater.transport
  const running = new Set<AbortController>()
  // Where a test has failed, its consumer may be left.
  after(() => running.forEach(one => one.abort()))

  async function subscription(more: Partial<SubscriptionDefinition> = {}): Promise<string> {
    const category = aName()
    await headwater.subscribe(category, { source: { category }, from: 'beginning', partitions: 4, backoff: ['100ms'], ...more })
    return category
  }

  async function fill(category: string, numbers: number[], streams = 8): Promise<void> {
    for (const n of numbers) await headwater.append(`${category}-${n % streams}`, [counted(n)])
  }

  const lag = async (name: string) => (await api.readSubscription({ client, path: { name } })).data?.status.committed_lag
  const consumers = async (name: string) => (await api.listConsumers({ client, path: { name } })).data?.consumers.length

  /** Consumes, until what it returns is called. */
  function start(name: string, handler: Handler, options: ConsumeOptions = {}, url = service.url): () => Promise<void> {
    const stop = new AbortController()
    running.add(stop)
    const done = new Headwater(url).consume(name, handler, { ...options, signal: stop.signal })
    done.catch(() => {})
    return () => {
      stop.abort()
      return done
    }
  }

  return { subscription, fill, lag, consumers, start }
}
