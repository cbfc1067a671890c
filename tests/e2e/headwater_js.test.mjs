// headwater.js: one connection for all tabs of a browser, which neither loses nor repeats a message for any of them.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { startProxy } from './proxy.mjs'
import { append, appendMany, connections, makeKey, startBrowser, startService, temporaryDirectory } from './service.mjs'

let directory, service, browser, elsewhere

before(async () => {
  directory = await temporaryDirectory()
  // A page of another origin, which may not start the service's worker.
  elsewhere = createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>elsewhere</title>'))
  await new Promise(resolve => elsewhere.listen(0, '127.0.0.1', resolve))
  service = await startService(directory.path, '127.0.0.1:0', settings())
  browser = await startBrowser()
})

after(async () => {
  await browser?.close()
  await service?.stop()
  elsewhere?.close()
  await directory?.remove()
})

const elsewhereUrl = () => `http://127.0.0.1:${elsewhere.address().port}/`
const settings = () => ['--cors-origin', elsewhereUrl().slice(0, -1)]
/** Where tabs are: beside the service they share a worker, elsewhere they elect one of them. */
const places = { worker: () => `${service.url}/problems/forbidden`, channel: elsewhereUrl }

/** A tab that follows, and keeps what it is told. */
async function follow(context, path, { place = places.worker(), url = service.url, options = {} } = {}) {
  const page = await context.newPage()
  await page.goto(place)
  await more(page, path, { url, options })
  return page
}

/** One more source in a tab. */
function more(page, path, { url = service.url, options = {} } = {}) {
  return page.evaluate(async ([url, path, options]) => {
    const { SharedEventSource } = await import(`${url}/headwater.js`)
    window.tickets ??= 0
    const { key, isText, group } = options
    const ticket = key === undefined ? undefined : async () => {
      window.tickets++
      if (!key) return null
      const response = await fetch('/v1/tickets', {
        method: 'POST', headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
        body: JSON.stringify({ scopes: ['read:order*'], ttl: '3s' }),
      })
      const answer = await response.json()
      return isText ? answer.ticket : answer
    }
    const source = new SharedEventSource(url + path, { group, ticket })
    window.sources = [...window.sources ?? [], source]
    source.seen = []
    for (const name of ['message', 'open', 'error', 'caught-up', 'Counted']) {
      source.addEventListener(name, event => source.seen.push({
        name, id: event.lastEventId, data: event.data && JSON.parse(event.data), state: source.readyState, problem: event.problem?.type,
      }))
    }
  }, [url, path, options])
}

const seen = (page, name, count, which = 0) => page.waitForFunction(
  ([name, count, which]) => {
    const found = window.sources[which].seen.filter(event => event.name === name)
    return found.length >= count && found
  },
  [name, count, which],
).then(handle => handle.jsonValue())

const numbers = events => events.map(event => (event.data.message ?? event.data).data.n)
const upTo = count => Array.from({ length: count }, (_, n) => n)
const counted = n => ({ type: 'Counted', data: { n } })

const openConnections = count => connections(service.url, count)

for (const [via, place] of Object.entries(places)) {
  test(`twenty tabs share one connection of HTTP/1.1, and each shows each message (${via})`, { timeout: 120_000 }, async () => {
    const context = await browser.newContext()
    const category = `twenty${via}`
    await appendMany(service.url, `${category}-1`, upTo(3).map(counted))
    const tabs = []
    for (let n = 0; n < 20; n++) tabs.push(await follow(context, `/v1/categories/${category}/events?from=beginning`, { place: place() }))
    for (const tab of tabs) await seen(tab, 'caught-up', 1)
    assert.equal(await tabs[0].evaluate(() => window.sources[0].via), via)
    await openConnections(1)
    for (let n = 3; n < 10; n++) await append(service.url, `${category}-${n % 3}`, 'Counted', { n })
    for (const tab of tabs) assert.deepEqual(numbers(await seen(tab, 'message', 10)), upTo(10))
    await openConnections(1)
    for (const tab of tabs) assert.equal((await seen(tab, 'error', 0)).length, 0)
    await context.close()
    await openConnections(0)
  })

  test(`a tab that joins late has its history, and the others are told nothing twice (${via})`, async () => {
    const context = await browser.newContext()
    const category = `late${via}`
    const first = await follow(context, `/v1/categories/${category}/events?from=beginning&event_names=type`, { place: place() })
    await seen(first, 'caught-up', 1)
    // Messages come all the time while others join, with the same sources and with more.
    let written = 0
    let isDone = false
    const writing = (async () => {
      while (!isDone) {
        await append(service.url, `${category}-${written % 2}`, 'Counted', { n: written++ })
      }
    })()
    await seen(first, 'Counted', 20)
    const late = []
    for (const path of [
      `/v1/categories/${category}/events?from=beginning&event_names=type`,
      `/v1/streams/${category}-0/events?from=beginning&event_names=type`,
      `/v1/events?stream_name=${category}-1&category=nothing${via}&from=beginning&event_names=type`,
      `/v1/all/events?from=end&event_names=type`,
    ]) {
      late.push(await follow(context, path, { place: place() }))
      await seen(late.at(-1), 'Counted', 20)
    }
    isDone = true
    await writing
    for (const tab of [first, late[0]]) assert.deepEqual(numbers(await seen(tab, 'Counted', written)), upTo(written))
    const half = upTo(written).filter(n => n % 2 === 0)
    assert.deepEqual(numbers(await seen(late[1], 'Counted', half.length)), half)
    const ids = (await seen(late[1], 'Counted', half.length)).map(event => event.id)
    assert.match(ids.at(-1), new RegExp(`^${half.length - 1}~[0-9a-f]{8}$`), 'as without sharing, ids of a stream are its own')
    const other = upTo(written).filter(n => n % 2 === 1)
    assert.deepEqual(numbers(await seen(late[2], 'Counted', other.length)), other)
    const ofAll = numbers(await seen(late[3], 'Counted', 20)).filter(n => n !== undefined)
    assert.deepEqual(ofAll, upTo(written).slice(ofAll[0]))
    // The whole log is read on a connection of its own; the streams and the category have the other.
    await openConnections(2)
    for (const tab of [first, ...late]) assert.equal((await seen(tab, 'error', 0)).length, 0)
    await context.close()
  })

  test(`when the tab that joined first is closed, the others lose nothing (${via})`, async () => {
    const context = await browser.newContext()
    const path = `/v1/categories/left${via}/events?from=beginning`
    const tabs = []
    for (let n = 0; n < 3; n++) tabs.push(await follow(context, path, { place: place() }))
    for (const tab of tabs) await seen(tab, 'caught-up', 1)
    let written = 0
    const write = async count => {
      for (const end = written + count; written < end; written++) await append(service.url, `left${via}-1`, 'Counted', { n: written })
    }
    await write(5)
    for (const tab of tabs) await seen(tab, 'message', 5)
    while (tabs.length > 1) {
      const [closing] = tabs.splice(0, 1)
      await Promise.all([closing.close(), write(10)])
      await write(5)
      for (const tab of tabs) assert.deepEqual(numbers(await seen(tab, 'message', written)), upTo(written))
      await openConnections(1)
    }
    await context.close()
  })

  test(`when the service is killed, or stops, and starts again, all go on where they were (${via})`, async () => {
    const context = await browser.newContext()
    const category = `killed${via}`
    const tabs = [
      await follow(context, `/v1/categories/${category}/events?from=beginning`, { place: place() }),
      await follow(context, `/v1/events?category=${category}&category=nobody&from=beginning`, { place: place() }),
    ]
    for (const tab of tabs) await seen(tab, 'caught-up', 1)
    for (let n = 0; n < 5; n++) await append(service.url, `${category}-1`, 'Counted', { n })
    for (const tab of tabs) await seen(tab, 'message', 5)
    const { host } = new URL(service.url)
    await service.kill()
    for (const tab of tabs) {
      const [error] = await seen(tab, 'error', 1)
      assert.equal(error.state, 0, 'it connects again')
    }
    service = await startService(directory.path, host, settings())
    for (let n = 5; n < 10; n++) await append(service.url, `${category}-1`, 'Counted', { n })
    for (const tab of tabs) {
      assert.deepEqual(numbers(await seen(tab, 'message', 10)), upTo(10))
      await seen(tab, 'open', 2)
      await seen(tab, 'caught-up', 2)
    }
    // In good order it says so, and when to come back.
    await service.stop()
    service = await startService(directory.path, host, settings())
    await append(service.url, `${category}-1`, 'Counted', { n: 10 })
    for (const tab of tabs) {
      assert.deepEqual(numbers(await seen(tab, 'message', 11)), upTo(11))
      await seen(tab, 'caught-up', 3)
    }
    await openConnections(1)
    await context.close()
  })
}

test('a connection that is cut again and again under load loses nothing and repeats nothing', async () => {
  const context = await browser.newContext()
  const proxy = await startProxy(service.url)
  const place = `${proxy.url}/problems/forbidden`
  const tabs = []
  for (let n = 0; n < 3; n++) tabs.push(await follow(context, '/v1/categories/torn/events?from=beginning', { place, url: proxy.url }))
  for (const tab of tabs) await seen(tab, 'caught-up', 1)
  const ALL = 300
  for (let n = 0; n < ALL; n++) {
    await append(service.url, 'torn-1', 'Counted', { n })
    if (n % 100 !== 50) continue
    proxy.cut()
    await tabs[0].waitForFunction(() => window.sources[0].readyState === EventSource.CONNECTING)
    await tabs[0].waitForFunction(() => window.sources[0].readyState === EventSource.OPEN)
  }
  for (const tab of tabs) assert.deepEqual(numbers(await seen(tab, 'message', ALL)), upTo(ALL))
  await context.close()
  await proxy.stop()
})

test('whoever finds the service back connects those that still wait', { timeout: 60_000 }, async () => {
  const context = await browser.newContext()
  const waiting = await context.newPage()
  // In a page of another origin the connection is a tab's, whose clock can be stopped: by itself it never connects again.
  await waiting.clock.install()
  await waiting.goto(places.channel())
  await more(waiting, '/v1/categories/back/events?from=beginning')
  await seen(waiting, 'caught-up', 1)
  await openConnections(1)
  await waiting.clock.pauseAt(Date.now() + 1_000_000)
  const { host } = new URL(service.url)
  await service.kill()
  await seen(waiting, 'error', 1)
  service = await startService(directory.path, host, settings())
  await append(service.url, 'back-1', 'Counted', { n: 0 })
  const late = await follow(context, '/v1/categories/back/events?from=beginning', { place: places.channel() })
  assert.deepEqual(numbers(await seen(late, 'message', 1)), [0])
  // Nothing is drawn where the clock is stopped, and `seen` waits for that.
  const told = () => waiting.evaluate(() => window.sources[0].seen.filter(({ name }) => name === 'message'))
  while ((await told()).length === 0) await new Promise(resolve => setTimeout(resolve, 50))
  assert.deepEqual(numbers(await told()), [0])
  await context.close()
})

test('a connection that was quiet for long is not opened where it was last heard of', async () => {
  const context = await browser.newContext()
  const proxy = await startProxy(service.url)
  const place = `${proxy.url}/problems/forbidden`
  const quiet = await follow(context, '/v1/categories/quiet/events?from=beginning', { place, url: proxy.url })
  await seen(quiet, 'caught-up', 1)
  let last
  for (let n = 0; n < 15; n++) last = await appendMany(service.url, `busy-${n}`, upTo(100).map(counted))
  const head = last.messages.at(-1).global_position
  const busy = await follow(context, '/v1/categories/busy/events?from=end', { place, url: proxy.url })
  await seen(busy, 'caught-up', 1)
  await append(service.url, 'busy-1', 'Counted', { n: 100 })
  await append(service.url, 'quiet-1', 'Counted', { n: 0 })
  assert.deepEqual(numbers(await seen(busy, 'message', 1)), [100])
  assert.deepEqual(numbers(await seen(quiet, 'message', 1)), [0])
  const together = proxy.requests.filter(text => /^GET \/v1\/events\?.*category=quiet&category=busy/.test(text))
  assert.equal(together.length, 1)
  assert.ok(Number(/last_event_id=(\d+)/.exec(together[0])[1]) >= head, together[0].split('\r\n')[0])
  await context.close()
  await proxy.stop()
})

test('what is refused closes the source that asked for it, and no other', async () => {
  const context = await browser.newContext()
  const name = 'gone-one'
  const define = () => fetch(`${service.url}/v1/aggregated-streams/${name}`, {
    method: 'PUT', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ categories: ['gone'], partitioner: { kind: 'constant' } }),
  })
  assert.equal((await define()).status, 201)
  const page = await follow(context, '/v1/categories/gone/events?from=beginning')
  await more(page, '/v1/categories/gone/events?filter=data.n+%3E')
  await more(page, `/v1/aggregated-streams/${name}/events?from=beginning`)
  const [refused] = await seen(page, 'error', 1, 1)
  assert.deepEqual([refused.state, refused.problem], [2, '/problems/invalid'])
  await append(service.url, 'gone-1', 'Counted', { n: 0 })
  assert.deepEqual(numbers(await seen(page, 'message', 1, 2)), [0])
  await fetch(`${service.url}/v1/aggregated-streams/${name}`, { method: 'DELETE' })
  const errors = await page.waitForFunction(() => window.sources[2].readyState === 2 && window.sources[2].seen.filter(({ name }) => name === 'error'))
  assert.equal((await errors.jsonValue()).at(-1).problem, '/problems/not-found')
  await append(service.url, 'gone-1', 'Counted', { n: 1 })
  assert.deepEqual(numbers(await seen(page, 'message', 2)), [0, 1])
  await openConnections(1)
  // A source that is closed is told nothing more.
  await page.evaluate(() => window.sources[0].close())
  await openConnections(0)
  await context.close()
})

test('newest messages first, a place in a stream, and the handlers of EventSource', async () => {
  const context = await browser.newContext()
  await appendMany(service.url, 'opens-1', upTo(5).map(counted))
  await appendMany(service.url, 'opens-2', [5, 6].map(counted))
  const page = await follow(context, '/v1/categories/opens/events?from=latest_of_each')
  await seen(page, 'caught-up', 1)
  assert.deepEqual(numbers(await seen(page, 'message', 2)).sort(), [4, 6])
  await more(page, '/v1/streams/opens-1/events?from=3')
  await more(page, '/v1/streams/opens-1/events?from=end')
  for (const which of [1, 2]) await seen(page, 'caught-up', 1, which)
  await page.evaluate(() => { window.sources[2].onmessage = event => { window.told = event.lastEventId } })
  const { messages: [{ id }] } = await append(service.url, 'opens-1', 'Counted', { n: 7 })
  assert.deepEqual(numbers(await seen(page, 'message', 3)).slice(2), [7])
  assert.deepEqual(numbers(await seen(page, 'message', 3, 1)), [3, 4, 7])
  assert.deepEqual(numbers(await seen(page, 'message', 1, 2)), [7])
  assert.equal(await page.evaluate(() => window.told), `5~${id.slice(-8)}`)
  await context.close()
})

test('tickets are renewed before they end, and nobody is told', { timeout: 90_000 }, async () => {
  const own = await temporaryDirectory()
  const guarded = await startService(own.path, '127.0.0.1:0', ['--credentials', 'required', '--ticket-ttl-max', '1m'])
  try {
    const key = await makeKey(own.path, 'board', 'read:order*', 'append:order-*')
    const context = await browser.newContext()
    const place = `${guarded.url}/problems/forbidden`
    const path = '/v1/categories/order/events?from=beginning'
    const tabs = []
    // With the answer as it is, it is renewed before it ends; with the text alone, when the service says that it has ended.
    for (const isText of [false, true]) {
      for (let n = 0; n < 2; n++) {
        tabs.push(await follow(context, path, { place, url: guarded.url, options: { key, isText, group: `${isText}` } }))
      }
    }
    let written = 0
    const send = () => append(guarded.url, 'order-1', 'Counted', { n: written++ }, key)
    for (const tab of [tabs[0], tabs[2]]) {
      while (await tab.evaluate(() => window.tickets) < 4) await send()
    }
    for (const tab of tabs) {
      assert.deepEqual(numbers(await seen(tab, 'message', written)), upTo(written))
      assert.deepEqual(await seen(tab, 'error', 0), [])
    }
    const without = await follow(context, path, { place, url: guarded.url, options: { key: null } })
    const [refused] = await seen(without, 'error', 1)
    assert.deepEqual([refused.state, refused.problem], [2, '/problems/unauthenticated'])
    await context.close()
  } finally {
    await guarded.stop()
    await own.remove()
  }
})
