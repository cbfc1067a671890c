// The first look tells what needs somebody, and charts know what was before.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heading, startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const it = startConsole(() => {}, ['--metrics-history-interval', '200ms'])
const { open, close, send } = it

const line = (page, text) => page.locator('.attention li', { hasText: text })

test('where nothing needs attention, that is said, and health is green', async () => {
  const page = await open('/')
  await page.getByText('Nothing needs attention').waitFor()
  await page.goto(`${it.service.url}/#/health`)
  await page.locator('.badge.is-good', { hasText: 'Ready' }).waitFor()
  await close(page)
})

test('what stands still is on the list, each with the page that mends it, and health is not green', { timeout: 90_000 }, async () => {
  const { service: { url } } = it
  await append(url, 'bill-1', 'Written', {})
  await appendMany(url, 'order-1', Array.from({ length: 20 }, (_, n) => ({ type: 'Placed', data: { n } })))
  await send('PUT', '/v1/aggregated-streams/bills', { categories: ['bill'], partitioner: { kind: 'data', pointer: '/customer', method: 'modulo', partitions: 4 } })
  await send('PUT', '/v1/subscriptions/idle', { source: { category: 'order' } })
  await send('PUT', '/v1/subscriptions/strict', { source: { category: 'order' }, mode: 'competing', max_deliveries: 1, on_exhausted: 'stop' })
  await send('PUT', '/v1/subscriptions/shipping', { source: { category: 'order' }, mode: 'competing', ack_timeout: '60s' })
  for (const [name, action] of [['strict', 'retry'], ['shipping', 'park']]) {
    const { messages: [{ partition, position, epoch }] } = await send('POST', `/v1/subscriptions/${name}/fetch`, { consumer: 'w', limit: 1, wait: '10s' })
    await send('POST', `/v1/subscriptions/${name}/nacks`, { consumer: 'w', nacks: [{ partition, position, epoch, action, reason: 'unclear' }] })
  }
  const page = await open('/')
  for (const [text, place, has] of [
    ['Aggregated stream bills has stopped', 'bills', 'It has stopped before'], ['Subscription strict has stopped', 'strict', 'It has stopped before'],
    ['Nobody consumes idle', 'idle', 'Nobody consumes'], ['1 message of shipping is parked', 'shipping', 'unclear'],
  ]) {
    await page.goto(`${url}/#/`)
    await line(page, text).locator('a').click({ timeout: 60_000 })
    await heading(page, place)
    await page.getByText(has).first().waitFor()
  }
  await page.goto(`${url}/#/health`)
  await page.locator('.badge.is-warn', { hasText: 'Ready' }).waitFor()
  assert.ok(Number(await page.locator('nav[aria-label=Sections] .count').innerText()) >= 4)
  await close(page)
})

test('what the metrics say is on the list: held back, cut, slow followers, old backup', async () => {
  const page = await open('/health')
  const lines = await page.evaluate(async () => {
    // One of its own: the page has looked at its metrics by the other one, and that remembers them.
    const { ofInstance } = await import('/console/app/attention.js?apart')
    const { parseMetrics } = await import('/console/app/metrics.js')
    const calm = 'headwater_settled_held_back_age 0\nheadwater_listener_up 1\nheadwater_tail_up 1\nheadwater_followers_fell_behind_total 3\nheadwater_sequence_cache 0\nheadwater_positions_ahead 0\n'
    const first = ofInstance(parseMetrics(calm), 0)
    const then = ofInstance(parseMetrics(`headwater_settled_held_back_age 90\nheadwater_listener_up 0\nheadwater_tail_up 0\nheadwater_followers_fell_behind_total 5
      \nheadwater_sequence_cache 32\nheadwater_positions_ahead 1\nheadwater_backup_age_seconds 180000\nheadwater_backup_wal_behind_bytes 2048\n`), 1_000)
    return [first.map(line => line.what), then.map(line => [line.what, Boolean(line.isBad), line.link])]
  })
  assert.deepEqual(lines, [[], [
    ['The settled position has been held back for 1 min 30 s', true, '#/health'], ['The listener is cut', true, '#/health'], ['The end of the log cannot be read', true, '#/health'],
    ['A message is ahead of its sequence', true, '#/health'], ['The sequence gives several positions at once', true, '#/health'],
    ['Followers fell behind 2 times in the last minutes', false, '#/health'], ['The newest base backup is 2 d 2 h old', false, '#/health'],
  ]])
  await close(page)
})

test('charts show at once what was before the page was opened', async () => {
  // Longer ago than live readings of a page that is opened now.
  await new Promise(resolve => setTimeout(resolve, 3_000))
  const { times } = await send('GET', '/v1/reports/metrics')
  assert.ok(times.length >= 10)
  const page = await open('/')
  await page.locator('.chart canvas').first().waitFor()
  const first = await page.waitForFunction(async () => {
    const { history } = await import('/console/app/metrics.js')
    return history.value.time.length > 10 && history.value.time[0]
  })
  assert.ok(Math.abs(await first.jsonValue() - Date.parse(times[0]) / 1000) < 1)
  // The line goes on to the readings of this page without a hole.
  const opened = Date.parse(times.at(-1)) / 1000
  const readings = () => page.evaluate(async () => (await import('/console/app/metrics.js')).history.value)
  while (!((await readings()).time.at(-1) > opened + 3)) await new Promise(resolve => setTimeout(resolve, 100))
  const { written: known } = await readings()
  assert.ok(known.slice(known.findIndex(value => value !== null)).every(value => value !== null), `${known}`)
  await page.getByRole('button', { name: '10 min' }).click()
  await page.locator('[aria-pressed=true]', { hasText: '10 min' }).waitFor()
  await page.reload()
  await page.locator('[aria-pressed=true]', { hasText: '10 min' }).waitFor()
  await close(page)
})
