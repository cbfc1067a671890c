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

async function openBoard() {
  const page = await browser.newPage()
  await page.goto(address)
  await page.waitForSelector('#state.live')
  return page
}

const card = (page, state, item) => page.locator(`section[data-state="${state}"] article`, { hasText: item })

async function place(page, item) {
  await page.fill('[name=item]', item)
  await page.fill('[name=quantity]', '2')
  await page.click('#place button')
  await card(page, 'placed', `2 × ${item}`).waitFor()
}

test('an order that is placed and moved in one window moves in the other', async () => {
  const [mine, yours] = [await openBoard(), await openBoard()]
  await place(mine, 'Green tea')
  await card(yours, 'placed', 'Green tea').getByText('Pack').click()
  await card(mine, 'packed', 'Green tea').getByText('Ship').click()
  for (const page of [mine, yours]) await card(page, 'shipped', 'Green tea').waitFor()
  await place(yours, 'Black tea')
  await card(mine, 'placed', 'Black tea').getByText('Cancel').click()
  for (const page of [mine, yours]) await card(page, 'placed', 'Black tea').waitFor({ state: 'detached' })
  const late = await openBoard()
  await card(late, 'shipped', 'Green tea').waitFor()
  assert.equal(await card(late, 'placed', 'Black tea').count(), 0)
  for (const page of [mine, yours, late]) await page.close()
})

test('who comes second is told, and sees how the order stands', async () => {
  const page = await openBoard()
  await place(page, 'White tea')
  const stream = await card(page, 'placed', 'White tea').getAttribute('id')
  // Between the click and the append, somebody else packs the order.
  await page.route('**/messages', async route => {
    await append(service.url, stream, 'OrderPacked', {})
    await route.continue()
  }, { times: 1 })
  await card(page, 'placed', 'White tea').getByText('Cancel').click()
  await page.locator('#notice', { hasText: 'Somebody else was faster' }).waitFor()
  await card(page, 'packed', 'White tea').waitFor()
  await page.close()
})

test('a board that needs a key asks for it, and goes on when its ticket has ended', async () => {
  const own = await temporaryDirectory()
  const more = ['--cors-origin', new URL(address).origin, '--credentials', 'required', '--ticket-ttl-max', '1m']
  const guarded = await startService(own.path, '127.0.0.1:0', more)
  try {
    const key = await makeKey(own.path, 'board', 'read:order*', 'append:order-*')
    const page = await browser.newPage()
    const tickets = []
    let renewed
    const renewal = new Promise(resolve => { renewed = resolve })
    // Each ticket of this page lasts two seconds.
    await page.route('**/v1/tickets', async route => {
      if (route.request().method() !== 'POST') return route.continue()
      tickets.push(route.request().headers().authorization)
      // The first was refused for want of a key, the second is the one that ends.
      if (tickets.length === 3) renewed()
      await route.continue({ postData: JSON.stringify({ scopes: ['read:order*'], ttl: '2s' }) })
    })
    await page.goto(`${new URL(address).origin}/order-board.html?headwater=${encodeURIComponent(guarded.url)}`)
    await page.getByLabel('Key').fill(key)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.waitForSelector('#state.live')
    await place(page, 'Oolong')
    await renewal
    assert.deepEqual(tickets.slice(0, 3), [undefined, `Bearer ${key}`, `Bearer ${key}`])
    await card(page, 'placed', 'Oolong').getByText('Pack').click()
    await card(page, 'packed', 'Oolong').waitFor()
    assert.equal(await page.locator('article').count(), 1)
    await page.close()
  } finally {
    await guarded.stop()
    await own.remove()
  }
})
