// The console finds: by a text, by a time, by what ties messages together, and a stream's state at a version.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heading, rows, startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'

const it = startConsole(async ({ url }) => {
  await appendMany(url, 'order-1', [{ type: 'Placed', data: { city: 'Graz' }, metadata: { correlationStreamName: 'checkout-7', traceparent: `00-${TRACE}-00f067aa0ba902b7-01` } }])
  await appendMany(url, 'payment-1', [{ type: 'Paid', data: { note: 'said "yes" in GRAZ' }, metadata: { correlationStreamName: 'checkout-7' } }])
  await appendMany(url, 'parcel-1', [{ type: 'Sent', data: {}, metadata: { traceparent: `00-${TRACE}-11f067aa0ba902b7-01` } }])
  for (let n = 0; n < 12; n++) await appendMany(url, 'noise-1', Array.from({ length: 100 }, (_, at) => ({ type: 'Noise', data: { n: n * 100 + at } })))
  await appendMany(url, 'account-1', [
    { type: 'Opened', data: { owner: { name: 'Ann', city: 'Graz' }, limit: 42.5 } }, { type: 'Moved', data: { owner: { city: 'Wien' } } },
    { type: 'Closed', data: { limit: null, closed: true } },
  ])
})
const { open, close } = it

test('a text is found in payloads without an expression, and in what comes', async () => {
  const page = await open('/log')
  await rows(page).first().waitFor()
  await page.getByLabel('Text').fill('graz')
  await page.waitForFunction(() => document.querySelectorAll('.message-row').length === 3)
  assert.deepEqual(await page.locator('.message-row .type').allInnerTexts(), ['Opened', 'Paid', 'Placed'])
  await page.getByLabel('Text').fill('said "yes"')
  await page.waitForFunction(() => document.querySelectorAll('.message-row').length === 1)
  await append(it.service.url, 'order-2', 'Other', { city: 'Linz' })
  await append(it.service.url, 'order-3', 'Later', { note: 'SAID "yes"' })
  await page.waitForFunction(() => document.querySelectorAll('.message-row').length === 2)
  assert.deepEqual(await page.locator('.message-row .type').allInnerTexts(), ['Later', 'Paid'])
  await close(page)
})

test('a time leads to the first message from then on', async () => {
  await new Promise(resolve => setTimeout(resolve, 1_100))
  const { messages: [{ time, position }] } = await append(it.service.url, 'noise-1', 'Marked', {})
  const page = await open('/streams/noise-1?at=0')
  await page.locator('.message-row[aria-selected=true]').waitFor()
  const at = new Date(Math.floor(Date.parse(time) / 1000) * 1000)
  // A field for a time leaves out seconds that are zero.
  const local = new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19).replace(/(T\d\d:\d\d):00$/, '$1')
  await page.getByLabel('Jump to a time').fill(local)
  await page.locator('.detail h2', { hasText: 'Marked' }).waitFor()
  assert.match(page.url(), new RegExp(`at=${position}`))
  await page.getByLabel('Jump to a time').fill('2090-01-01T00:00:01')
  await page.getByText('No message is so late').waitFor()
  await close(page)
})

test('a correlation and a trace are followed through all streams', async () => {
  const page = await open('/streams/order-1?at=0')
  const follow = name => page.locator('nav[aria-label="Messages that belong together"] a', { hasText: name })
  await follow('correlationStreamName').click()
  await heading(page, 'Log')
  await page.waitForFunction(() => document.querySelectorAll('.message-row').length === 2)
  assert.deepEqual(await page.locator('.message-row .name').allInnerTexts(), ['payment-1', 'order-1'])
  await page.goBack()
  await follow('traceparent').click()
  await page.waitForFunction(() => document.querySelector('h1').textContent === 'Log' && document.querySelectorAll('.message-row').length === 2)
  assert.deepEqual(await page.locator('.message-row .name').allInnerTexts(), ['parcel-1', 'order-1'])
  await close(page)
})

test("a stream's state at a version is shown with what its last message changed", async () => {
  const page = await open('/streams/account-1')
  await page.getByRole('link', { name: 'State' }).click()
  const difference = page.locator('section[aria-label=Difference]')
  await difference.locator('h2', { hasText: 'Closed' }).waitFor()
  assert.match(await difference.innerText(), /Removed \/limit\s+42\.5[^]*Added \/closed\s+true/)
  assert.doesNotMatch(await page.locator('.json').innerText(), /limit/)
  await page.getByRole('link', { name: '← Before' }).click()
  await difference.locator('h2', { hasText: 'Moved' }).waitFor()
  assert.match(await difference.innerText(), /Changed \/owner\/city\s+"Graz"\s+"Wien"/)
  assert.match(await page.locator('.json').innerText(), /42\.5[^]*"name": "Ann"/)
  await page.getByLabel('Version').fill('0')
  await page.keyboard.press('Enter')
  await difference.locator('h2', { hasText: 'Opened' }).waitFor()
  await page.goto(`${it.service.url}/#/streams/nowhere-1?tab=state`)
  await page.getByText('No message yet').waitFor()
  await close(page)
})

test('storage and its growth, the settings in effect and the version are on the health page', async () => {
  const page = await open('/')
  await page.route('**/v1/reports/storage', route => route.fulfill({ json: {
    measured_at: '2026-01-02T00:00:00Z', database_bytes: 3_221_225_472, first_time: '2026-01-01T00:00:00Z', messages_per_day: 86_400, bytes_per_day: 10_485_760,
    tables: [{ name: 'message_store.messages', bytes: 1_048_576, index_bytes: 2_097_152, rows_estimated: 1_234 }],
  } }))
  await page.route('**/version', route => route.fulfill({ json: { version: '1.2.3', postgresql: '17.2' } }))
  await page.goto(`${it.service.url}/#/health`)
  const part = name => page.locator(`section[aria-label=${name}]`)
  await part('Storage').getByText('3.0 GiB').waitFor()
  assert.match(await part('Storage').innerText(), /Growth\s+10\.0 MiB a day\s+Messages\s+86\.4 k a day/)
  await part('Storage').locator('summary').click()
  await part('Storage').locator('tr', { hasText: 'message_store.messages' }).getByText('2.0 MiB').waitFor()
  await part('Version').getByText('1.2.3').waitFor()
  await part('Settings').locator('tr', { hasText: '--listen' }).getByText('127.0.0.1:0').waitFor()
  await part('Settings').locator('summary').click()
  await part('Settings').locator('tr', { hasText: '--heartbeat' }).getByText('15s').waitFor()
  await close(page)
})

test('categories show how fast they grow', { timeout: 60_000 }, async () => {
  const page = await open('/streams')
  let isDone = false
  const writing = (async () => {
    while (!isDone) {
      await append(it.service.url, 'busy-1', 'Written', {})
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  })()
  await page.locator('.side li', { hasText: 'busy' }).locator('.rate').waitFor()
  isDone = true
  await writing
  assert.match(await page.locator('.side li', { hasText: 'busy' }).innerText(), /\d\/s/)
  await close(page)
})
