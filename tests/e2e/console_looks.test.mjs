// Every view of the console as it looks: with nothing in the store, and with long names, much of everything and things that have stopped.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const it = startConsole()
const { open, close, send } = it

const LONG = `order-${'0192f1c2-4a77-7000-8000-'.repeat(4)}end`
const LONG_NAME = 'everything-that-has-to-do-with-payments-and-shipments-by-type'
const LONG_TYPE = 'CustomerAddressCorrectedByOperatorOnRequestOfTheCustomer'
const WINDOWS = [{ width: 390, height: 844 }, { width: 1440, height: 900 }]

/** What is wrong with a page as it is laid out and coloured. */
const faults = page => page.evaluate(() => {
  const found = new Set()
  const tooWide = document.documentElement.scrollWidth - innerWidth
  if (tooWide > 0) found.add(`the page is ${tooWide} pixels too wide`)
  const channel = value => ((value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b)
  const numbers = colour => colour.match(/[\d.]+/g).map(Number)
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor
      if (colour.startsWith('rgb(')) return numbers(colour)
    }
    return [255, 255, 255]
  }
  /** Whether a part of the page around an element scrolls or is cut at its own border. */
  const isInside = element => element !== document.body && (getComputedStyle(element.parentElement).overflowX !== 'visible' || isInside(element.parentElement))
  for (const element of document.querySelectorAll('body *')) {
    const { width, right } = element.getBoundingClientRect()
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) ? element.textContent.trim() : ''
    if (!text || !width || element.closest(':disabled, [aria-disabled=true], [aria-hidden], .skip')) continue
    const style = getComputedStyle(element)
    if (right > innerWidth + 1 && !isInside(element)) found.add(`beyond the window: ${text}`)
    // A preview is cut where the line ends; what else is cut says the whole when it is pointed at.
    if (style.overflowX === 'hidden' && element.scrollWidth > element.clientWidth + 1 && !element.closest('[title], .message-row, .messages-head, thead')) found.add(`cut: ${text}`)
    if (!style.color.startsWith('rgb(')) continue
    const [one, other] = [light(numbers(style.color)), light(behind(element))].sort((a, b) => b - a)
    if ((one + 0.05) / (other + 0.05) < 4.5) found.add(`hard to read: ${element.className} ${text}`)
  }
  return [...found]
})

/** Visits each route in both windows and both themes. `routes`: [route, what it shows once it is there]. */
async function look(routes) {
  for (const viewport of WINDOWS) {
    for (const colorScheme of ['light', 'dark']) {
      const page = await open('/', { viewport, colorScheme })
      for (const [route, selector] of routes) {
        await page.goto(`${it.service.url}/#${route}`)
        await page.locator(selector).first().waitFor()
        assert.deepEqual(await faults(page), [], `${route}, ${viewport.width} pixels, ${colorScheme}`)
      }
      await close(page)
    }
  }
}

test('with nothing in the store every view can be read, and says how to begin', async () => {
  await look([
    ['/', '.empty pre'], ['/streams', '.empty pre'], ['/categories/order', '.empty pre'], ['/categories/order?tab=messages', '.empty pre'],
    ['/categories/order?tab=types', '.empty pre'], ['/categories/order?tab=retention', '.empty button'], ['/streams/order-1', '.empty pre'],
    ['/streams/order-1?tab=state', '.empty'], ['/log', '.empty pre'], ['/messages/0192f1c2-0000-7000-8000-000000000001', '.failure'],
    ['/aggregated', '.empty pre'], ['/aggregated/orders', '.empty pre'], ['/subscriptions', '.empty pre'], ['/subscriptions/billing', '.empty pre'],
    ['/health', 'section[aria-label=Version] dd'], ['/access', '.failure'], ['/nowhere', '.empty a'],
  ])
})

test('what an empty view says can be run as it stands, names what the documents name, and on a phone nothing of it is hidden', async () => {
  const documents = await Promise.all(['README.md', 'examples/curl.sh'].map(name => readFile(new URL(`../../${name}`, import.meta.url), 'utf8')))
  const page = await open('/streams', { viewport: WINDOWS[0] })
  for (const route of ['/streams', '/aggregated/orders', '/subscriptions/billing', '/subscriptions/billing?tab=consumers']) {
    await page.goto(`${it.service.url}/#${route}`)
    const command = page.locator('.empty pre')
    await command.waitFor()
    assert.equal(await command.evaluate(element => element.scrollWidth - element.clientWidth), 0, route)
    const [text, copy] = await Promise.all([command, command.locator('xpath=..').getByRole('button')].map(one => one.boundingBox()))
    assert.ok(copy.x >= text.x + text.width - 1, `${route}: the button lies on the command`)
    const [, path] = (await command.innerText()).match(/\/v1(\/\S+)/)
    for (const text of documents) assert.ok(text.includes(path), `${path} is in no document`)
    await promisify(execFile)('bash', ['-c', (await command.innerText()).replace(/^curl /, 'curl --fail --silent ')])
  }
  const { messages } = await send('GET', '/v1/categories/order/messages')
  assert.deepEqual(messages.map(message => [message.stream_name, message.type]), [['order-1', 'OrderPlaced']])
  await close(page)
})

/** Things that have stopped, are parked and trimmed, under long names. */
async function fill() {
  const { url } = it.service
  await append(url, LONG, LONG_TYPE, { text: 'x'.repeat(300), customer: 1 })
  for (let n = 0; n < 6; n++) {
    await appendMany(url, `order-${n}`, Array.from({ length: 12 }, (_, at) => ({ type: at % 3 ? 'OrderPlaced' : LONG_TYPE, data: { customer: at, note: 'as agreed by telephone' }, metadata: { correlation_id: 'c-1' } })))
  }
  await appendMany(url, 'parcel-1', Array.from({ length: 4 }, () => ({ type: 'ParcelSent' })))
  await append(url, 'bill-1', 'BillWritten', {})
  await send('PUT', '/v1/aggregated-streams/bills', { categories: ['bill'], partitioner: { kind: 'data', pointer: '/customer', method: 'modulo', partitions: 4 } })
  await append(url, 'bill-2', 'BillWritten', { customer: 4 })
  await send('PUT', `/v1/aggregated-streams/${LONG_NAME}`, { categories: ['order', 'bill'], types: [LONG_TYPE], partitioner: { kind: 'cel', expression: 'type == "OrderPlaced" ? 0 : 1' } })
  await send('PUT', '/v1/aggregated-streams/customers', { categories: ['order'], partitioner: { kind: 'key', of: 'data', pointer: '/customer' } })
  await send('PUT', `/v1/subscriptions/${LONG_NAME}`, { source: { categories: ['order', 'bill'] }, partitions: 4, types: [LONG_TYPE], filter: 'data.customer > 3' })
  await send('PUT', '/v1/subscriptions/strict', { source: { category: 'parcel' }, partitions: 1, max_deliveries: 1, on_exhausted: 'stop' })
  await send('PUT', '/v1/subscriptions/parcels', { source: { category: 'parcel' }, partitions: 1 })
  await send('PUT', '/v1/subscriptions/mailing', { source: { category: 'order' }, mode: 'competing', consumer_timeout: '10m', ack_timeout: '10m' })
  for (const [name, action] of [['strict', 'retry'], ['parcels', 'park']]) {
    const { messages: [{ partition, position, epoch }] } = await send('POST', `/v1/subscriptions/${name}/fetch`, { consumer: 'pod-billing-7d9f8c6b5-xk2lq', limit: 1, wait: '10s' })
    await send('POST', `/v1/subscriptions/${name}/nacks`, { consumer: 'pod-billing-7d9f8c6b5-xk2lq', nacks: [{ partition, position, epoch, action, reason: `Error: ${'no address; '.repeat(30)}` }] })
  }
  await send('POST', '/v1/streams/parcel-1/trim', { before_position: 3, unless_unacked: false })
  await send('POST', '/v1/subscriptions/mailing/fetch', { consumer: 'pod-billing-7d9f8c6b5-xk2lq', limit: 4, wait: '10s' })
}

test('with long names, much of everything and things that have stopped every view can be read', { timeout: 240_000 }, async () => {
  await fill()
  await look([
    ['/', '.attention li'], ['/streams', 'td.name'], ['/categories/order', 'td.name'], ['/categories/order?tab=messages', '.message-row'], ['/categories/order?tab=types', 'td.name'],
    [`/streams/${LONG}`, '.message-row'], ['/streams/order-1?at=3', '.detail'], ['/streams/order-1?tab=state', '.json'], ['/log', '.message-row'], [`/log?types=${LONG_TYPE}`, '.message-row'],
    ['/log?text=telephone', '.message-row'], ['/aggregated', 'td.name'], ['/aggregated/orders', '.cell'], ['/aggregated/bills', '.failure'], [`/aggregated/${LONG_NAME}`, '.cell'],
    ['/aggregated/orders/partitions/1', '.message-row'], ['/aggregated/customers', 'td.name'], ['/aggregated/customers/keys/3', '.message-row'],
    ['/subscriptions', 'td.name'], [`/subscriptions/${LONG_NAME}`, 'td'], ['/subscriptions/strict', '.failure'], ['/subscriptions/mailing?tab=consumers', 'td.name'],
    ['/subscriptions/mailing?tab=pending', 'td'], ['/subscriptions/parcels?tab=parked', 'td'], ['/health', 'section[aria-label=Version] dd'], ['/access', '.failure'],
  ])
})

test('a time that is jumped to can be read whole', async () => {
  for (const viewport of WINDOWS) {
    const page = await open('/log', { viewport })
    const field = page.getByLabel('Jump to a time')
    await field.fill('2026-11-22T23:58:58')
    assert.ok(await field.evaluate(element => element.scrollWidth <= element.clientWidth && element.clientWidth >= 200))
    await close(page)
  }
})

test('what has stopped is not called live, and says what can be done', async () => {
  const page = await open('/aggregated/bills')
  await page.locator('.failure').waitFor()
  assert.equal(await page.locator('.live-switch').count(), 0)
  await page.goto(`${it.service.url}/#/subscriptions/strict`)
  await page.getByText('resume it, which delivers the message once more; or seek its partition behind that position').waitFor()
  await page.goto(`${it.service.url}/#/`)
  const why = page.locator('.attention li', { hasText: 'Subscription strict' })
  await why.waitFor()
  assert.match(await why.innerText(), /Subscription strict has stopped: before position \d+ of partition 0, which was delivered as often as allowed: Error/)
  await close(page)
})

test('a parked message that was trimmed is called so, and leads nowhere', async () => {
  const page = await open('/subscriptions/parcels?tab=parked')
  await page.locator('td', { hasText: /^trimmed$/ }).waitFor()
  assert.equal(await page.locator('td .link').count(), 0)
  await close(page)
})

test('within the first day, what was added is not taken for a whole day; versions have the names that people use', async () => {
  const page = await open('/health')
  await page.route('**/v1/reports/storage', route => route.fulfill({ json: {
    measured_at: '2026-01-01T06:00:00Z', database_bytes: 50_000_000, first_time: '2026-01-01T00:00:00Z', messages_per_day: 40_000, bytes_per_day: 4 * 10_485_760, tables: [],
  } }))
  await page.reload()
  const storage = page.locator('section[aria-label=Storage]')
  await storage.locator('dd').first().waitFor()
  assert.match(await storage.innerText(), /Growth\s+10\.0 MiB in 6 h\s+Messages\s+10\.0 k in 6 h/)
  const version = page.locator('section[aria-label=Version]')
  await version.getByText('PostgreSQL').waitFor()
  assert.match(await version.innerText(), /^Version[^]*Headwater[^]*SQL functions[^]*PostgreSQL/)
  await close(page)
})

test('where no message passes the filter, a link leads back to all', async () => {
  for (const filter of ['text=nowhere', 'types=Nothing', 'filter=false']) {
    const page = await open(`/streams/order-1?${filter}`)
    await page.getByText('No message passes the filter').waitFor()
    await page.getByRole('link', { name: 'Without the filter' }).click()
    await page.locator('.message-row').first().waitFor()
    assert.deepEqual(await page.locator('.toolbar input[type=search]').evaluateAll(fields => fields.map(field => field.value)), ['', '', ''])
    await close(page)
  }
})
