// What the console shows is what there is: after bursts, by links inside an open view, and while the service is away.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heading, rows, startConsole } from './console_page.mjs'
import { append, appendMany, startService } from './service.mjs'

const it = startConsole(async ({ url }) => {
  for (let n = 0; n < 20; n++) await appendMany(url, 'long-1', Array.from({ length: 100 }, (_, at) => ({ type: 'Counted', data: { n: n * 100 + at } })))
})
const { open, close, send } = it

const BURST = 1_500
/** Rows that a list keeps. */
const ROWS_MAX = 400

/** More events than a view shows in a second, over several seconds. */
async function burst(streamOf) {
  for (let n = 0; n < BURST; n += 100) {
    await appendMany(it.service.url, streamOf(n), Array.from({ length: 100 }, (_, at) => ({ type: n + at === BURST - 1 ? 'Last' : 'Counted', data: { n: n + at } })))
  }
}

/** The numbers of all messages that a list shows, and of those that it says it does not. */
const told = page => page.evaluate(() => [...document.querySelectorAll('.message-row, .left-line')].map(row => (
  row.matches('.left-line') ? Number(row.textContent.replaceAll(',', '').match(/^\d+/)[0]) : 1)).reduce((sum, number) => sum + number, 0))

/** How many are told of below the last row. */
const toldBelow = page => page.evaluate(() => {
  const last = [...document.querySelectorAll('.message-row, .left-line')].at(-1)
  return last.matches('.left-line') ? Number(last.textContent.replaceAll(',', '').match(/^\d+/)[0]) : 0
})

/** How many messages there are from the first row to the last one: nobody else writes meanwhile. */
const span = page => page.evaluate(() => {
  const numbers = [...document.querySelectorAll('.message-row .num')].map(number => Number(number.textContent.replaceAll(',', '')))
  return numbers[0] - numbers.at(-1) + 1
})

for (const [route, streamOf] of [
  ['/streams/burst-1', () => 'burst-1'], ['/categories/flood?tab=messages', n => `flood-${n}`],
]) {
  test(`after a burst ${route} shows the newest message, and counts those that it does not show`, { timeout: 60_000 }, async () => {
    const page = await open(route)
    await page.locator('.live-switch.is-live').waitFor()
    await burst(streamOf)
    await rows(page).filter({ hasText: 'Last' }).waitFor()
    await page.locator('.live-switch.is-live').waitFor()
    // A slow burst has more to show than a list keeps: the oldest are a button away.
    const isWhole = await page.getByRole('button', { name: 'Older' }).count() === 0
    if (isWhole) assert.equal(await told(page), BURST)
    else assert.equal(await rows(page).count(), ROWS_MAX)
    assert.equal(await told(page) - await toldBelow(page), await span(page), 'between the first row and the last one each message is shown or counted')
    // What was left out is shown behind the link.
    const line = page.locator('.left-line').first()
    if (await line.count()) {
      const above = await line.evaluate(line => Number(line.previousElementSibling.querySelector('.num').textContent.replaceAll(',', '')))
      await line.locator('a').click()
      await page.waitForFunction(above => [...document.querySelectorAll('.message-row .num')].some(number => Number(number.textContent.replaceAll(',', '')) === above - 1), above)
      await page.locator('.live-switch', { hasText: 'Paused' }).waitFor()
      await page.goBack()
      await rows(page).filter({ hasText: 'Last' }).waitFor()
      await page.locator('.live-switch.is-live').waitFor()
    }
    await close(page)
  })
}

test('the columns of an aggregated stream show the newest after a burst, and how many are not shown', { timeout: 60_000 }, async () => {
  await append(it.service.url, 'wave-0', 'Counted', {})
  await send('PUT', '/v1/aggregated-streams/waves', { categories: ['wave'], partitioner: { kind: 'constant' } })
  const page = await open('/aggregated/waves')
  await page.locator('.cell').first().waitFor()
  await page.locator('.live-switch.is-live').waitFor()
  await burst(n => `wave-${n}`)
  await page.locator('.cell', { hasText: 'Last' }).waitFor()
  await page.locator('.live-switch.is-live').waitFor()
  const positions = await page.locator('.cell .num').allInnerTexts()
  assert.equal(positions[0], '1,500')
  const line = page.locator('.partition .left-line').first()
  if (await line.count()) await line.locator('a').click()
  else await page.locator('.partition h3 a').click()
  await heading(page, 'Partition 0')
  await rows(page).nth(20).waitFor()
  await close(page)
})

test('a page that was paused goes on from where it was', async () => {
  const page = await open('/streams/paused-1')
  await page.locator('.live-switch.is-live').waitFor()
  await append(it.service.url, 'paused-1', 'Before', {})
  await rows(page).first().waitFor()
  await page.locator('.live-switch').click()
  await page.locator('.live-switch.is-off').waitFor()
  for (let n = 0; n < 3; n++) await append(it.service.url, 'paused-1', 'Meanwhile', {})
  await page.locator('.live-switch').click()
  await rows(page).nth(3).waitFor()
  assert.deepEqual(await page.locator('.message-row .num').allInnerTexts(), ['3', '2', '1', '0'])
  await close(page)
})

const selected = (page, text) => page.locator('.message-row[aria-selected=true] .num', { hasText: new RegExp(`^${text}$`) }).waitFor()

test('links inside an open view lead where they say, back and forth', async () => {
  const page = await open('/streams/long-1?at=1500')
  await selected(page, '1,500')
  for (const at of ['100', '1,900']) {
    await page.evaluate(at => { location.hash = `#/streams/long-1?at=${at.replace(',', '')}` }, at)
    await selected(page, at)
  }
  await page.goBack()
  await selected(page, '100')
  await page.goBack()
  await selected(page, '1,500')
  await page.evaluate(() => { location.hash = '#/streams/long-1' })
  await rows(page).filter({ hasText: '1,999' }).waitFor()
  await page.locator('.live-switch.is-live').waitFor()
  await page.goBack()
  await selected(page, '1,500')
  // The same of the whole log.
  await page.goto(`${it.service.url}/#/log?at=1200`)
  await selected(page, '1,200')
  await page.evaluate(() => { location.hash = '#/log?at=100' })
  await selected(page, '100')
  await page.goBack()
  await selected(page, '1,200')
  await close(page)
})

test('a position beyond the end shows the end, and says so; a place without a message, too', async () => {
  const page = await open('/streams/long-1?at=50000')
  await page.getByText('50,000 is beyond the end, which is at 1,999').waitFor()
  assert.match(await rows(page).first().innerText(), /^1,999/)
  await page.goto(`${it.service.url}/#/categories/long?tab=messages&at=1`)
  await selected(page, '1')
  await append(it.service.url, 'other-1', 'Other', {})
  await append(it.service.url, 'long-1', 'Counted', {})
  const { messages: [{ global_position }] } = await send('GET', '/v1/streams/other-1/messages')
  await page.goto(`${it.service.url}/#/categories/long?tab=messages&at=${global_position}`)
  await page.getByText(/No message is at .*its neighbours are shown/).waitFor()
  await rows(page).nth(10).waitFor()
  await close(page)
})

test('nothing is called live while the service cannot be reached', { timeout: 60_000 }, async () => {
  const pages = []
  for (const route of ['/log', '/categories/long?tab=messages']) {
    const page = await open(route)
    await page.locator('.live-switch.is-live').waitFor()
    pages.push(page)
  }
  const { host } = new URL(it.service.url)
  await it.service.kill()
  for (const page of pages) {
    await page.getByText('Reconnecting to the service').waitFor()
    assert.equal(await page.locator('.live-switch').innerText(), 'Reconnecting')
  }
  it.service = await startService(it.directory, host)
  for (const page of pages) {
    await page.locator('.live-switch.is-live').waitFor()
    await close(page)
  }
})
