// The order board of examples/ in a browser.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { append, makeKey, startBrowser, startService, temporaryDirectory } from './service.mjs'

const BOARD = new URL('../../examples/order-board.html', import.meta.url)

let directory, service, browser, files, address

before(async () => {
  directory = await temporaryDirectory()
  files = createServer(async (_, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8')
    response.end(await readFile(BOARD))
  })
  await new Promise(resolve => files.listen(0, '127.0.0.1', resolve))
  const origin = `http://127.0.0.1:${files.address().port}`
  service = await startService(directory.path, '127.0.0.1:0', ['--cors-origin', origin])
  address = `${origin}/order-board.html?headwater=${encodeURIComponent(service.url)}`
  browser = await startBrowser()
})

after(async () => {
  await browser?.close()
  await service?.stop()
  files?.close()
  await directory?.remove()
})

async function openBoard(options) {
  const page = await browser.newPage(options)
  await page.goto(address)
  await isLive(page)
  return page
}

const isLive = page => page.locator('#state', { hasText: /^live$/ }).waitFor()
const card = (page, state, item) => page.locator(`#Order${state} article`, { hasText: item })

async function place(page, item) {
  await page.fill('[name=item]', item)
  await page.fill('[name=quantity]', '2')
  await page.click('#place button')
  await card(page, 'Placed', `2 × ${item}`).waitFor()
}

test('an order that is placed and moved in one window moves in the other', async () => {
  const [mine, yours] = [await openBoard(), await openBoard()]
  await place(mine, 'Green tea')
  await card(yours, 'Placed', 'Green tea').getByText('Pack').click()
  await card(mine, 'Packed', 'Green tea').getByText('Ship').click()
  for (const page of [mine, yours]) await card(page, 'Shipped', 'Green tea').waitFor()
  await place(yours, 'Black tea')
  await card(mine, 'Placed', 'Black tea').getByText('Cancel').click()
  for (const page of [mine, yours]) await card(page, 'Placed', 'Black tea').waitFor({ state: 'detached' })
  const late = await openBoard()
  await card(late, 'Shipped', 'Green tea').waitFor()
  assert.equal(await card(late, 'Placed', 'Black tea').count(), 0)
  for (const page of [mine, yours, late]) await page.close()
})

test('who comes second is told, and sees how the order stands', async () => {
  const page = await openBoard()
  await place(page, 'White tea')
  const stream = await card(page, 'Placed', 'White tea').getAttribute('id')
  // Between the click and the append, somebody else packs the order.
  await page.route('**/messages', async route => {
    await append(service.url, stream, 'OrderPacked', {})
    await route.continue()
  }, { times: 1 })
  await card(page, 'Placed', 'White tea').getByText('Cancel').click()
  await page.locator('#notice', { hasText: 'Somebody else was faster' }).waitFor()
  await card(page, 'Packed', 'White tea').waitFor()
  await page.close()
})

test('an append whose answer is lost is sent again, and moves the order once', async () => {
  const page = await openBoard()
  await place(page, 'Sencha')
  const stream = await card(page, 'Placed', 'Sencha').getAttribute('id')
  const bodies = []
  await page.route('**/messages', async route => {
    bodies.push(route.request().postData())
    const answer = await route.fetch()
    // It is committed, and the window never hears of it.
    if (bodies.length === 1) await route.abort('connectionreset')
    else await route.fulfill({ response: answer })
  }, { times: 2 })
  await card(page, 'Placed', 'Sencha').getByText('Pack').click()
  await card(page, 'Packed', 'Sencha').getByText('Ship').waitFor()
  while (bodies.length < 2) await new Promise(resolve => setTimeout(resolve, 20))
  assert.equal(bodies[0], bodies[1])
  await card(page, 'Packed', 'Sencha').getByText('Ship').click()
  await card(page, 'Shipped', 'Sencha').waitFor()
  assert.equal(await page.textContent('#notice'), '')
  const { messages } = await (await fetch(`${service.url}/v1/streams/${stream}/messages`)).json()
  assert.deepEqual(messages.map(({ type }) => type), ['OrderPlaced', 'OrderPacked', 'OrderShipped'])
  await page.close()
})

test('an event that the board does not know moves no order, and does not make its buttons fail', async () => {
  const page = await openBoard()
  await place(page, 'Assam')
  const stream = await card(page, 'Placed', 'Assam').getAttribute('id')
  const [unknown] = (await append(service.url, stream, 'OrderNoted', { item: 'a gift' })).messages
  await page.waitForFunction(([stream, version]) => document.getElementById(stream).version === version, [stream, unknown.position])
  await card(page, 'Placed', '2 × Assam').getByText('Pack').click()
  await card(page, 'Packed', '2 × Assam').waitFor()
  assert.equal(await page.textContent('#notice'), '')
  await page.close()
})

test('after an outage the board is live again, and shows what came meanwhile once', async () => {
  const page = await openBoard()
  await place(page, 'Matcha')
  const stream = await card(page, 'Placed', 'Matcha').getAttribute('id')
  const { host } = new URL(service.url)
  await service.kill()
  await page.locator('#state', { hasText: 'reconnecting' }).waitFor()
  service = await startService(directory.path, host, ['--cors-origin', new URL(address).origin])
  await append(service.url, stream, 'OrderPacked', {})
  await isLive(page)
  await card(page, 'Packed', '2 × Matcha').waitFor()
  assert.equal(await page.locator('article', { hasText: 'Matcha' }).count(), 1)
  await page.close()
})

for (const colorScheme of ['light', 'dark']) {
  test(`on a phone nothing of the board is cut off (${colorScheme})`, async () => {
    const page = await openBoard({ colorScheme, viewport: { width: 390, height: 800 } })
    await place(page, `Unbreakable${'e'.repeat(60)} ${colorScheme}`)
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth))
    const background = await page.evaluate(() => {
      const probe = document.body.appendChild(document.createElement('p'))
      probe.style.color = 'canvas'
      return getComputedStyle(probe).color
    })
    assert.equal(background === 'rgb(255, 255, 255)', colorScheme === 'light', background)
    await page.close()
  })
}

test('a board that needs a key asks for it until it is right, and goes on when its ticket has ended', async () => {
  const own = await temporaryDirectory()
  const more = ['--cors-origin', new URL(address).origin, '--credentials', 'required', '--ticket-ttl-max', '1m']
  const guarded = await startService(own.path, '127.0.0.1:0', more)
  try {
    const key = await makeKey(own.path, 'board', 'read:order*', 'append:order-*')
    const page = await browser.newPage()
    const asked = []
    let renewed
    const renewal = new Promise(resolve => { renewed = resolve })
    await page.route('**/v1/caller', route => {
      if (route.request().method() === 'GET') asked.push(route.request().headers().authorization)
      return route.continue()
    })
    // Each ticket of this page lasts two seconds, and is for no more than the key.
    let tickets = 0
    await page.route('**/v1/tickets', async route => {
      if (route.request().method() !== 'POST') return route.continue()
      assert.equal(route.request().headers().authorization, `Bearer ${key}`)
      const { scopes } = route.request().postDataJSON()
      if (++tickets === 2) renewed(scopes)
      await route.continue({ postData: JSON.stringify({ scopes, ttl: '2s' }) })
    })
    await page.goto(`${new URL(address).origin}/order-board.html?headwater=${encodeURIComponent(guarded.url)}`)
    for (const given of ['wrong', key]) {
      await page.locator('dialog[open]').waitFor()
      await page.getByLabel('Key').fill(given)
      await page.getByRole('button', { name: 'Sign in' }).click()
    }
    await isLive(page)
    await place(page, 'Oolong')
    assert.deepEqual(await renewal, ['read:order*'])
    assert.deepEqual(asked.slice(0, 4), [undefined, 'Bearer wrong', `Bearer ${key}`, `Bearer ${key}`])
    await card(page, 'Placed', 'Oolong').getByText('Pack').click()
    await card(page, 'Packed', 'Oolong').waitFor()
    assert.equal(await page.locator('article').count(), 1)
    await page.close()
  } finally {
    await guarded.stop()
    await own.remove()
  }
})
