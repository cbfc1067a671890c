// What a browser's own EventSource sees.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
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
async function follow(path) {
  const page = await browser.newPage()
  await page.goto(service.url)
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
  assert.equal(event.id, String(appended.messages[0].global_position))
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

test('the page at / shows messages as they come', async () => {
  const page = await browser.newPage()
  const errors = []
  page.on('pageerror', error => errors.push(error.message))
  await page.goto(service.url)
  await page.waitForSelector('#state.live')
  await append(service.url, 'shown-1', 'Shown', { text: '<b>not bold</b>' })
  const row = page.locator('tbody tr', { hasText: 'shown-1' })
  await row.waitFor()
  assert.match(await row.innerText(), /<b>not bold<\/b>/)
  assert.deepEqual(errors, [])
  await page.close()
})
