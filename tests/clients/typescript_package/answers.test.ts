// What the TypeScript client makes of answers that are cut off, slow or no service's, and what it refuses to ask for.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { api, Headwater, Unavailable, type NewMessage } from 'headwater-client'
import { Service } from './service.ts'
import { aName, counted, number, upTo } from './shared.ts'

const JSON_TYPE = { 'content-type': 'application/json', connection: 'close' }
const WRITTEN = '{"stream_name": "a-1", "version": 0, "duplicate": true, "messages": []}'
const CAUGHT_UP = 'retry: 100\n\nid: 1\nevent: caught-up\ndata: {"position":1,"time":"2026-11-23T12:00:00Z"}\n\n'

const service = await Service.start()
const headwater = new Headwater(service.url)
const gateways: { close(): void }[] = []
after(async () => {
  for (const one of gateways) one.close()
  await service.remove()
})

type Answer = (response: ServerResponse) => unknown

/** A gateway that gives these answers, the last one again and again. */
async function gateway(...answers: Answer[]) {
  const bodies: { messages: NewMessage[] }[] = []
  const listener: RequestListener = async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    bodies.push(JSON.parse(body || '{}'))
    await (answers.length > 1 ? answers.shift()! : answers[0]!)(response)
  }
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  gateways.push({ close: () => (server.close(), server.closeAllConnections()) })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, bodies }
}

const whole: Answer = response => response.writeHead(201, JSON_TYPE).end(WRITTEN)

async function cutOff(response: ServerResponse) {
  response.writeHead(201, { ...JSON_TYPE, 'content-length': 500 }).write(WRITTEN.slice(0, 20))
  await sleep(50)
  response.destroy()
}

async function unavailableWithin(ms: number, answer: Answer, timeoutMs: number): Promise<Unavailable> {
  const { url } = await gateway(answer)
  const began = Date.now()
  const error = await new Headwater(url, { timeoutMs }).append('a-1', [counted(0)]).catch((error: unknown) => error)
  assert.ok(error instanceof Unavailable, String(error))
  assert.ok(Date.now() - began < ms, `${Date.now() - began} ms`)
  return error
}

test('an answer that is cut off is asked for again, with the same ids', async () => {
  const ends: Answer[] = [
    cutOff,
    response => response.writeHead(201, JSON_TYPE).end(WRITTEN.slice(0, 20)),
    response => response.writeHead(201, JSON_TYPE).end(''),
    response => response.writeHead(201, { ...JSON_TYPE, 'content-length': 0 }).end(),
  ]
  for (const end of ends) {
    const { url, bodies } = await gateway(end, whole)
    const result = await new Headwater(url, { timeoutMs: 5_000 }).append('a-1', [counted(0)])
    assert.equal(result?.duplicate, true)
    const ids = bodies.map(({ messages }) => messages[0]!.id)
    assert.deepEqual([ids.length, new Set(ids).size], [2, 1])
  }
})

test('a page in the place of an answer is no answer', async () => {
  await unavailableWithin(2_000, response => response.writeHead(200, { 'content-type': 'text/html' }).end('<p>We will be back soon.</p>'), 1_000)
})

test('a body that stalls or trickles is given up in time', async () => {
  await unavailableWithin(2_000, response => response.writeHead(201, { ...JSON_TYPE, 'content-length': 500 }).write(WRITTEN.slice(0, 20)), 1_000)
  await unavailableWithin(2_000, async response => {
    response.writeHead(201, { ...JSON_TYPE, 'content-length': 500 })
    for (let n = 0; n < 100 && !response.destroyed; n++) {
      response.write(' ')
      await sleep(100)
    }
  }, 1_000)
})

test('what may have been written can be sent again as it was', async () => {
  const { messages } = await unavailableWithin(2_000, response => response.destroy(), 500)
  const stream = `${aName()}-1`
  for (const isAgain of [false, true]) assert.equal((await headwater.append(stream, messages)).duplicate, isAgain)
  assert.equal((await headwater.read(stream)).version, 0)
})

test('a message that is appended twice is written twice', async () => {
  const stream = `${aName()}-1`
  const message: NewMessage = counted(1)
  for (const version of [0, 1]) {
    const result = await headwater.append(stream, [message])
    assert.deepEqual([result.version, result.duplicate], [version, false])
  }
  assert.deepEqual(message, counted(1))
})

test('a stream that was trimmed is read and changed from where it begins', async () => {
  const stream = `${aName()}-1`
  await headwater.append(stream, upTo(5).map(counted))
  await api.trimStream({ client: headwater.transport.client, path: { stream_name: stream }, body: { keep_last: 2 } })
  const { messages, version } = await headwater.read(stream)
  assert.deepEqual([messages.map(number), version], [[3, 4], 4])
  assert.equal((await headwater.change(stream, history => [counted(history.length)]))?.version, 5)
  // Whoever asks for what is gone is told so.
  await assert.rejects(headwater.read(stream, { from: 0 }), { type: '/problems/position-trimmed' })
})

test('nothing to follow is not the whole log', async () => {
  for (const nothing of [{ streams: [] }, { categories: [] }, { streams: [], categories: [] }]) {
    await assert.rejects(headwater.follow({ ...nothing, from: 'beginning' }).next(), TypeError)
  }
})

test('a URL without a scheme is refused', () => {
  for (const url of ['127.0.0.1:8080', 'localhost:8080', '']) assert.throws(() => new Headwater(url), TypeError)
})

test('what a gateway says while the service is away does not end a follower', async () => {
  for (const status of [500, 502, 504, 520]) {
    const { url } = await gateway(
      response => response.writeHead(status, { 'content-type': 'text/html' }).end('<p>away</p>'),
      response => response.writeHead(200, { 'content-type': 'text/event-stream' }).end(CAUGHT_UP))
    const events = new Headwater(url).follow({ category: 'a' })
    assert.equal((await events.next()).value?.name, 'caught-up')
    await events.return(undefined)
  }
})

test('a follower that connects again and again leaves nothing at the signal of its caller', async () => {
  const { url, bodies } = await gateway(response => response.writeHead(200, { 'content-type': 'text/event-stream' }).end('retry: 1\n\n'))
  const stop = new AbortController()
  let left = 0
  const [add, remove] = [stop.signal.addEventListener.bind(stop.signal), stop.signal.removeEventListener.bind(stop.signal)]
  stop.signal.addEventListener = (...args: Parameters<typeof add>) => (left++, add(...args))
  stop.signal.removeEventListener = (...args: Parameters<typeof remove>) => (left--, remove(...args))
  const next = new Headwater(url).follow({ category: 'a', signal: stop.signal }).next()
  while (bodies.length < 8) await sleep(20)
  assert.ok(left <= 2, `${left} listeners`)
  stop.abort()
  await next
  assert.equal(left, 0)
})
