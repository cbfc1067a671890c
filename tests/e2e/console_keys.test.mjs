// Keyed aggregated streams in the console: their keys, and the messages of one.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heading, rows, startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const three = n => String(n).padStart(3, '0')

const it = startConsole(async ({ url }) => {
  await appendMany(url, 'order-1', Array.from({ length: 250 }, (_, n) => ({ type: 'Ordered', data: { sku: [`X${three(n)}`, 'all'] } })))
  await appendMany(url, 'order-2', ['', '..', 'a/b c%?#"é'].map(sku => ({ type: 'Ordered', data: { sku } })))
  await it.send('PUT', '/v1/aggregated-streams/skus', { categories: ['order'], partitioner: { kind: 'key', of: 'data', pointer: '/sku' } })
  await it.send('GET', '/v1/aggregated-streams/skus?min_position=253&wait=20s')
})
const { open, close } = it

const keys = page => page.locator('td.name a')

test('keys are listed a page at a time, searched by how they begin, and never all drawn', async () => {
  const page = await open('/aggregated')
  await page.locator('tr', { hasText: 'skus' }).getByText('key: data').waitFor()
  await page.getByRole('link', { name: 'skus' }).click()
  await heading(page, 'skus')
  assert.match(await page.locator('.stat', { hasText: 'Keys' }).innerText(), /254/)
  assert.match(await page.locator('.definition').innerText(), /divided by key: data \/sku/)
  await keys(page).nth(99).waitFor()
  assert.equal(await keys(page).count(), 100)
  await page.getByRole('link', { name: 'Next keys' }).click()
  await keys(page).filter({ hasText: 'X196' }).waitFor()
  assert.equal(await keys(page).count(), 100)
  await page.getByRole('link', { name: 'First keys' }).click()
  await keys(page).filter({ hasText: 'the empty text' }).waitFor()
  await page.getByLabel('Search keys').fill('X24')
  await page.waitForFunction(() => document.querySelectorAll('td.name a').length === 10)
  assert.match(page.url(), /prefix=X24/)
  const { keys: [first] } = await it.send('GET', '/v1/aggregated-streams/skus/keys?prefix=X24&limit=1')
  const row = page.locator('tr', { hasText: 'X240' })
  assert.equal(await row.locator('td').nth(1).innerText(), '1')
  assert.equal(await row.locator('td').nth(2).innerText(), String(first.last_global_position))
  await append(it.service.url, 'order-3', 'Ordered', { sku: 'X240' })
  await page.waitForFunction(() => document.querySelector('td.num').textContent === '2')
  await page.getByLabel('Search keys').fill('x')
  await page.getByText('No key begins with this').waitFor()
  await close(page)
})

test('the messages of a key are paged back to its first, and followed', async () => {
  const page = await open('/aggregated/skus?prefix=al')
  await keys(page).filter({ hasText: /^all$/ }).click()
  await heading(page, 'all')
  await page.locator('.heading-actions', { hasText: '250 messages' }).waitFor()
  await page.locator('.live-switch.is-live').waitFor()
  for (const at of [49, 99, 149, 199, 249]) {
    await rows(page).nth(at).waitFor()
    if (at < 249) await page.getByRole('button', { name: 'Older' }).click()
  }
  assert.equal(await page.getByRole('button', { name: 'Older' }).count(), 0)
  const positions = await page.locator('.message-row .num').allInnerTexts()
  assert.deepEqual(positions, Array.from({ length: 250 }, (_, n) => String(249 - n)))
  await append(it.service.url, 'order-4', 'Again', { sku: ['all', 'other'] })
  await append(it.service.url, 'order-4', 'Elsewhere', { sku: 'other' })
  await append(it.service.url, 'order-4', 'Once more', { sku: 'all' })
  await rows(page).filter({ hasText: 'Once more' }).waitFor()
  assert.deepEqual(await page.locator('.message-row').evaluateAll(rows => rows.slice(0, 3).map(row => row.querySelector('.type').textContent)),
    ['Once more', 'Again', 'Ordered'])
  await rows(page).nth(1).click()
  assert.match(await page.locator('.facts').innerText(), /order-4/)
  assert.match(page.url(), /keys\/all\?at=250$/)
  // The link leads to the same message.
  await page.reload()
  await page.locator('.message-row[aria-selected=true]', { hasText: 'Again' }).waitFor()
  await close(page)
})

test('any text is a key, and one that has no message yet is followed', async () => {
  const page = await open('/aggregated/skus?prefix=a%2F')
  await keys(page).filter({ hasText: 'a/b c%?#"é' }).click()
  await heading(page, 'a/b c%?#"é')
  await rows(page).first().waitFor()
  for (const [route, text] of [['/aggregated/skus/keys/..', '..'], ['/aggregated/skus/keys/', 'the empty text']]) {
    await page.goto(`${it.service.url}/#${route}`)
    await heading(page, text)
    await rows(page).first().waitFor()
    assert.equal(await rows(page).count(), 1)
  }
  await page.goto(`${it.service.url}/#/aggregated/skus?prefix=late%3D1`)
  await page.getByRole('link', { name: 'Open “late=1”' }).click()
  await page.getByText('No message has this key yet').waitFor()
  await page.locator('.live-switch.is-live').waitFor()
  await append(it.service.url, 'order-5', 'Ordered', { sku: 'late=1' })
  await rows(page).first().waitFor()
  await close(page)
})

test('no view of keys is wider than a narrow screen, in either theme', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await open('/aggregated/skus', { viewport: { width: 360, height: 740 }, colorScheme })
    for (const [route, selector] of [['/aggregated/skus', 'td.name'], ['/aggregated/skus/keys/all?at=3', '.detail'], ['/aggregated/skus/keys/none', '.empty']]) {
      await page.goto(`${it.service.url}/#${route}`)
      await page.locator(selector).first().waitFor()
      const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
      assert.ok(tooWide <= 0, `${route} is ${tooWide} pixels too wide`)
    }
    await close(page)
  }
})
