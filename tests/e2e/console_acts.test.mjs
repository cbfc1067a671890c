// The console acts: with a preview, a confirmation, and the request as curl.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { heading, rows, startConsole } from './console_page.mjs'
import { appendMany } from './service.mjs'

const it = startConsole(async ({ url }) => {
  for (let n = 0; n < 6; n++) await appendMany(url, `order-${n}`, Array.from({ length: 5 }, () => ({ type: 'Placed', data: { n } })))
})
const { open, close, send } = it

const dialog = page => page.locator('dialog[open]')
const press = (page, name) => dialog(page).getByRole('button', { name, exact: true }).click()
const field = (page, label) => dialog(page).getByLabel(label, { exact: true })
const closed = page => dialog(page).waitFor({ state: 'detached' })
const preview = (page, text) => page.locator('.preview-box').getByText(text).waitFor()

const CLIPBOARD = { permissions: ['clipboard-read', 'clipboard-write'] }

/** What the button copied, run by a shell. */
async function runCopied(page, button) {
  await button.click()
  await page.getByRole('button', { name: 'Copied' }).first().waitFor()
  const command = await page.evaluate(() => navigator.clipboard.readText())
  const { stdout } = await promisify(execFile)('sh', ['-c', command.replace(/^curl/, 'curl -sS')])
  return stdout
}

test('a message is appended where the preview says, with the digits that were typed', async () => {
  const page = await open('/streams/order-0', CLIPBOARD)
  await rows(page).first().waitFor()
  await page.getByRole('button', { name: 'Append…' }).click()
  await field(page, 'Type').fill('Paid')
  await field(page, 'Data').fill('{"amount": 12345678901234567890.10')
  await preview(page, 'This is no JSON')
  assert.ok(await dialog(page).getByRole('button', { name: 'Append', exact: true }).isDisabled())
  await field(page, 'Data').fill(`{"amount": 12345678901234567890.10, "note": "it's"}`)
  await preview(page, 'It will be at position 5')
  const copied = dialog(page).getByRole('button', { name: 'Copy as curl' })
  assert.equal(JSON.parse(await runCopied(page, copied)).version, 5)
  // The stream is another one by now: what was expected does not hold.
  await press(page, 'Append')
  await dialog(page).getByRole('alert').waitFor()
  await dialog(page).getByRole('button', { name: 'Cancel' }).click()
  await page.getByRole('button', { name: 'Append…' }).click()
  await field(page, 'Type').fill('Paid')
  await field(page, 'Data').fill('{"amount": 12345678901234567890.10}')
  await preview(page, 'It will be at position 6')
  await press(page, 'Append')
  await closed(page)
  await rows(page).filter({ hasText: '12345678901234567890.10' }).nth(1).waitFor()
  await close(page)
})

test('what a view reads can be copied as curl, with its filter', async () => {
  const page = await open(`/streams/order-1?filter=${encodeURIComponent(`data.n == 1 && type != "it's"`)}`, CLIPBOARD)
  await rows(page).nth(4).waitFor()
  const answer = JSON.parse(await runCopied(page, page.locator('.toolbar').getByRole('button', { name: 'Copy as curl' })))
  assert.deepEqual(answer.messages.map(message => message.position), [4, 3, 2, 1, 0])
  for (const [route, has] of [['/subscriptions', 'subscriptions'], ['/aggregated', 'aggregated_streams'], ['/streams', 'streams'], ['/health', 'database']]) {
    await page.goto(`${it.service.url}/#${route}`)
    await heading(page, route.slice(2))
    assert.ok(has in JSON.parse(await runCopied(page, page.locator('.heading').getByRole('button', { name: 'Copy as curl' }))), route)
  }
  await close(page)
})

test('a subscription is created, edited, sought with a dry run, and deleted', async () => {
  const page = await open('/subscriptions')
  await page.getByRole('button', { name: 'New…' }).click()
  await field(page, 'Name').fill('billing')
  await field(page, 'Its name').fill('order')
  await field(page, 'Partitions').fill('2')
  await field(page, 'Types').fill('Nothing')
  await preview(page, 'No message that was looked at')
  await field(page, 'Types').fill('Placed')
  await preview(page, 'Placed in order-5')
  // Numbers as the page itself prints them are none: they are not left out in silence.
  await field(page, 'Partitions').fill('1,000')
  await dialog(page).getByText('A whole number, such as 1000.').waitFor()
  assert.ok(await dialog(page).getByRole('button', { name: 'Create' }).isDisabled())
  await field(page, 'Partitions').fill('2')
  await press(page, 'Create')
  await heading(page, 'billing')
  const made = await send('GET', '/v1/subscriptions/billing')
  assert.deepEqual([made.definition.source, made.definition.partitions, made.definition.types], [{ category: 'order' }, 2, ['Placed']])

  await page.getByRole('button', { name: 'Edit…' }).click()
  assert.ok(await dialog(page).getByRole('button', { name: 'Change' }).isDisabled())
  await field(page, 'Pending at most').fill('1,000')
  await preview(page, '1,000')
  assert.ok(await dialog(page).getByRole('button', { name: 'Change' }).isDisabled())
  await field(page, 'Pending at most').fill('100')
  await field(page, 'Ack timeout').fill('90s')
  await preview(page, '90s')
  await press(page, 'Change')
  await closed(page)
  assert.equal((await send('GET', '/v1/subscriptions/billing')).definition.ack_timeout, '90s')

  const cursors = async () => (await send('GET', '/v1/subscriptions/billing')).status.partitions.map(one => one.committed_position)
  await page.getByRole('button', { name: 'Seek…' }).click()
  await field(page, 'Go to').selectOption('position')
  await field(page, 'Position').fill('10')
  await preview(page, 'A dry run of the service')
  assert.deepEqual(await cursors(), [0, 0])
  await press(page, 'Set all cursors of billing')
  await closed(page)
  assert.deepEqual(await cursors(), [9, 9])

  await page.getByRole('button', { name: 'Delete…' }).click()
  assert.match(await dialog(page).innerText(), /unacked messages[^]*The messages themselves stay/)
  await press(page, 'Delete')
  await heading(page, 'Subscriptions')
  await page.getByText('No subscription yet').waitFor()
  await close(page)
})

test('what a consumer has left is claimed for another one', async () => {
  await send('PUT', '/v1/subscriptions/shipping', { source: { category: 'order' }, mode: 'competing' })
  await send('POST', '/v1/subscriptions/shipping/fetch', { consumer: 'gone', limit: 3, wait: '10s' })
  const page = await open('/subscriptions/shipping')
  await page.getByRole('button', { name: 'Claim…' }).click()
  await field(page, 'For consumer').fill('heir')
  await field(page, 'Pending for').fill('0s')
  await preview(page, '3 messages')
  await press(page, 'Claim')
  await closed(page)
  const { pending } = await send('GET', '/v1/subscriptions/shipping/pending')
  assert.deepEqual(pending.map(one => one.consumer), ['heir', 'heir', 'heir'])
  await send('DELETE', '/v1/subscriptions/shipping')
  await close(page)
})

test('an aggregated stream is defined, rebuilt, defined once more in another way, and deleted', async () => {
  const page = await open('/aggregated')
  await page.getByRole('button', { name: 'New…' }).click()
  await field(page, 'Name').fill('orders')
  await field(page, 'Categories').fill('order')
  await field(page, 'Partitions').fill('3')
  await preview(page, 'in order-')
  await press(page, 'Define')
  await heading(page, 'orders')
  await page.locator('.partition').nth(1).waitFor()
  await page.getByRole('button', { name: 'Rebuild…' }).click()
  await press(page, 'Rebuild')
  await closed(page)
  await page.getByRole('button', { name: 'Define another…' }).click()
  assert.equal(await field(page, 'Categories').inputValue(), 'order')
  await field(page, 'Name').fill('orders-by-n')
  await field(page, 'Divided by').selectOption('key-data')
  await field(page, 'Where it is').fill('/n')
  await preview(page, 'in order-')
  await press(page, 'Define')
  await heading(page, 'orders-by-n')
  await page.locator('td.name').nth(5).waitFor()
  await page.locator('.stat', { hasText: 'Keys' }).locator('dd', { hasText: /^6$/ }).waitFor()
  await page.getByRole('button', { name: 'Delete…' }).click()
  assert.match(await dialog(page).innerText(), /6 keys go; the messages themselves stay/)
  await press(page, 'Delete')
  await heading(page, 'Aggregated streams')
  await page.getByRole('link', { name: 'orders', exact: true }).waitFor()
  assert.equal(await page.getByRole('link', { name: 'orders-by-n' }).count(), 0)
  await close(page)
})

test('rows can be selected as text, streams open in another tab, and arrow keys scroll', async () => {
  const page = await open('/log', { viewport: { width: 1200, height: 400 } })
  const row = rows(page).first()
  await row.waitFor()
  const [tab] = await Promise.all([page.context().waitForEvent('page'), row.locator('.name a').click({ button: 'middle' })])
  await heading(tab, 'order-')
  await tab.close()
  const box = await row.locator('.preview').boundingBox()
  await page.mouse.move(box.x + 2, box.y + 8)
  await page.mouse.down()
  await page.mouse.move(box.x + 60, box.y + 8, { steps: 4 })
  await page.mouse.up()
  assert.notEqual(await page.evaluate(() => String(getSelection())), '')
  assert.equal(await page.locator('.detail').count(), 0)
  await page.evaluate(() => getSelection().removeAllRanges())
  await page.keyboard.press('ArrowDown')
  await page.waitForFunction(() => scrollY > 0)
  assert.equal(await page.locator('.detail').count(), 0)
  await row.locator('.name a').click()
  await heading(page, 'order-')
  await close(page)
})

test('every dialog fits on a phone and on a desk, in either theme', async () => {
  await send('PUT', '/v1/subscriptions/fits', { source: { category: 'order' }, mode: 'competing' })
  await send('PUT', '/v1/aggregated-streams/fits', { categories: ['order'], partitioner: { kind: 'constant' } })
  for (const options of [{ viewport: { width: 390, height: 700 }, colorScheme: 'dark' }, { viewport: { width: 1440, height: 900 }, colorScheme: 'light' }]) {
    const page = await open('/log', options)
    for (const [route, names] of [
      ['/log', ['Append…']], ['/streams/order-1', ['Append…', 'Trim…']], ['/subscriptions', ['New…']], ['/aggregated', ['New…']],
      ['/subscriptions/fits', ['Pause…', 'Edit…', 'Seek…', 'Claim…', 'Delete…']], ['/aggregated/fits', ['Pause…', 'Define another…', 'Rebuild…', 'Delete…']],
    ]) {
      await page.goto(`${it.service.url}/#${route}`)
      for (const name of names) {
        await page.getByRole('button', { name, exact: true }).click()
        await dialog(page).waitFor()
        const { wide, top, bottom } = await dialog(page).evaluate(dialog => {
          const { left, right, top, bottom } = dialog.getBoundingClientRect()
          return { wide: Math.max(dialog.scrollWidth - dialog.clientWidth, right - innerWidth, -left), top, bottom: bottom - innerHeight }
        })
        assert.ok(wide <= 0 && top >= 0 && bottom <= 0, `${route} ${name}: ${wide} ${top} ${bottom}`)
        await page.keyboard.press('Escape')
        await closed(page)
      }
    }
    await close(page)
  }
})
