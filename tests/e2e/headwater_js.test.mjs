// headwater.js: one connection for all tabs of a browser, which neither loses nor repeats a message for any of them, and
// appends that are written once.
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
    const { key, isText, group, own } = options
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
    const source = new SharedEventSource(url + path, { group, ticket, key: own === undefined ? undefined : async () => own })
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
    const [begun] = numbers(await seen(late[3], 'Counted', 20))
    const ofAll = numbers(await seen(late[3], 'Counted', written - begun))
    assert.deepEqual(ofAll, upTo(written).slice(ofAll[0]))
    // The whole log is read on a connection of its own; the streams and the category have the other.
    await openConnections(2)
    for (const tab of [first, ...late]) assert.equal((await seen(tab, 'error', 0)).length, 0)
    await context.close()
  })

  test(`a type that is the name of another event stays a message (${via})`, async () => {
    const context = await browser.newContext()
    const category = `named${via}`
    const tab = await follow(context, `/v1/categories/${category}/events?event_names=type`, { place: place() })
    await seen(tab, 'caught-up', 1)
    const types = ['caught-up', 'error', 'open', 'closing']
    for (const [n, type] of types.entries()) await append(service.url, `${category}-1`, type, { n })
    await append(service.url, `${category}-1`, 'Counted', { n: types.length })
    await seen(tab, 'Counted', 1)
    assert.deepEqual((await seen(tab, 'message', types.length)).map(event => event.data.type), types)
    for (const [name, count] of [['caught-up', 1], ['open', 1], ['error', 0]]) assert.equal((await seen(tab, name, 0)).length, count)
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

test('a connection on which nothing is said is given up, and those behind it get their turn', { timeout: 60_000 }, async () => {
  const context = await browser.newContext()
  const proxy = await startProxy(service.url)
  await append(service.url, 'mute-1', 'Counted', { n: 0 })
  const page = await follow(context, '/v1/categories/quiet/events', { place: `${proxy.url}/problems/forbidden`, url: proxy.url })
  await seen(page, 'caught-up', 1)
  proxy.setSilent(true)
  // More than read history at once.
  for (let n = 0; n < 5; n++) await more(page, `/v1/categories/mute/events?from=beginning&heartbeat=1s&filter=data.n+%3E+-${n + 1}`, { url: proxy.url })
  for (const which of [1, 2, 3]) assert.equal((await seen(page, 'error', 1, which))[0].state, 0, 'it connects again')
  proxy.setSilent(false)
  for (let which = 1; which <= 5; which++) assert.deepEqual(numbers(await seen(page, 'message', 1, which)), [0])
  await context.close()
  await proxy.stop()
})

test('streams with names that are too long for one URL are followed over several connections', async () => {
  const context = await browser.newContext()
  const name = n => `lengthy-${n}-${'x'.repeat(100)}`
  const page = await follow(context, `/v1/streams/${name(0)}/events?from=beginning`)
  const COUNT = 80
  for (let n = 1; n < COUNT; n++) await more(page, `/v1/streams/${name(n)}/events?from=beginning`)
  for (let n = 0; n < COUNT; n++) await seen(page, 'caught-up', 1, n)
  for (const n of [0, 40, COUNT - 1]) {
    await append(service.url, name(n), 'Counted', { n })
    assert.deepEqual(numbers(await seen(page, 'message', 1, n)), [n])
  }
  for (let n = 0; n < COUNT; n++) assert.deepEqual(await seen(page, 'error', 0, n), [])
  await openConnections(3)
  await context.close()
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

test('a ticket given as text that ends while the service is away is renewed', { timeout: 90_000 }, async () => {
  const own = await temporaryDirectory()
  const settings = ['--credentials', 'required', '--ticket-ttl-max', '1m']
  let guarded = await startService(own.path, '127.0.0.1:0', settings)
  try {
    const key = await makeKey(own.path, 'board', 'read:order*', 'append:order-*')
    const context = await browser.newContext()
    await append(guarded.url, 'order-1', 'Counted', { n: 0 }, key)
    const tab = await follow(context, '/v1/categories/order/events?from=beginning', {
      place: `${guarded.url}/problems/forbidden`, url: guarded.url, options: { key, isText: true },
    })
    await seen(tab, 'caught-up', 1)
    const { host } = new URL(guarded.url)
    await guarded.kill()
    await seen(tab, 'error', 1)
    // Longer than the ticket is good for.
    await new Promise(resolve => setTimeout(resolve, 4_000))
    guarded = await startService(own.path, host, settings)
    await append(guarded.url, 'order-1', 'Counted', { n: 1 }, key)
    assert.deepEqual(numbers(await seen(tab, 'message', 2)), [0, 1])
    await context.close()
  } finally {
    await guarded.stop()
    await own.remove()
  }
})

test('with a key, tickets are made and renewed by themselves, and tabs with other sources share the connection', { timeout: 90_000 }, async () => {
  const own = await temporaryDirectory()
  const guarded = await startService(own.path, '127.0.0.1:0', ['--credentials', 'required', '--ticket-ttl-max', '1m'])
  try {
    const key = await makeKey(own.path, 'board', 'read:order*', 'read:invoice*', 'append:order-*')
    const [all, others] = [await makeKey(own.path, 'all', 'admin'), await makeKey(own.path, 'others', 'read:other*')]
    const context = await browser.newContext()
    // A ticket lasts three seconds.
    let tickets = 0
    await context.route('**/v1/tickets', async route => {
      tickets++
      await route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ttl: '3s' }) })
    })
    const place = `${guarded.url}/problems/forbidden`
    const open = (path, more) => follow(context, path, { place, url: guarded.url, options: more })
    const board = await open('/v1/categories/order/events?from=beginning', { own: key })
    const bills = await open('/v1/categories/invoice/events?from=beginning', { own: key })
    for (const tab of [board, bills]) await seen(tab, 'caught-up', 1)
    await connections(guarded.url, 1, all)
    let written = 0
    while (tickets < 6) await append(guarded.url, 'order-1', 'Counted', { n: written++ }, key)
    assert.deepEqual(numbers(await seen(board, 'message', written)), upTo(written))
    for (const tab of [board, bills]) assert.deepEqual(await seen(tab, 'error', 0), [])
    // Who is refused is told why, and is closed.
    for (const [given, problem] of [['hw_wrong', 'unauthenticated'], [null, 'unauthenticated'], [others, 'forbidden']]) {
      const refused = await open('/v1/categories/order/events?from=beginning', { own: given, group: `${given}` })
      const [error] = await seen(refused, 'error', 1)
      assert.deepEqual([error.state, error.problem], [2, `/problems/${problem}`])
    }
    await context.close()
  } finally {
    await guarded.stop()
    await own.remove()
  }
})

test('without a key, a source is open where the service asks for none', async () => {
  const context = await browser.newContext()
  await append(service.url, 'keyless-1', 'Counted', { n: 0 })
  const page = await follow(context, '/v1/categories/keyless/events?from=beginning', { options: { own: null } })
  assert.deepEqual(numbers(await seen(page, 'message', 1)), [0])
  await seen(page, 'caught-up', 1)
  await context.close()
})

test('a handler that throws loses no message but its own', async () => {
  const page = await browser.newPage()
  await page.goto(places.worker())
  await appendMany(service.url, 'thrown-1', upTo(3).map(counted))
  const told = await page.evaluate(async () => {
    const { SharedEventSource } = await import('/headwater.js')
    const source = new SharedEventSource('/v1/categories/thrown/events?from=beginning')
    const told = []
    source.onmessage = event => {
      told.push(JSON.parse(event.data).data.n)
      throw new Error('a mistake of the page')
    }
    await new Promise(resolve => source.addEventListener('caught-up', resolve))
    source.close()
    return told
  })
  assert.deepEqual(told, [0, 1, 2])
  await page.close()
})

// ---- append()

/** What `append` of headwater.js comes to in a page: `{answer}` or `{error}`. */
function appendIn(page, url, ...how) {
  return page.evaluate(async ([url, how]) => {
    const { append } = await import(`${url}/headwater.js`)
    return append(url, ...how).then(
      answer => ({ answer }),
      error => ({ error: { ...error, name: error.name, message: error.message, isError: error instanceof Error } }),
    )
  }, [url, how])
}

const messagesOf = async stream => (await (await fetch(`${service.url}/v1/streams/${stream}/messages`)).json()).messages
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

test('an append whose answer is lost after the commit is sent again, and written once', async () => {
  const page = await browser.newPage()
  const proxy = await startProxy(service.url)
  await page.goto(`${proxy.url}/problems/forbidden`)
  for (const [stream, options] of [['lost-1', undefined], ['lost-2', { expectedVersion: -1 }]]) {
    proxy.loseAnswerTo(`POST /v1/streams/${stream}/messages`)
    const { answer } = await appendIn(page, proxy.url, stream, upTo(2).map(counted), options)
    assert.deepEqual([answer.duplicate, answer.version], [true, 1])
    const written = await messagesOf(stream)
    assert.deepEqual(written.map(({ data }) => data.n), [0, 1])
    for (const { id } of written) assert.match(id, UUID_V7)
    assert.equal(proxy.requests.filter(text => text.startsWith(`POST /v1/streams/${stream}/messages`)).length, 2)
  }
  await page.close()
  await proxy.stop()
})

for (const status of [429, 503]) {
  test(`an append that is answered ${status} waits as long as it is told, and is sent again`, async () => {
    const page = await browser.newPage()
    await page.goto(places.channel())
    const sent = []
    await page.route('**/messages', route => {
      if (route.request().method() !== 'POST') return route.continue()
      sent.push({ at: Date.now(), body: route.request().postData() })
      if (sent.length > 1) return route.continue()
      const headers = { 'retry-after': '2', 'access-control-allow-origin': '*', 'access-control-expose-headers': 'retry-after' }
      return route.fulfill({ status, headers, contentType: 'application/problem+json', body: '{"type":"/problems/overloaded"}' })
    })
    const id = crypto.randomUUID()
    const { answer } = await appendIn(page, service.url, `waits-${status}`, [{ ...counted(0), id }])
    assert.deepEqual([answer.duplicate, answer.messages[0].id], [false, id])
    assert.deepEqual([sent.length, sent[0].body], [2, sent[1].body])
    assert.ok(sent[1].at - sent[0].at >= 2_000, `${sent[1].at - sent[0].at} ms`)
    await page.close()
  })
}

test('an append that is given up has ids, with which it can be sent again later and is written once', async () => {
  const page = await browser.newPage()
  await page.clock.install()
  await page.goto(places.worker())
  let attempts = 0
  const fail = async route => {
    // The first one is committed; no answer ever comes.
    if (++attempts === 1) await route.fetch()
    await route.abort('connectionreset')
  }
  await page.route('**/messages', fail)
  let outcome
  const appending = appendIn(page, service.url, 'given-up', [counted(0)]).then(given => { outcome = given })
  while (!outcome) await page.clock.runFor(1_000)
  await appending
  const { error } = outcome
  assert.deepEqual([attempts, error.status, error.type, error.isError], [7, 0, 'about:blank', true])
  await page.unroute('**/messages', fail)
  const { answer } = await appendIn(page, service.url, 'given-up', error.messages)
  assert.equal(answer.duplicate, true)
  assert.equal((await messagesOf('given-up')).length, 1)
  await page.close()
})

test('an append of which the key fails once it was sent has ids, too', async () => {
  const page = await browser.newPage()
  await page.goto(places.worker())
  await page.route('**/messages', async route => {
    await route.fetch()
    await route.abort('connectionreset')
  }, { times: 1 })
  const outcomes = await page.evaluate(async () => {
    const { append } = await import('/headwater.js')
    const outcomes = []
    for (const failsAt of [2, 1]) {
      let asked = 0
      const key = () => {
        if (++asked === failsAt) throw failsAt === 1 ? new Error('signed out') : 'signed out'
        return null
      }
      const error = await append('', 'key-fails', [{ type: 'Counted', data: { n: 0 } }], { key }).catch(error => error)
      outcomes.push({ message: error.message, messages: error.messages })
    }
    return outcomes
  })
  const [sent, unsent] = outcomes
  assert.deepEqual([sent.message, sent.messages.length, unsent.messages], ['signed out', 1, undefined])
  const { answer } = await appendIn(page, service.url, 'key-fails', sent.messages)
  assert.equal(answer.duplicate, true)
  await page.close()
})

test('an append that is refused says what the problem document says, and is not sent again', async () => {
  const own = await temporaryDirectory()
  const guarded = await startService(own.path, '127.0.0.1:0', ['--credentials', 'required'])
  try {
    const key = await makeKey(own.path, 'writer', 'read:order*', 'append:order-*')
    const page = await browser.newPage()
    await page.goto(`${guarded.url}/problems/forbidden`)
    let requests = 0
    page.on('request', request => { requests += Number(request.method() === 'POST') })
    const { answer } = await appendIn(page, guarded.url, 'order-ü/1', [counted(0)], { expectedVersion: -1, key })
    assert.deepEqual([answer.stream_name, answer.version], ['order-ü/1', 0])
    const { error } = await appendIn(page, guarded.url, 'order-ü/1', [counted(1)], { expectedVersion: -1, key })
    const { type, status, stream_name, expected_version, current_version } = error
    assert.deepEqual({ type, status, stream_name, expected_version, current_version }, {
      type: '/problems/wrong-expected-version', status: 409, stream_name: 'order-ü/1', expected_version: -1, current_version: 0,
    })
    assert.deepEqual([error.name, error.isError, error.message], ['Problem', true, error.detail])
    for (const [given, stream, refusal] of [
      ['hw_wrong', 'order-2', [401, '/problems/unauthenticated']],
      [null, 'order-2', [401, '/problems/unauthenticated']],
      [key, 'other-1', [403, '/problems/forbidden']],
    ]) {
      const { error } = await appendIn(page, guarded.url, stream, [counted(0)], { key: given })
      assert.deepEqual([error.status, error.type], refusal)
    }
    assert.equal(requests, 5)
    await page.close()
  } finally {
    await guarded.stop()
    await own.remove()
  }
})
