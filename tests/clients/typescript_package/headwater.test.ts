// The TypeScript client's loops, against a service that is killed, answers that are lost, races, and credentials that end.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { api, Conflict, Headwater, Park, Refused, Unavailable, type Followed, type Message } from 'headwater-client'
import { losingProxy, Service } from './service.ts'
import { aName, consuming, counted, number, until, upTo } from './shared.ts'

const service = await Service.start()
const headwater = new Headwater(service.url)
after(() => service.remove())
const { subscription, fill, lag, consumers, start } = consuming(service, headwater)

const problem = (type: string) => (error: unknown) => error instanceof Refused && error.type === type
const client = () => headwater.transport.client

test('those who change a stream at once decide again, and none is lost', async () => {
  const stream = `${aName()}-1`
  await Promise.all(upTo(6).map(async () => {
    const own = new Headwater(service.url)
    for (let n = 0; n < 5; n++) await own.change(stream, history => [counted(history.length)])
  }))
  const { messages, version } = await headwater.read(stream)
  assert.deepEqual(messages.map(number), upTo(30))
  assert.equal(version, 29)
})

test('a decision may be none, and a conflict is told', async () => {
  const stream = `${aName()}-1`
  assert.equal(await headwater.change(stream, () => []), undefined)
  await headwater.append(stream, [counted(0)], -1)
  await assert.rejects(headwater.append(stream, [counted(1)], -1), error => error instanceof Conflict && error.problem.current_version === 0)
  await assert.rejects(headwater.append(stream, []), problem('/problems/invalid'))
})

test('an answer that is lost is asked for again, and nothing is written twice', async () => {
  const proxy = await losingProxy(service.url)
  const own = new Headwater(proxy.url)
  const stream = `${aName()}-1`
  for (let n = 0; n < 5; n++) {
    const result = await own.change(stream, history => [counted(history.length)])
    assert.deepEqual([result?.version, result?.duplicate], [n, true])
  }
  assert.deepEqual((await headwater.read(stream)).messages.map(number), upTo(5))
  assert.equal(proxy.lost, 5)
  proxy.stop()
})

test('what is appended while the service is killed and starts again is written once', async () => {
  const stream = `${aName()}-1`
  let restarted
  for (let n = 0; n < 60; n++) {
    if (n === 20) restarted = service.restart()
    await headwater.append(stream, [counted(n)], n - 1)
  }
  await restarted
  assert.deepEqual((await headwater.read(stream)).messages.map(number), upTo(60))
})

test('a service that stays away is unavailable', async () => {
  await assert.rejects(new Headwater('http://127.0.0.1:9', { timeoutMs: 1_000 }).append('a-1', [counted(0)]), Unavailable)
})

test('a service that takes connections and says nothing is unavailable in time', async () => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address() as AddressInfo
  const own = new Headwater(`http://127.0.0.1:${port}`, { timeoutMs: 1_000 })
  await assert.rejects(own.append('a-1', [counted(0)]), Unavailable)
  silent.close()
  silent.closeAllConnections()
})

test('a client that waits without end is answered as any other', async () => {
  const own = new Headwater(service.url, { timeoutMs: Infinity })
  const stream = `${aName()}-1`
  await own.append(stream, [counted(0)])
  assert.deepEqual((await own.read(stream)).messages.map(number), [0])
})

async function numbers(events: AsyncIterator<Followed>, count: number): Promise<number[]> {
  const found = []
  while (found.length < count) {
    const { value, done } = await events.next()
    if (done) break
    if (value.name === 'message') found.push(number(value.message))
  }
  return found
}

test('goes on where it was when the service is killed, or stops, and starts again', async () => {
  const category = aName()
  for (const n of upTo(10)) await headwater.append(`${category}-1`, [counted(n)])
  const events = headwater.follow({ category, from: 'beginning' })
  assert.deepEqual(await numbers(events, 5), upTo(5))
  await service.restart()
  for (const n of upTo(20).slice(10)) await headwater.append(`${category}-1`, [counted(n)])
  assert.deepEqual(await numbers(events, 15), upTo(20).slice(5))
  await service.restart('SIGTERM')
  await headwater.append(`${category}-1`, [counted(20)])
  assert.deepEqual(await numbers(events, 1), [20])
  await events.return(undefined)
})

test('a cursor that was kept goes on behind its message', async () => {
  const stream = `${aName()}-1`
  await headwater.append(stream, upTo(3).map(counted))
  let lastEventId = ''
  for await (const event of headwater.follow({ stream, from: 'beginning' })) {
    lastEventId = event.cursor
    break
  }
  const events = headwater.follow({ stream, lastEventId })
  assert.deepEqual(await numbers(events, 2), [1, 2])
  await events.return(undefined)
  const names = []
  for await (const event of headwater.follow({ streams: [stream], categories: ['nothing'], from: 'beginning' })) {
    names.push(event.name)
    if (event.name === 'caught-up') break
  }
  assert.deepEqual(names, ['message', 'message', 'message', 'caught-up'])
  const stop = new AbortController()
  const stopped = numbers(headwater.follow({ stream, signal: stop.signal }), 1)
  stop.abort()
  assert.deepEqual(await stopped, [])
})

test('what cannot go on is told', async () => {
  await assert.rejects(headwater.follow({ lastEventId: '999999999' }).next(), problem('/problems/history-changed'))
  const name = aName()
  await api.defineAggregatedStream({ client: client(), path: { name }, body: { categories: [name], partitioner: { kind: 'constant' } } })
  await headwater.append(`${name}-1`, [counted(0)])
  const events = headwater.follow({ aggregatedStream: name, from: 'beginning' })
  assert.deepEqual(await numbers(events, 1), [0])
  await api.deleteAggregatedStream({ client: client(), path: { name } })
  await assert.rejects(numbers(events, 1), problem('/problems/not-found'))
})

/** Of each stream, every message came first in the order of its positions. */
function isInOrder(seen: Message[]): void {
  const streams = Map.groupBy(seen, message => message.stream_name)
  for (const [stream, messages] of streams) {
    const first = [...new Set(messages.map(message => message.position))]
    assert.deepEqual(first, upTo(first.length), stream)
  }
}

test('two share the messages, each comes once and in order, and who stops leaves', async () => {
  const name = await subscription()
  const seen: Message[] = []
  const [one, two] = [start(name, message => seen.push(message)), start(name, message => seen.push(message))]
  // Both are there before the first message: nothing that was handled and not acked changes hands.
  await until(async () => await consumers(name) === 2)
  await fill(name, upTo(100))
  await until(async () => seen.length >= 100 && await lag(name) === 0)
  assert.equal(seen.length, 100)
  await one()
  assert.equal(await consumers(name), 1)
  await fill(name, upTo(150).slice(100))
  await until(async () => seen.length >= 150 && await lag(name) === 0)
  await two()
  assert.equal(await consumers(name), 0)
  assert.equal(new Set(seen.map(message => message.id)).size, 150)
  isInOrder(seen)
})

test('a consumer goes on when the service is killed, or stops, and starts again', async () => {
  const name = await subscription()
  await fill(name, upTo(60))
  const seen: Message[] = []
  const end = start(name, message => seen.push(message), { maxInFlight: 8 })
  await until(() => seen.length >= 20)
  await service.restart()
  await fill(name, upTo(80).slice(60))
  await until(async () => new Set(seen.map(message => message.id)).size === 80 && await lag(name) === 0)
  await service.restart('SIGTERM')
  await fill(name, upTo(90).slice(80))
  await until(async () => new Set(seen.map(message => message.id)).size === 90 && await lag(name) === 0)
  await end()
  isInOrder(seen)
})

test('acks and nacks whose answers are lost are sent again', async () => {
  const name = await subscription()
  await fill(name, upTo(30))
  const proxy = await losingProxy(service.url)
  const seen: Message[] = []
  const end = start(name, message => {
    if (seen.push(message) === 10) throw new Park('never')
  }, { maxInFlight: 4 }, proxy.url)
  await until(async () => seen.length >= 30 && await lag(name) === 0)
  await end()
  isInOrder(seen)
  assert.equal(seen.length, 30)
  assert.ok(proxy.lost >= 2, `${proxy.lost} answers were lost`)
  assert.equal((await api.listParked({ client: client(), path: { name } })).data?.parked.length, 1)
  proxy.stop()
})

test('what a handler throws comes again in order, and poison is put aside', async () => {
  const name = await subscription({ partitions: 1 })
  await fill(name, upTo(5), 1)
  const seen: number[] = []
  const end = start(name, message => {
    seen.push(number(message))
    if (number(message) === 1 && seen.filter(n => n === 1).length < 3) throw new Error('not yet')
    if (number(message) === 3) throw new Park('never')
  })
  await until(async () => seen.includes(4) && await lag(name) === 0)
  await end()
  assert.deepEqual(seen, [0, 1, 1, 1, 2, 3, 4])
  const { data } = await api.listParked({ client: client(), path: { name } })
  assert.deepEqual(data?.parked.map(one => [number(one.message!), one.reason]), [[3, 'never']])
})

test('parked messages that are replayed are acked each by itself', async () => {
  const name = await subscription({ partitions: 1, ack_timeout: '2s' })
  await fill(name, upTo(8), 1)
  const seen: number[] = []
  let isMended = false
  const end = start(name, message => {
    if (!isMended && number(message) < 5) throw new Park('not yet')
    seen.push(number(message))
  })
  await until(async () => seen.length === 3 && await lag(name) === 0)
  isMended = true
  const { data } = await api.replayParked({ client: client(), path: { name }, body: { all: true } })
  assert.equal(data?.replayed, 5)
  await until(async () => seen.length >= 8 && await lag(name) === 0)
  await end()
  assert.deepEqual(seen.sort((a, b) => a - b), upTo(8))
  assert.deepEqual((await api.listParked({ client: client(), path: { name } })).data?.parked, [])
})

test('a partition that was taken is given up, and not acked', async () => {
  const name = await subscription({ partitions: 2 })
  await fill(name, upTo(4), 1)
  const seen: number[] = []
  let [running, most] = [0, 0]
  let goOn = () => {}
  let isToldElsewhere = false
  const held = new Promise<void>(resolve => { goOn = resolve })
  const end = start(name, async message => {
    if (!message.stream_name.endsWith('-0')) {
      isToldElsewhere = true
      return
    }
    most = Math.max(most, ++running)
    seen.push(number(message))
    if (seen.length === 2) await held
    running--
  })
  await until(async () => seen.length === 2 && await lag(name) === 3)
  // The partition is taken back while its second message is being handled.
  await api.seekSubscription({ client: client(), path: { name }, body: { to: 'beginning' } })
  assert.equal(await lag(name), 4)
  // What comes of the other partition afterwards shows that the consumer has been told.
  await fill(name, upTo(9).slice(1), 9)
  await until(() => isToldElsewhere)
  goOn()
  await until(async () => seen.at(-1) === 3 && await lag(name) === 0)
  await end()
  assert.deepEqual([seen, most], [[0, 1, 0, 1, 2, 3], 1])
})

test('what is being handled when a partition goes to another consumer is acked, and comes once', async () => {
  // Time enough to ack: a consumer that is too late may see a message again.
  const patient = await Service.start('--subscription-revoke-grace', '10s')
  const own = new Headwater(patient.url)
  try {
    const [name, seen] = [aName(), [] as Message[]]
    await own.subscribe(name, { source: { category: name }, from: 'beginning', partitions: 2 })
    for (const n of upTo(16)) await own.append(`${name}-${n}`, [counted(n)])
    let goOn = () => {}
    const held = new Promise<void>(resolve => { goOn = resolve })
    const one = start(name, async message => {
      seen.push(message)
      await held
    }, {}, patient.url)
    // One of each partition.
    await until(() => seen.length === 2)
    const two = start(name, message => seen.push(message), {}, patient.url)
    const members = async () => (await api.listConsumers({ client: own.transport.client, path: { name } })).data?.consumers
    await until(async () => (await members())?.length === 2)
    // The first one is told meanwhile that a partition goes.
    await sleep(1_000)
    goOn()
    const left = async () => (await api.readSubscription({ client: own.transport.client, path: { name } })).data?.status.committed_lag
    await until(async () => await left() === 0)
    await one()
    await two()
    assert.deepEqual(seen.map(number).sort((a, b) => a - b), upTo(16))
  } finally {
    await patient.remove()
  }
})

test('no more handlers run at once than may', async () => {
  const name = await subscription({ mode: 'competing', partitions: null })
  await fill(name, upTo(40))
  let [running, most] = [0, 0]
  const seen: number[] = []
  const waiting: (() => void)[] = []
  const end = start(name, async message => {
    most = Math.max(most, ++running)
    // Only four at once get past here.
    await new Promise<void>(resolve => {
      if (waiting.push(resolve) === 4) for (const one of waiting.splice(0)) one()
    })
    running--
    seen.push(number(message))
  }, { maxInFlight: 4 })
  await until(async () => seen.length === 40 && await lag(name) === 0)
  await end()
  assert.deepEqual([seen.sort((a, b) => a - b), most], [upTo(40), 4])
})

test('a subscription that is unknown is told', async () => {
  await assert.rejects(headwater.consume('unknown', () => {}), problem('/problems/not-found'))
})

test('a credential that ends is renewed, and nothing is lost', async () => {
  const guarded = await Service.start('--credentials', 'required')
  try {
    const admin = new Headwater(guarded.url, { credential: guarded.key('admin') })
    let made = 0
    const credential = async () => {
      made++
      const scopes = ['read:*', 'append:*', 'subscribe:*']
      const { data } = await api.createApiKey({ client: admin.transport.client, body: { name: 'short', scopes, expires_in: '2s' } })
      return data!.key
    }
    const own = new Headwater(guarded.url, { credential })
    await own.subscribe('orders', { source: { category: 'order' }, from: 'beginning' })
    const consumed: number[] = []
    const stop = new AbortController()
    const consuming = own.consume('orders', message => consumed.push(number(message)), { signal: stop.signal })
    const followed: number[] = []
    let written = 0
    for await (const event of own.follow({ category: 'order', from: 'beginning' })) {
      if (event.name === 'message') followed.push(number(event.message))
      if (made > 3) break
      await own.append('order-1', [counted(written++)])
    }
    // A message may come twice, where the credential has ended between it and its ack.
    await until(() => new Set(consumed).size >= followed.length)
    stop.abort()
    await consuming
    assert.deepEqual(followed, upTo(followed.length))
    assert.deepEqual([...new Set(consumed)].slice(0, followed.length), followed)
    await assert.rejects(new Headwater(guarded.url, { credential: 'hw_wrong' }).append('order-1', [counted(0)]), problem('/problems/unauthenticated'))
  } finally {
    await guarded.remove()
  }
})
