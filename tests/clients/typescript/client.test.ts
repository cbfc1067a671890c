// The TypeScript client, as it is generated from openapi/openapi.json, against a running service.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { createClient } from './generated/client/index.ts'
import {
  ackMessages, appendMessages, appendToStreams, changeSubscription, createSubscription, defineAggregatedStream, fetchMessages, followAggregatedStream, followCategory,
  followStream, followSubscription, isReady, listParked, nackMessages, readAggregatedStream, readAll, readLastMessage,
  readPartition, readStream, readSubscription,
} from './generated/sdk.gen.ts'
import type { AggregatedStreamDefinition, EventData, Message, Problem, ProblemType, SubscriptionDefinition } from './generated/types.gen.ts'

const baseUrl = process.env.HEADWATER_URL
assert.ok(baseUrl, 'HEADWATER_URL says where the service is')
const key = process.env.HEADWATER_KEY
assert.ok(key, 'HEADWATER_KEY is an API key')
const client = createClient({ baseUrl, auth: (scheme) => (scheme.scheme === 'bearer' ? key : undefined) })

const aStream = (category = 'account') => `${category}-${randomUUID()}`
const deposited = (amount: number) => ({ type: 'Deposited', data: { amount } })

test('appends, and says where the messages stand', async () => {
  const stream_name = aStream()
  const body = { expected_version: -1, messages: [deposited(5), deposited(7)] }
  const { data, error, response } = await appendMessages({ client, path: { stream_name }, body })
  assert.equal(error, undefined)
  assert.equal(response?.status, 201)
  assert.equal(data?.version, 1)
  assert.equal(data?.duplicate, false)
  assert.deepEqual(data?.messages.map(message => message.position), [0, 1])
})

test('appends to several streams under conditions', async () => {
  const [left, right] = [aStream(), aStream()]
  const appends = [left, right].map(stream_name => ({ stream_name, messages: [deposited(1)] }))
  const body = { appends, conditions: [{ stream_name: left, version: -1 }] }
  const { data } = await appendToStreams({ client, body })
  assert.deepEqual(data?.appends.map(append => [append.stream_name, append.version]), [[left, 0], [right, 0]])
  const { error } = await appendToStreams({ client, body })
  const expected: ProblemType = '/problems/condition-failed'
  assert.deepEqual([error?.type, error?.condition, error?.failures?.length], [expected, 0, 1])
})

test('the same request sent again is written once', async () => {
  const path = { stream_name: aStream() }
  const headers = { 'Idempotency-Key': 'd-1' }
  const body = { messages: [deposited(5)] }
  const first = await appendMessages({ client, path, headers, body })
  const second = await appendMessages({ client, path, headers, body })
  assert.deepEqual([first.response?.status, second.response?.status], [201, 200])
  assert.deepEqual(second.data, { ...first.data, duplicate: true })
})

test('a conflict is a typed problem, which says what to decide by', async () => {
  const path = { stream_name: aStream() }
  await appendMessages({ client, path, body: { messages: [deposited(5)] } })
  const { data, error } = await appendMessages({ client, path, body: { expected_version: -1, messages: [deposited(1)] } })
  assert.equal(data, undefined)
  const problem: Problem | undefined = error
  const expected: ProblemType = '/problems/wrong-expected-version'
  assert.equal(problem?.type, expected)
  assert.equal(problem?.status, 409)
  const version: number | undefined = problem?.current_version
  assert.equal(version, 0)
  const retried = await appendMessages({ client, path, body: { expected_version: version, messages: [deposited(1)] } })
  assert.equal(retried.data?.version, 1)
})

test('what breaks a rule is told field by field', async () => {
  const { error } = await readAll({ client, query: { filter: 'data.amount >', types: [''.padEnd(2_000, 'x')] } })
  assert.equal(error?.type, '/problems/invalid')
  assert.deepEqual(error?.errors?.map(one => one.field), ['types', 'filter'])
})

test('reads a page, backward too, and the last of a type', async () => {
  const path = { stream_name: aStream() }
  const messages = [{ type: 'Opened' }, deposited(1), deposited(2), { type: 'Closed' }]
  await appendMessages({ client, path, body: { messages } })
  const page = await readStream({ client, path, query: { types: ['Opened', 'Deposited'], limit: 2 } })
  assert.deepEqual(page.data?.messages.map(message => message.type), ['Opened', 'Deposited'])
  assert.deepEqual([page.data?.version, page.data?.at_end], [3, false])
  const next: number | null | undefined = page.data?.next
  const rest = await readStream({ client, path, query: { from: next ?? 0 } })
  assert.deepEqual(rest.data?.messages.map(message => message.type), ['Deposited', 'Closed'])
  const backward = await readStream({ client, path, query: { direction: 'backward', limit: 1 } })
  assert.deepEqual(backward.data?.messages.map(message => message.type), ['Closed'])
  const last = await readLastMessage({ client, path, query: { type: 'Deposited' } })
  assert.deepEqual(last.data?.data, { amount: 2 })
  assert.equal((await readStream({ client, path: { stream_name: aStream() } })).data?.version, -1)
})

const isMessage = (event: EventData): event is Message => 'global_position' in event

test('follows with its own client of server-sent events: history, then live', async () => {
  const category = `followed${randomUUID().replaceAll('-', '')}`
  const path = { stream_name: aStream(category) }
  await appendMessages({ client, path, body: { messages: [deposited(1), deposited(2)] } })
  const names: (string | undefined)[] = []
  const amounts: unknown[] = []
  const hangUp = new AbortController()
  const { stream } = await followCategory({
    client, path: { category }, query: { from: 'beginning', heartbeat: '5s' }, signal: hangUp.signal,
    onSseEvent: event => { names.push(event.event) },
  })
  for await (const event of stream) {
    if (isMessage(event)) {
      amounts.push((event.data as { amount: number }).amount)
      if (amounts.length === 3) break
    } else if ('reason' in event) {
      assert.fail(`the service ended it: ${event.reason}`)
    } else if (names.at(-1) === 'caught-up') {
      // History is over, so this one comes live.
      await appendMessages({ client, path, body: { messages: [deposited(3)] } })
    }
  }
  hangUp.abort()
  assert.deepEqual(amounts, [1, 2, 3])
  assert.deepEqual(names.filter(name => name !== undefined), ['message', 'message', 'caught-up', 'message'])
})

test('goes on after the last event that it has seen', async () => {
  const path = { stream_name: aStream() }
  await appendMessages({ client, path, body: { messages: [deposited(1), deposited(2), deposited(3)] } })
  const read = async (query: { from?: string, last_event_id?: string }, count: number) => {
    const positions: number[] = []
    let id: string | undefined
    const hangUp = new AbortController()
    const { stream } = await followStream({
      client, path, query, signal: hangUp.signal, onSseEvent: event => { id = event.id },
    })
    for await (const event of stream) {
      if (isMessage(event)) positions.push(event.position)
      if (positions.length === count) break
    }
    hangUp.abort()
    return { positions, id }
  }
  const first = await read({ from: 'beginning' }, 2)
  const second = await read({ last_event_id: first.id }, 1)
  assert.deepEqual([first.positions, second.positions], [[0, 1], [2]])
})

test('divides messages among partitions, reads one and follows them', async () => {
  const category = `divided${randomUUID().replaceAll('-', '')}`
  const stream = { stream_name: aStream(category) }
  const appended = await appendMessages({ client, path: stream, body: { messages: [0, 1, 2, 3].map(deposited) } })
  const path = { name: category }
  const body: AggregatedStreamDefinition = {
    categories: [category], partitioner: { kind: 'data', pointer: '/amount', method: 'modulo', partitions: 2 },
  }
  assert.equal((await defineAggregatedStream({ client, path, body })).response?.status, 201)
  const differing: AggregatedStreamDefinition = { ...body, partitioner: { kind: 'constant' } }
  const { error } = await defineAggregatedStream({ client, path, body: differing })
  assert.equal(error?.type, '/problems/definition-differs')
  assert.deepEqual(error?.fields, ['partitioner'])
  const min_position = appended.data?.messages.at(-1)?.global_position ?? 0
  const { data } = await readAggregatedStream({ client, path, query: { min_position, wait: '30s' } })
  assert.ok((data?.status.projected_position ?? 0) >= min_position)
  assert.deepEqual(data?.status.partitions?.map(one => [one.partition, one.message_count]), [[0, 2], [1, 2]])
  const page = await readPartition({ client, path: { ...path, partition: 1 } })
  assert.deepEqual(page.data?.messages.map(one => [one.position, one.message.data]), [[0, { amount: 1 }], [1, { amount: 3 }]])
  const seen: [number, number][] = []
  const hangUp = new AbortController()
  const { stream: events } = await followAggregatedStream({ client, path, query: { from: 'beginning' }, signal: hangUp.signal })
  for await (const event of events) {
    if ('aggregated_stream' in event) seen.push([event.partition, event.position])
    if (seen.length === 4) break
  }
  hangUp.abort()
  assert.deepEqual(seen, [[0, 0], [1, 0], [0, 1], [1, 1]])
})

test('shares the messages of a subscription: assigned, delivered, acked, parked', async () => {
  const category = `shared${randomUUID().replaceAll('-', '')}`
  const stream_name = `${category}-1`
  await appendMessages({ client, path: { stream_name }, body: { messages: [1, 2, 3].map(deposited) } })
  const path = { name: category }
  const made = await createSubscription({ client, path, body: { source: { category }, from: 'beginning', partitions: 1 } })
  assert.equal(made.response?.status, 201)
  const consumer = 'w1'
  const hangUp = new AbortController()
  const { stream } = await followSubscription({ client, path, query: { consumer, heartbeat: '5s' }, signal: hangUp.signal })
  const seen: unknown[] = []
  for await (const event of stream) {
    if ('delivery_count' in event) {
      const { partition, position, epoch } = event
      seen.push(event.message.data)
      if (seen.length < 3) {
        await ackMessages({ client, path, body: { consumer, acks: [{ partition, position, epoch }] } })
      } else {
        await nackMessages({ client, path, body: { consumer, nacks: [{ partition, position, epoch, action: 'park', reason: 'poison' }] } })
        break
      }
    }
  }
  hangUp.abort()
  assert.deepEqual(seen, [1, 2, 3].map(amount => ({ amount })))
  const { data } = await listParked({ client, path })
  assert.deepEqual(data?.parked.map(one => [one.reason, one.cause, one.message?.data]), [['poison', 'nacked', { amount: 3 }]])
  const { data: subscription } = await readSubscription({ client, path })
  assert.deepEqual([subscription?.status.state, subscription?.status.committed_lag], ['running', 0])
  const { data: fetched } = await fetchMessages({ client, path, body: { consumer: 'w2', wait: '0s' } })
  assert.deepEqual(fetched?.messages, [])
  const fenced = await ackMessages({ client, path, body: { consumer, acks: [{ partition: 0, position: 1, epoch: 0 }] } })
  assert.equal(fenced.error?.type, '/problems/fenced')
})

test('changes what is given of a subscription, and nothing else', async () => {
  const path = { name: `changed${randomUUID()}` }
  const body: SubscriptionDefinition = { source: { all: true }, ack_timeout: '20s', max_in_flight: 7, max_deliveries: 9, backoff: ['3s'], on_exhausted: 'skip' }
  await createSubscription({ client, path, body })
  const { data } = await changeSubscription({ client, path, body: { consumer_timeout: '30s' } })
  const { ack_timeout, consumer_timeout, max_in_flight, max_deliveries, backoff, on_exhausted } = data!.definition
  assert.deepEqual([ack_timeout, consumer_timeout, max_in_flight, max_deliveries, backoff, on_exhausted], ['20s', '30s', 7, 9, ['3s'], 'skip'])
})

test('says whether the service is ready', async () => {
  const { data } = await isReady({ client })
  assert.deepEqual([data?.database, data?.migrations], [true, true])
})

// What the types refuse; compiled, never called.
export const refused = () => [
  // @ts-expect-error a stream is read forward or backward
  readStream({ client, path: { stream_name: 'a-1' }, query: { direction: 'sideways' } }),
  // @ts-expect-error a message has a type
  appendMessages({ client, path: { stream_name: 'a-1' }, body: { messages: [{ data: 1 }] } }),
  // @ts-expect-error an append has messages
  appendMessages({ client, path: { stream_name: 'a-1' }, body: {} }),
  // @ts-expect-error there is no such partitioner
  defineAggregatedStream({ client, path: { name: 'a' }, body: { partitioner: { kind: 'dice', partitions: 6 } } }),
  // @ts-expect-error there is no such parameter
  followCategory({ client, path: { category: 'a' }, query: { form: 'beginning' } }),
]
