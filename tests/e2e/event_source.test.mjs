// What a browser's own EventSource sees.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { startProxy } from './proxy.mjs'
import { append, startBrowser, startService, temporaryDirectory } from './service.mjs'

let directory, service, browser

before(async () => {
  directory = await temporaryDirectory()
  service = await startService(directory.path)
  browser = await startBrowser()
})

after(async () => {
  await browser?.close()
  await service?.stop()
  await directory?.remove()
})

/** Follows a path with the page's EventSource, and keeps what came. */
async function follow(path, url = service.url) {
  const page = await browser.newPage()
  // A page of the same origin that opens nothing by itself.
  await page.goto(`${url}/problems/forbidden`)
  await page.evaluate(path => {
    window.seen = []
    window.source = new EventSource(path)
    for (const name of ['message', 'caught-up', 'Deposited']) {
      window.source.addEventListener(name, event =>
        window.seen.push({ name, id: event.lastEventId, data: JSON.parse(event.data) }))
    }
  }, path)
  return page
}

const seen = (page, name, count) => page.waitForFunction(
  ([name, count]) => {
    const found = window.seen.filter(event => event.name === name)
    return found.length >= count && found
  },
  [name, count],
).then(handle => handle.jsonValue())

test('a message that is appended arrives in a browser', async () => {
  const page = await follow('/v1/categories/account/events')
  await seen(page, 'caught-up', 1)
  const appended = await append(service.url, 'account-1', 'Deposited', { amount: 5 })
  const [event] = await seen(page, 'message', 1)
  assert.equal(event.data.id, appended.messages[0].id)
  assert.deepEqual(event.data.data, { amount: 5 })
  assert.equal(event.id, `${appended.messages[0].global_position}~${appended.messages[0].id.slice(-8)}`)
  await page.close()
})

test('event_names=type lets a page listen for types', async () => {
  const page = await follow('/v1/streams/named-1/events?event_names=type')
  await seen(page, 'caught-up', 1)
  await append(service.url, 'named-1', 'Deposited', { amount: 7 })
  const [event] = await seen(page, 'Deposited', 1)
  assert.deepEqual(event.data.data, { amount: 7 })
  await page.close()
})

test('a browser whose service is killed reconnects, loses nothing and repeats nothing', async () => {
  const page = await follow('/v1/streams/resumed-1/events?from=beginning')
  for (let n = 0; n < 5; n++) await append(service.url, 'resumed-1', 'Counted', { n })
  await seen(page, 'message', 5)
  const { host } = new URL(service.url)
  await service.kill()
  service = await startService(directory.path, host)
  for (let n = 5; n < 10; n++) await append(service.url, 'resumed-1', 'Counted', { n })
  const events = await seen(page, 'message', 10)
  assert.deepEqual(events.map(event => event.data.data.n), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  await page.close()
})

const numbers = events => events.map(event => event.data.data.n)
const upTo = count => Array.from({ length: count }, (_, n) => n)

for (const [what, path, stream] of [
  ['a stream', '/v1/streams/cut-1/events?from=beginning', 'cut-1'],
  ['a category', '/v1/categories/cutcategory/events?from=beginning', 'cutcategory-1'],
  ['several sources', '/v1/events?category=cutseveral&stream_name=other-1&from=beginning', 'cutseveral-1'],
]) {
  test(`a browser whose connection is cut goes on after the last message: ${what}`, async () => {
    const proxy = await startProxy(service.url)
    const page = await follow(path, proxy.url)
    await seen(page, 'caught-up', 1)
    let written = 0
    const CUTS = 5
    const EACH = 20
    for (let cut = 0; cut < CUTS; cut++) {
      const half = written + EACH / 2
      for (; written < half; written++) await append(service.url, stream, 'Counted', { n: written })
      await seen(page, 'message', half)
      proxy.cut()
      // Written while the browser is away: it pauses as long as the service's `retry:` says.
      for (const whole = half + EACH / 2; written < whole; written++) {
        await append(service.url, stream, 'Counted', { n: written })
      }
      await seen(page, 'message', written)
    }
    assert.deepEqual(numbers(await seen(page, 'message', written)), upTo(CUTS * EACH))
    const cursors = proxy.requests.flatMap(text => text.match(/^last-event-id: (.*)$/im)?.[1].trim() ?? [])
    assert.equal(cursors.length, CUTS, 'each time, the browser has named the last message that it saw')
    assert.equal(new Set(cursors).size, CUTS)
    await page.close()
    await proxy.stop()
  })
}

test('a connection that is cut again and again under load loses nothing and repeats nothing', async () => {
  const proxy = await startProxy(service.url)
  const page = await follow('/v1/streams/torn-1/events?from=beginning', proxy.url)
  await seen(page, 'caught-up', 1)
  const ALL = 600
  let cuts = 0
  for (let n = 0; n < ALL; n++) {
    await append(service.url, 'torn-1', 'Counted', { n })
    if (n % 120 === 60) {
      // Cut while frames are on their way, once the browser is back from the cut before.
      const requestsBefore = proxy.requests.length
      proxy.cut()
      cuts++
      await page.waitForFunction(() => window.source.readyState === EventSource.OPEN)
      assert.ok(proxy.requests.length >= requestsBefore)
    }
  }
  const events = await seen(page, 'message', ALL)
  assert.deepEqual(numbers(events), upTo(ALL))
  assert.ok(cuts >= 5)
  await page.close()
  await proxy.stop()
})

test('with event_names=type a reconnecting page keeps its names', async () => {
  const proxy = await startProxy(service.url)
  const page = await follow('/v1/streams/typed-1/events?from=beginning&event_names=type', proxy.url)
  await append(service.url, 'typed-1', 'Deposited', { n: 0 })
  await seen(page, 'Deposited', 1)
  proxy.cut()
  await append(service.url, 'typed-1', 'Withdrawn', { n: 1 })
  await append(service.url, 'typed-1', 'Deposited', { n: 2 })
  const events = await seen(page, 'Deposited', 2)
  assert.deepEqual(numbers(events), [0, 2])
  assert.deepEqual(await page.evaluate(() => window.seen.filter(event => event.name === 'message')), [])
  await page.close()
  await proxy.stop()
})
