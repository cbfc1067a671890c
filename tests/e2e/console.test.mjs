// The console, as somebody uses it.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { heading, rows, show, startConsole } from './console_page.mjs'
import { append, appendMany, BINARY, startService } from './service.mjs'

const it = startConsole(async ({ url }) => {
  for (let stream = 0; stream < 130; stream++) await append(url, `order-${stream}`, 'Placed', { stream })
  await appendMany(url, 'account-1', Array.from({ length: 120 }, (_, n) => ({ type: n % 2 ? 'Withdrawn' : 'Deposited', data: { n } })))
})
const { open, close, send } = it

test('the overview shows what comes, and charts of it', async () => {
  const page = await open('/')
  await page.locator('.connection.is-online').waitFor()
  await append(it.service.url, 'shown-1', 'Shown', { text: '<b>not bold</b>' })
  const row = rows(page).filter({ hasText: 'shown-1' })
  await row.waitFor()
  assert.match(await row.innerText(), /<b>not bold<\/b>/)
  assert.equal(await page.locator('.chart canvas').count(), 4)
  await page.locator('.bars a', { hasText: 'order' }).waitFor()
  await close(page)
})

test('categories have their counts, and streams are found by a part of their name', async () => {
  const page = await open('/streams')
  const category = page.locator('.side .bars a', { hasText: 'order' })
  await category.waitFor()
  assert.match(await category.innerText(), /130/)
  await category.click()
  await heading(page, 'order')
  await page.locator('td.name a').nth(99).waitFor()
  await page.getByRole('button', { name: 'More' }).click()
  await page.locator('td.name a').nth(129).waitFor()
  await page.getByLabel('Search streams').fill('R-12')
  await page.waitForFunction(() => document.querySelectorAll('td.name a').length === 11)
  await page.locator('td.name a', { hasText: /^order-120$/ }).click()
  await heading(page, 'order-120')
  await page.goBack()
  await page.waitForFunction(() => document.querySelector('[aria-label="Search streams"]')?.value === 'R-12')
  await page.getByLabel('Search streams').fill('nowhere')
  await page.getByText('No stream with such a name').waitFor()
  await close(page)
})

test('a stream is paged back to its beginning and follows its end', async () => {
  const page = await open('/streams/account-1')
  await rows(page).nth(49).waitFor()
  assert.match(await rows(page).first().innerText(), /^119/)
  await page.getByRole('button', { name: 'Older' }).click()
  await rows(page).nth(99).waitFor()
  await page.getByRole('button', { name: 'Older' }).click()
  await rows(page).nth(119).waitFor()
  assert.match(await rows(page).last().innerText(), /^0/)
  assert.equal(await page.getByRole('button', { name: 'Older' }).count(), 0)
  await page.locator('.live-switch.is-live').waitFor()
  await append(it.service.url, 'account-1', 'Closed', {})
  await rows(page).filter({ hasText: 'Closed' }).waitFor()
  await page.locator('.heading-actions', { hasText: 'version 120' }).waitFor()
  await page.locator('.live-switch').click()
  await page.locator('.live-switch.is-off').waitFor()
  await close(page)
})

test('types and expressions narrow a stream', async () => {
  const page = await open('/streams/account-1?types=Withdrawn')
  await rows(page).nth(49).waitFor()
  assert.equal(await rows(page).filter({ hasText: 'Deposited' }).count(), 0)
  await page.getByLabel('Types').fill('')
  await page.getByLabel('Filter').fill('data.n == 7')
  await page.waitForFunction(() => document.querySelectorAll('.message-row').length === 1)
  await page.getByLabel('Filter').fill('data.n ==')
  await page.locator('.failure').waitFor()
  assert.match(page.url(), /filter=data\.n/)
  await close(page)
})

test('a link leads to one message, whose JSON has all its digits', async () => {
  const data = '{"precise": 12345678901234567890.123456789, "nested": {"list": [1, 2, {"deep": true}]}, "otherStreamName": "order-3"}'
  const response = await fetch(`${it.service.url}/v1/streams/exact-1/messages`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: `{"messages":[{"type":"Exact","data":${data}}]}`,
  })
  const { messages: [{ id }] } = await response.json()
  const page = await open(`/messages/${id}`)
  await page.locator('.detail h2', { hasText: 'Exact' }).waitFor()
  assert.match(page.url(), /#\/streams\/exact-1\?at=0$/)
  const json = page.locator('.json').first()
  assert.match(await json.innerText(), /12345678901234567890\.123456789/)
  const fold = json.locator('.json-fold', { hasText: '"list"' })
  await fold.click()
  await json.getByText('3 items').waitFor()
  await json.locator('a', { hasText: 'order-3' }).click()
  await heading(page, 'order-3')
  await page.goto(`${it.service.url}/#/messages/0192f1c2-0000-7000-8000-000000000000`)
  await page.locator('.failure').waitFor()
  await close(page)
})

test('a link into the middle of the log shows the message among its neighbours', async () => {
  const page = await open('/log?at=100')
  await page.locator('.message-row[aria-selected=true]').waitFor()
  assert.match(await page.locator('.facts').innerText(), /Global\s+100/)
  await page.locator('.live-switch', { hasText: 'Paused' }).click()
  await page.locator('.live-switch.is-live').waitFor()
  await append(it.service.url, 'late-1', 'Late', {})
  await rows(page).filter({ hasText: 'late-1' }).waitFor()
  await close(page)
})

test('a category is paged back and followed', async () => {
  const page = await open('/categories/order?tab=messages')
  await rows(page).nth(49).waitFor()
  for (const at of [99, 129]) {
    await page.getByRole('button', { name: 'Older' }).click()
    await rows(page).nth(at).waitFor()
  }
  const names = await page.locator('.message-row .name').allInnerTexts()
  assert.deepEqual(names, Array.from({ length: 130 }, (_, n) => `order-${129 - n}`))
  await page.locator('.live-switch.is-live').waitFor()
  await append(it.service.url, 'order-7', 'Paid', {})
  await rows(page).filter({ hasText: 'Paid' }).waitFor()
  await page.getByRole('link', { name: 'Types' }).click()
  await page.locator('tr', { hasText: 'Placed' }).waitFor()
  await close(page)
})

test('keys lead through the views and the messages', async () => {
  const page = await open('/')
  await heading(page, 'Overview')
  await page.keyboard.press('g')
  await page.keyboard.press('s')
  await heading(page, 'Streams')
  await page.locator('td.name a').first().waitFor()
  await page.keyboard.press('/')
  assert.equal(await page.evaluate(() => document.activeElement.type), 'search')
  await page.keyboard.press('Escape')
  await page.goto(`${it.service.url}/#/streams/account-1`)
  await rows(page).first().waitFor()
  await page.keyboard.press('j')
  await page.keyboard.press('j')
  await page.waitForFunction(() => document.querySelectorAll('.message-row')[1].getAttribute('aria-selected') === 'true')
  await page.keyboard.press('k')
  await page.waitForFunction(() => document.querySelectorAll('.message-row')[0].getAttribute('aria-selected') === 'true')
  await page.keyboard.press('Escape')
  await page.locator('.detail').waitFor({ state: 'detached' })
  await page.keyboard.press('?')
  await page.getByRole('heading', { name: 'Keys' }).waitFor()
  await close(page)
})

test('no view is wider than a narrow screen, in either theme', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await open('/', { viewport: { width: 360, height: 740 }, colorScheme })
    for (const [route, selector] of [
      ['/', '.chart'], ['/streams', 'td.name'], ['/categories/order', 'td.name'], ['/streams/account-1?at=119', '.detail'],
      ['/log', '.message-row'], ['/aggregated', '.empty pre'], ['/subscriptions', '.empty pre'], ['/streams/new-1', '.empty pre'],
      ['/health', '.checks'],
    ]) {
      await page.goto(`${it.service.url}/#${route}`)
      await page.locator(selector).first().waitFor()
      const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
      assert.ok(tooWide <= 0, `${route} is ${tooWide} pixels too wide`)
    }
    await close(page)
  }
})

test('the choice of colours is kept', async () => {
  const page = await open('/')
  const button = page.locator('.navigation button', { hasText: 'System' })
  await button.click()
  await page.locator('.navigation button', { hasText: 'Light' }).click()
  await page.reload()
  await page.locator('.navigation button', { hasText: 'Dark' }).waitFor()
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark')
  await close(page)
})

test('the partitions of an aggregated stream fill while one looks', async () => {
  const defined = await fetch(`${it.service.url}/v1/aggregated-streams/orders`, {
    method: 'PUT', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ categories: ['order'], partitioner: { kind: 'stream', partitions: 3 } }),
  })
  assert.equal(defined.status, 201)
  const page = await open('/aggregated')
  await page.getByRole('link', { name: 'orders' }).click()
  await page.locator('.partition').nth(2).waitFor()
  await page.locator('.live-switch.is-live').waitFor()
  const writing = (async () => {
    for (let n = 0; n < 60; n++) await append(it.service.url, `order-${n}`, 'Counted', { n })
  })()
  await page.waitForFunction(() => document.querySelectorAll('.cell .type').length >= 90)
  await writing
  await page.locator('.cell', { hasText: 'order-59' }).filter({ hasText: 'Counted' }).waitFor()
  const columns = await page.evaluate(() => [...document.querySelectorAll('.partition')].map(column =>
    [...column.querySelectorAll('.cell b')].map(position => Number(position.textContent.replaceAll(',', '')))))
  for (const positions of columns) {
    assert.deepEqual(positions, positions.map((_, at) => positions[0] - at), 'no position is left out')
  }
  await page.locator('.cell').first().click()
  await page.locator('.detail').waitFor()
  await close(page)
})

test('a subscription shows its lag, its consumers, and what is parked', async () => {
  await send('PUT', '/v1/subscriptions/billing', { source: { category: 'account' }, mode: 'competing', consumer_timeout: '10m' })
  const page = await open('/subscriptions')
  await page.getByRole('link', { name: 'billing' }).click()
  await heading(page, 'billing')
  const stat = name => page.locator('.stat', { hasText: name }).locator('dd')
  const { messages } = await send('POST', '/v1/subscriptions/billing/fetch', { consumer: 'worker-1', limit: 10 })
  assert.equal(messages.length, 10)
  const places = messages.map(({ partition, position, epoch }) => ({ partition, position, epoch }))
  await send('POST', '/v1/subscriptions/billing/acks', { consumer: 'worker-1', acks: places.slice(0, 5) })
  await send('POST', '/v1/subscriptions/billing/nacks', {
    consumer: 'worker-1', nacks: places.slice(5, 8).map(place => ({ ...place, action: 'park', reason: 'the card was refused' })),
  })
  const summary = await send('GET', '/v1/categories/account/messages?limit=1000')
  const lag = summary.messages.length - 8
  await page.waitForFunction(lag => document.querySelectorAll('.stat dd')[1]?.textContent === String(lag), lag)
  assert.equal(await page.locator('.chart canvas').count(), 1)

  await page.getByRole('link', { name: 'Consumers' }).click()
  // The tab before has a row of it, too.
  await page.locator('tr', { hasText: 'worker-1' }).filter({ hasText: 'fetch' }).waitFor()
  await page.getByRole('link', { name: 'Pending' }).click()
  await page.waitForFunction(() => document.querySelectorAll('.table tbody tr').length === 2)

  await page.getByRole('link', { name: 'Parked' }).click()
  const parked = page.locator('.table tbody tr')
  await parked.nth(2).waitFor()
  assert.match(await parked.first().innerText(), /the card was refused/)
  await parked.first().locator('button.link').click()
  await page.locator('.detail').waitFor()
  await page.keyboard.press('Escape')
  await parked.nth(0).locator('input').check()
  await page.getByRole('button', { name: 'Replay 1' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Replay' }).click()
  await page.waitForFunction(() => document.querySelectorAll('.table tbody tr').length === 2)
  await parked.nth(0).locator('input').check()
  await page.getByRole('button', { name: 'Delete 1' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Delete' }).click()
  await page.waitForFunction(() => document.querySelectorAll('.table tbody tr').length === 1)
  const left = await send('GET', '/v1/subscriptions/billing/parked')
  assert.deepEqual(left.parked.map(one => one.position), [places[7].position])

  await page.getByRole('button', { name: 'Pause' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Pause' }).click()
  await stat('State').getByText('Paused').waitFor()
  await page.getByRole('button', { name: 'Resume' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Cancel' }).click()
  assert.match(await stat('State').innerText(), /Paused/)
  await page.getByRole('button', { name: 'Resume' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Resume' }).click()
  await stat('State').getByText('Running').waitFor()
  await close(page)
})

test('who holds the settled position back is named', async () => {
  const page = await open('/health')
  await page.getByText('Nothing holds it back').waitFor()
  const psql = spawn(BINARY, ['psql', '--data-dir', join(it.directory, 'data')], {
    stdio: ['pipe', 'ignore', 'ignore'], env: { ...process.env, DATABASE_URL: '', PGAPPNAME: 'nightly-import' },
  })
  const ended = new Promise(resolve => psql.once('exit', resolve))
  psql.stdin.write(`BEGIN; INSERT INTO message_store.messages (stream_name, position, type) VALUES ('slow-1', 0, 'Slow');\n`)
  const held = page.getByText('Held back for')
  // The hole shows once something was written after it.
  for (let n = 0; (await held.count()) === 0 && n < 100; n++) {
    await append(it.service.url, 'after-1', 'After', { n })
    await held.waitFor({ timeout: 300 }).catch(() => {})
  }
  await page.getByText('nightly-import').waitFor()
  psql.stdin.end('COMMIT;\n')
  await ended
  await page.getByText('Nothing holds it back').waitFor()
  await close(page)
})

test('what a browser loads is small, compressed and from here', async () => {
  const page = await open('/')
  await page.locator('.connection.is-online').waitFor()
  const loaded = await page.evaluate(() => performance.getEntriesByType('resource')
    .filter(entry => entry.name.includes('/console/')).map(entry => [entry.name, entry.transferSize, entry.decodedBodySize]))
  const sum = loaded.reduce((sum, [, size]) => sum + size, 0)
  assert.ok(loaded.length > 20 && sum < 300_000, `${loaded.length} files, ${sum} bytes`)
  assert.ok(loaded.every(([, , size]) => size > 0))
  await close(page)
})

test('a hidden page follows nothing, and goes on where it was when it is seen again', { timeout: 60_000 }, async () => {
  const page = await open('/streams/hidden-1')
  await page.locator('.live-switch.is-live').waitFor()
  // Awaited: the service may not know yet that the pages of earlier tests are gone.
  const followersAre = async wanted => {
    for (let found; found !== wanted;) {
      found = Number(/^headwater_followers (\d+)/m.exec(await (await fetch(`${it.service.url}/metrics`)).text())[1])
      if (found !== wanted) await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
  await followersAre(1)
  await show(page, false)
  await followersAre(0)
  for (let n = 0; n < 5; n++) await append(it.service.url, 'hidden-1', 'Unseen', { n })
  assert.equal(await rows(page).count(), 0)
  await show(page, true)
  await rows(page).nth(4).waitFor()
  assert.deepEqual(await page.locator('.message-row .num').allInnerTexts(), ['4', '3', '2', '1', '0'])
  await close(page)
})

test('the console says that it reconnects, and goes on without a gap', async () => {
  const page = await open('/streams/account-1')
  await page.locator('.live-switch.is-live').waitFor()
  const { host } = new URL(it.service.url)
  await it.service.kill()
  await page.getByText('Reconnecting to the service').waitFor()
  await page.locator('.live-switch.is-reconnecting').waitFor()
  it.service = await startService(it.directory, host)
  for (let n = 0; n < 5; n++) await append(it.service.url, 'account-1', 'Again', { n })
  await page.locator('.banner').waitFor({ state: 'detached' })
  await page.waitForFunction(() => [...document.querySelectorAll('.message-row .type')].filter(type => type.textContent === 'Again').length === 5)
  await page.locator('.live-switch.is-live').waitFor()
  await close(page)
})
