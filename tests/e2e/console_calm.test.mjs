// On every screen one sees what there is; what stands still says what to do; and one thing has one name.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rows, startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const LONG = `invoice-${'0192f1c2-4a77-7000-8000-'.repeat(4)}end`

const it = startConsole(async ({ url }) => {
  await append(url, LONG, 'CustomerAddressCorrectedByOperatorOnRequestOfTheCustomer', { text: 'x'.repeat(200) })
  for (let n = 0; n < 8; n++) {
    await appendMany(url, `order-${n}`, Array.from({ length: 12 }, (_, at) => ({ type: at === 3 ? 'CustomerAddressCorrectedByOperatorOnRequest' : 'PaymentCreated', data: { n } })))
  }
})
const { open, close, send } = it

const NARROW = { viewport: { width: 390, height: 844 } }

/** Elements of the main part that reach beyond what is visible of them. */
const cut = (page, selector) => page.evaluate(selector => [...document.querySelectorAll(selector)].filter(element => {
  const { left, right, width } = element.getBoundingClientRect()
  return width > 0 && (left < -1 || right > innerWidth + 1)
}).map(element => element.textContent), selector)

test('on a phone nothing is wider than the screen, and every section, tab and value can be seen', async () => {
  await send('PUT', '/v1/subscriptions/billing', { source: { category: 'order' }, partitions: 4 })
  const page = await open('/', NARROW)
  for (const [route, waits, seen] of [
    ['/', '.chart', 'nav a'], ['/streams', 'td.name', 'nav a, td'], ['/categories/order', 'td.name', '.tabs a, td'],
    ['/log', '.message-row', '.message-row span'], [`/streams/${LONG}`, '.message-row', '.message-row span'],
    ['/subscriptions', 'td', 'td'], ['/subscriptions/billing', 'td', '.tabs a, td'], ['/health', '.checks', 'td'],
  ]) {
    await page.goto(`${it.service.url}/#${route}`)
    await page.locator(waits).first().waitFor()
    const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
    assert.ok(tooWide <= 0, `${route} is ${tooWide} pixels too wide`)
    assert.deepEqual(await cut(page, seen), [], route)
  }
  await close(page)
})

test('on a phone the log has the names of streams, and values have their labels', async () => {
  await send('PUT', '/v1/subscriptions/mailing', { source: { category: 'order' }, partitions: 2 })
  const page = await open('/log', NARROW)
  const name = rows(page).first().locator('.name')
  await name.waitFor()
  assert.match(await name.innerText(), /^order-7$/)
  assert.ok((await name.boundingBox()).width > 60)
  await page.goto(`${it.service.url}/#/subscriptions/mailing`)
  const row = page.locator('td', { hasText: /^0$/ }).first()
  await row.waitFor()
  assert.match(await row.evaluate(cell => getComputedStyle(cell, '::before').content), /Partition/)
  await close(page)
})

test('in the columns of an aggregated stream a long type hides no other, nor do five digits', async () => {
  await send('PUT', '/v1/aggregated-streams/orders', { categories: ['order'], partitioner: { kind: 'stream', partitions: 8 } })
  for (const viewport of [{ width: 1440, height: 900 }, NARROW.viewport]) {
    const page = await open('/aggregated/orders', { viewport })
    await page.locator('.cell', { hasText: 'CustomerAddress' }).first().waitFor()
    // As wide as five digits make it.
    await page.evaluate(() => { for (const number of document.querySelectorAll('.cell .num')) number.textContent = '48,213' })
    const found = await page.evaluate(() => [...document.querySelectorAll('.cell')].map(cell => {
      const [type, column] = [cell.querySelector('.type'), cell.closest('.partition')]
      return { type: type.textContent, isCut: type.scrollWidth > type.clientWidth, isInside: cell.getBoundingClientRect().right <= column.getBoundingClientRect().right }
    }))
    assert.ok(found.length > 20)
    assert.deepEqual(found.filter(cell => !cell.isInside || (cell.type === 'PaymentCreated' && cell.isCut)), [])
    await close(page)
  }
})

test('an aggregated stream that has stopped offers to resume it, and says what else can be done', async () => {
  await append(it.service.url, 'bill-1', 'Written', { customer: 1 })
  const { messages: [{ id }] } = await append(it.service.url, 'bill-2', 'Written', {})
  await append(it.service.url, 'bill-3', 'Written', { customer: 3 })
  await send('PUT', '/v1/aggregated-streams/bills', { categories: ['bill'], partitioner: { kind: 'data', pointer: '/customer', method: 'modulo', partitions: 4 } })
  const page = await open('/aggregated/bills')
  await page.getByText('It has stopped before').waitFor()
  assert.equal(await page.getByRole('button', { name: 'Pause…' }).count(), 0)
  const alert = await page.getByRole('alert').innerText()
  assert.match(alert, /bill-2[^]*customer[^]*resume it; or delete it and define it anew with another on_error/)
  await page.locator('.failure a').click()
  await page.locator('.detail').getByText(id).waitFor()
  await page.goBack()
  await page.getByRole('button', { name: 'Resume' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Resume' }).click()
  await page.locator('dialog[open]').waitFor({ state: 'detached' })
  await page.getByText('It has stopped before').waitFor()
  await close(page)
})

test('a competing subscription names its consumers', async () => {
  await send('PUT', '/v1/subscriptions/shipping', { source: { category: 'order' }, mode: 'competing', consumer_timeout: '10m' })
  for (const consumer of ['first', 'second']) await send('POST', '/v1/subscriptions/shipping/fetch', { consumer, limit: 2 })
  const page = await open('/subscriptions/shipping')
  await page.getByText('first, second').waitFor()
  assert.equal(await page.getByText('nobody').count(), 0)
  await page.getByRole('link', { name: 'Consumers' }).click()
  await page.locator('tr', { hasText: 'second' }).waitFor()
  assert.doesNotMatch(await page.locator('.table').innerText(), /none/)
  await close(page)
})

test('one thing has one name: unacked, pending, parked', async () => {
  const page = await open('/subscriptions')
  for (const route of ['/subscriptions', '/subscriptions/shipping', '/subscriptions/shipping?tab=consumers', '/subscriptions/shipping?tab=pending', '/subscriptions/shipping?tab=parked']) {
    await page.goto(`${it.service.url}/#${route}`)
    await page.locator('.table, .empty').first().waitFor()
    assert.doesNotMatch(await page.locator('main').innerText(), /acknowledged|in flight|out for/i, route)
  }
  await page.getByRole('link', { name: 'Pending' }).click()
  await page.locator('th', { hasText: 'Pending for' }).waitFor()
  await close(page)
})

test('what does not exist is not tried again', async () => {
  const page = await open('/subscriptions/nowhere')
  await page.locator('.failure').waitFor()
  assert.equal(await page.getByRole('button', { name: 'Try again' }).count(), 0)
  await close(page)
})

test('what changes every second moves nothing beside it', async () => {
  await send('PUT', '/v1/subscriptions/moving', { source: { category: 'order' }, mode: 'competing' })
  const page = await open('/health', { viewport: { width: 1440, height: 900 } })
  const consumer = (name, joined_at, acked, expires_in) => ({ consumer: name, connected: false, partitions: [], in_flight: 5, acked, joined_at, expires_in })
  let seconds = 0
  const begun = Date.now()
  await page.route('**/v1/subscriptions/moving/consumers', route => {
    seconds++
    // A number grows from one digit to four, a lease is renewed, and a time is told in minutes.
    const joined = new Date(begun - 58_000).toISOString()
    return route.fulfill({ json: { consumers: [consumer('a', joined, 10 ** seconds, `${10 - (seconds % 3) * 0.3}s`), consumer('b', joined, seconds, '8.5s')] } })
  })
  await page.goto(`${it.service.url}/#/subscriptions/moving?tab=consumers`)
  const lefts = () => page.locator('.table[aria-label=Consumers] th').evaluateAll(heads => heads.map(head => Math.round(head.getBoundingClientRect().left)))
  await page.locator('td', { hasText: '1 min' }).first().waitFor()
  const before = await lefts()
  const until = seconds + 3
  while (seconds < until) {
    assert.deepEqual(await lefts(), before)
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  await close(page)
})

test('a heading says no less than the list below it', async () => {
  await send('PUT', '/v1/aggregated-streams/kept', { categories: ['kept'], partitioner: { kind: 'constant' } })
  await send('PUT', '/v1/aggregated-streams/kept-by-type', { categories: ['kept'], partitioner: { kind: 'key', of: 'type' } })
  await append(it.service.url, 'kept-1', 'Kept', {})
  for (const base of ['kept/partitions/0', 'kept-by-type/keys/Kept']) {
    const page = await open(`/aggregated/${base}`)
    await rows(page).first().waitFor()
    await page.locator('.heading-actions', { hasText: 'message' }).waitFor()
    const shown = await rows(page).count()
    // From now on the heading's own look is never answered.
    await page.route(/aggregated-streams\/kept(-by-type\/keys)?(\?.*)?$/, () => {})
    await appendMany(it.service.url, 'kept-1', Array.from({ length: 5 }, () => ({ type: 'Kept' })))
    await rows(page).nth(shown + 4).waitFor()
    await page.getByText(`${shown + 5} messages`).waitFor()
    await close(page)
  }
})
