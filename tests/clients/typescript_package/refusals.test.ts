// The TypeScript client's consumer when handlers fail, and when it is stopped while they run.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { api, Headwater, Park } from 'headwater-client'
import { losingProxy, Service } from './service.ts'
import { consuming, number, until, upTo } from './shared.ts'

/** Less than any `ack_timeout` here: what has to wait for that is too late. */
const PROMPTLY_MS = 10_000

const service = await Service.start()
const headwater = new Headwater(service.url)
after(() => service.remove())
const { client } = headwater.transport
const { subscription, fill, lag, consumers, start } = consuming(service, headwater)

async function parked(name: string): Promise<[number, string][]> {
  const { data } = await api.listParked({ client, path: { name } })
  return data!.parked.map(one => [number(one.message!), one.reason])
}

/** A promise, and what fulfils it. */
function gate() {
  let open = () => {}
  const opened = new Promise<void>(resolve => { open = resolve })
  return { open, opened }
}

const count = (seen: number[], n: number) => seen.filter(one => one === n).length

test('what fails is passed over where messages are acked as they are delivered', async () => {
  const name = await subscription({ partitions: 1, ack: 'auto' })
  await fill(name, upTo(5), 1)
  const seen: number[] = []
  const end = start(name, message => {
    seen.push(number(message))
    if ([1, 6].includes(number(message))) throw new Error('never')
  })
  await until(() => seen.includes(4), PROMPTLY_MS)
  await fill(name, upTo(10).slice(5), 1)
  await until(() => seen.includes(9), PROMPTLY_MS)
  await end()
  assert.deepEqual(seen, upTo(10))
})

for (const [before, after, failures, expected] of [[5, 1, 1, upTo(7)], [1, 3, 2, [0, 1, 1, 1, 2, 3, 4, 5, 6]]] as const) {
  test(`deliveries that become ${after} of ${before} while it consumes: nothing is lost, and the order is kept`, async () => {
    const name = await subscription({ partitions: 1, max_deliveries: before })
    await fill(name, upTo(7), 1)
    const seen: number[] = []
    const held = gate()
    const end = start(name, async message => {
      const n = number(message)
      seen.push(n)
      if (n === 0) await held.opened
      if (n === 1 && count(seen, 1) <= failures) throw new Error('not yet')
    })
    await until(() => seen.length === 1)
    await api.changeSubscription({ client, path: { name }, body: { max_deliveries: after } })
    held.open()
    await until(async () => seen.includes(6) && await lag(name) === 0, PROMPTLY_MS)
    await end()
    assert.deepEqual(seen, expected)
  })
}

test('acks that become needless after a failure are not waited for', async () => {
  const name = await subscription({ partitions: 1, max_deliveries: 1 })
  await fill(name, [0], 1)
  const seen: number[] = []
  const end = start(name, message => {
    seen.push(number(message))
    if (number(message) === 0) throw new Error('never')
  })
  await until(async () => (await parked(name)).length === 1)
  await api.changeSubscription({ client, path: { name }, body: { ack: 'auto' } })
  await fill(name, [1, 2, 3], 1)
  await until(() => seen.includes(3), PROMPTLY_MS)
  await end()
  assert.deepEqual(seen, upTo(4))
})

test('a replayed message that fails again holds up nobody', async () => {
  const name = await subscription({ partitions: 1, backoff: ['1s'] })
  await fill(name, upTo(3), 1)
  const seen: number[] = []
  const held = gate()
  const end = start(name, async message => {
    const n = number(message)
    seen.push(n)
    if (n === 0 && count(seen, 0) === 1) throw new Park('not yet')
    if (n === 0 && count(seen, 0) === 2) {
      await held.opened
      throw new Error('not yet')
    }
  })
  await until(async () => seen.includes(2) && await lag(name) === 0)
  await api.replayParked({ client, path: { name }, body: { all: true } })
  await until(() => count(seen, 0) === 2)
  await fill(name, upTo(8).slice(3), 1)
  held.open()
  const failed = Date.now()
  await until(() => seen.includes(7), PROMPTLY_MS)
  assert.ok(Date.now() - failed < 1_000)
  await until(async () => count(seen, 0) === 3 && await lag(name) === 0, PROMPTLY_MS)
  await end()
  assert.deepEqual(seen, [0, 1, 2, 0, 3, 4, 5, 6, 7, 0])
  assert.deepEqual(await parked(name), [])
})

test('a nack of a replayed message whose answer is lost does not end the partition', async () => {
  const name = await subscription({ partitions: 1 })
  await fill(name, upTo(2), 1)
  const seen: number[] = []
  const proxy = await losingProxy(service.url)
  const end = start(name, message => {
    const n = number(message)
    seen.push(n)
    if (n === 0 && count(seen, 0) === 1) throw new Park('not yet')
    if (n === 0 && count(seen, 0) < 6) throw new Error('not yet')
  }, {}, proxy.url)
  await until(async () => seen.includes(1) && await lag(name) === 0)
  await api.changeSubscription({ client, path: { name }, body: { max_deliveries: 10 } })
  await api.replayParked({ client, path: { name }, body: { all: true } })
  await until(async () => count(seen, 0) >= 6 && await lag(name) === 0, PROMPTLY_MS)
  await fill(name, [2, 3, 4], 1)
  await until(async () => seen.includes(4) && await lag(name) === 0, PROMPTLY_MS)
  await end()
  proxy.stop()
})

test('a retry whose answer is lost keeps the order', async () => {
  const name = await subscription({ partitions: 1, backoff: ['1s'] })
  await fill(name, upTo(6), 1)
  const seen: number[] = []
  const proxy = await losingProxy(service.url)
  const end = start(name, message => {
    const n = number(message)
    seen.push(n)
    if ([0, 3].includes(n) && count(seen, n) === 1) throw new Error('not yet')
  }, {}, proxy.url)
  await until(async () => seen.includes(5) && await lag(name) === 0)
  await end()
  assert.deepEqual(seen, [0, 0, 1, 2, 3, 3, 4, 5])
  proxy.stop()
})

test('whatever is thrown, the consumer goes on', async () => {
  const name = await subscription({ partitions: 1, max_deliveries: 1 })
  await fill(name, upTo(5), 1)
  const failures = [new Park('a\0b'), new Park(`${'x'.repeat(1_999)}\u{1f375}`), Object.create(null), Object.assign(new Error(), { message: 5 })]
  const end = start(name, message => {
    if (number(message) < 4) throw failures[number(message)]
  })
  await until(async () => await lag(name) === 0, PROMPTLY_MS)
  await end()
  const reasons = ['a\ufffdb', `${'x'.repeat(1_999)}\ufffd`, 'it cannot say what it is', '5']
  assert.deepEqual(await parked(name), [...reasons.entries()])
})

test('a reason that the service refuses is left out', async context => {
  const name = await subscription({ partitions: 1 })
  await fill(name, upTo(2), 1)
  const nacks: string[] = []
  const own = globalThis.fetch
  context.mock.method(globalThis, 'fetch', async (input: Request, init: RequestInit) => {
    if (!String(input.url).endsWith('/nacks')) return own(input, init)
    // As if this service had a rule of which the client does not know.
    const body = await input.text()
    nacks.push(body)
    return own(new Request(input.url, { method: 'POST', headers: input.headers, body: body.replace('a tea pot', 'x'.repeat(20_000)) }), init)
  })
  const end = start(name, message => {
    if (number(message) === 0) throw new Park('a tea pot')
  })
  await until(async () => await lag(name) === 0, PROMPTLY_MS)
  await end()
  assert.deepEqual(await parked(name), [[0, 'refused by its consumer']])
  assert.equal(nacks.length, 2)
})

test('what is being handled when it is stopped is finished before it leaves', async () => {
  const name = await subscription({ partitions: 1 })
  await fill(name, upTo(4), 1)
  const [first, second]: number[][] = [[], []]
  const held = gate()
  const one = start(name, async message => {
    first!.push(number(message))
    await held.opened
  })
  await until(() => first!.length === 1)
  const two = start(name, message => second!.push(number(message)))
  await until(async () => await consumers(name) === 2)
  const stopped = one()
  // In less the other one would have the messages, if the event stream had ended.
  await sleep(5_000)
  assert.deepEqual([await consumers(name), second], [2, []])
  held.open()
  await stopped
  assert.equal(await consumers(name), 1)
  await until(async () => await lag(name) === 0)
  await two()
  assert.deepEqual([first, second], [[0], [1, 2, 3]])
})
