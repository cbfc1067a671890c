// What is gone from the log on purpose, as the console shows and does it: erased messages, trimmed ones, retention.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rows, show, startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const it = startConsole()
const { open, close, send } = it

const dialog = page => page.locator('dialog[open]')
const erased = page => page.locator('.detail .erased')

test('a message is erased after what goes and what stays was shown', async () => {
  const { messages: [{ id }] } = await append(it.service.url, 'person-1', 'Moved', { address: 'Elm Street 1' })
  await append(it.service.url, 'person-1', 'Paid', {})
  const page = await open('/streams/person-1?at=0')
  await page.locator('.detail').getByText('Elm Street 1').waitFor()
  await page.getByRole('button', { name: 'Erase…' }).click()
  const text = await dialog(page).innerText()
  assert.match(text, /Goes\s+data, 27 B; no metadata/)
  assert.match(text, /Stays\s+position 0 of person-1, global \d+; its type Moved, its time and its id/)
  // Neither Enter in the field nor Cancel erases.
  await page.getByLabel('Reason').fill('asked for <by letter> & "now"')
  await page.keyboard.press('Enter')
  await dialog(page).getByRole('button', { name: 'Cancel' }).click()
  await dialog(page).waitFor({ state: 'detached' })
  assert.equal((await send('GET', `/v1/messages/${id}`)).erased, undefined)
  await page.getByRole('button', { name: 'Erase…' }).click()
  await page.getByLabel('Reason').fill('asked for <by letter> & "now"')
  await dialog(page).getByRole('button', { name: 'Erase its data' }).click()
  await dialog(page).waitFor({ state: 'detached' })
  await erased(page).waitFor()
  assert.match(await erased(page).innerText(), /asked for <by letter> & "now"/)
  assert.match(await rows(page).nth(1).innerText(), /Erased\s+asked for/)
  assert.equal(await page.getByRole('button', { name: 'Erase…' }).count(), 0)
  assert.doesNotMatch(await page.locator('main').innerText(), /null|Elm Street/)
  const message = await send('GET', `/v1/messages/${id}`)
  assert.deepEqual([message.data, message.erased.reason, message.position], [null, 'asked for <by letter> & "now"', 0])
  await close(page)
})

test('an erased message is shown as one wherever messages are shown', async () => {
  const { messages: [{ id, global_position }] } = await append(it.service.url, 'patient-1', 'Seen', { name: 'Ann' })
  await send('PUT', '/v1/subscriptions/ward', { source: { category: 'patient' }, mode: 'competing' })
  await send('PUT', '/v1/aggregated-streams/patients', { categories: ['patient'], partitioner: { kind: 'constant' } })
  await send('PUT', '/v1/aggregated-streams/patients-by-type', { categories: ['patient'], partitioner: { kind: 'key', of: 'type' } })
  const { messages: [{ partition, position, epoch }] } = await send('POST', '/v1/subscriptions/ward/fetch', { consumer: 'w', limit: 1, wait: '10s' })
  await send('POST', '/v1/subscriptions/ward/nacks', { consumer: 'w', nacks: [{ partition, position, epoch, action: 'park', reason: 'unclear' }] })
  for (const name of ['patients', 'patients-by-type']) await send('GET', `/v1/aggregated-streams/${name}?min_position=${global_position}&wait=20s`)
  await send('DELETE', `/v1/messages/${id}`)
  const page = await open('/')
  for (const [route, opens] of [
    ['/', null], [`/log?at=${global_position}`, null], ['/streams/patient-1?at=0', null], [`/categories/patient?tab=messages&at=${global_position}`, null],
    ['/aggregated/patients', '.cell'], ['/aggregated/patients-by-type/keys/Seen?at=0', null], ['/subscriptions/ward?tab=parked', 'button.link'],
  ]) {
    await page.goto(`${it.service.url}/#${route}`)
    const place = opens ? page.locator('tr, .cell', { hasText: 'Seen' }) : rows(page).filter({ hasText: 'Seen' })
    await place.first().getByText('Erased').filter({ visible: true }).first().waitFor()
    if (opens) await page.locator(opens, { hasText: 'Seen' }).first().click()
    if (route !== '/') {
      await erased(page).getByText('no reason was given').waitFor()
      assert.match(await erased(page).innerText(), /When\s+(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d/)
    }
    assert.doesNotMatch(await page.locator('main').innerText(), /null|Ann/, route)
  }
  await close(page)
})

const trimmedLine = (page, text) => page.locator('.trimmed-line', { hasText: text })
const preview = page => page.locator('.preview-box')

test('a stream is trimmed after what goes, what stays and what is kept was shown', async () => {
  await appendMany(it.service.url, 'meter-1', Array.from({ length: 120 }, (_, n) => ({ type: 'Measured', data: { n } })))
  await send('PUT', '/v1/subscriptions/billing', { source: { stream_name: 'meter-1' }, mode: 'competing' })
  const { messages } = await send('POST', '/v1/subscriptions/billing/fetch', { consumer: 'w', limit: 50, wait: '10s' })
  const places = messages.map(({ partition, position, epoch }) => ({ partition, position, epoch }))
  await send('POST', '/v1/subscriptions/billing/acks', { consumer: 'w', acks: places.slice(0, 40) })
  const page = await open('/streams/meter-1')
  await rows(page).first().waitFor()
  await page.getByRole('button', { name: 'Trim…' }).click()
  await dialog(page).getByText('Trim meter-1?').waitFor()
  assert.ok(await dialog(page).getByRole('button', { name: 'Trim', exact: true }).isDisabled())
  await dialog(page).getByRole('textbox', { name: 'Messages' }).fill('20')
  await preview(page).getByText('40 messages').waitFor()
  assert.match(await preview(page).innerText(), /positions 0 to 39[^]*First to stay\s+position 40, Measured[^]*60 more messages would go, but billing has not acked position 40 and later/)
  await dialog(page).getByLabel('Which messages go').selectOption('before_position')
  await dialog(page).getByRole('textbox', { name: 'Position' }).fill('-3')
  await preview(page).getByText('not understood').waitFor()
  await dialog(page).getByRole('textbox', { name: 'Position' }).fill('30')
  await dialog(page).getByRole('button', { name: 'Trim 30 messages of meter-1' }).click()
  await dialog(page).getByText('30 messages have gone. The first is now at position 30.').waitFor()
  await dialog(page).getByRole('button', { name: 'Close' }).click()
  await page.locator('.heading-actions', { hasText: 'begins at 30' }).waitFor()
  await page.getByRole('button', { name: 'Older' }).click()
  await trimmedLine(page, '30 messages were trimmed').waitFor()
  assert.equal(await rows(page).count(), 90)
  assert.equal((await send('GET', '/v1/streams/meter-1')).first_position, 30)
  await close(page)
})

test('what is not acknowledged stays, and what was trimmed is missed by nobody who looks', async () => {
  await appendMany(it.service.url, 'sensor-1', Array.from({ length: 60 }, (_, n) => ({ type: 'Measured', data: { n } })))
  const { messages: [{ global_position }] } = await append(it.service.url, 'sensor-1', 'Measured', {})
  await send('PUT', '/v1/subscriptions/alarms', { source: { category: 'sensor' }, mode: 'competing' })
  await send('PUT', '/v1/aggregated-streams/sensors', { categories: ['sensor'], partitioner: { kind: 'constant' } })
  await send('PUT', '/v1/aggregated-streams/sensors-by-type', { categories: ['sensor'], partitioner: { kind: 'key', of: 'type' } })
  for (const name of ['sensors', 'sensors-by-type']) await send('GET', `/v1/aggregated-streams/${name}?min_position=${global_position}&wait=20s`)
  const page = await open('/streams/sensor-1')
  await page.getByRole('button', { name: 'Trim…' }).click()
  await dialog(page).getByRole('textbox', { name: 'Messages' }).fill('10')
  await preview(page).getByText('None').waitFor()
  assert.match(await preview(page).innerText(), /alarms has not acked position 0 and later/)
  await dialog(page).getByLabel('Keep what a subscription has not acked').uncheck()
  await preview(page).getByText('51 messages').waitFor()
  await preview(page).getByText('Subscriptions will never get what goes').waitFor()
  await dialog(page).getByRole('button', { name: 'Trim 51 messages of sensor-1' }).click()
  await dialog(page).getByText('51 messages have gone').waitFor()
  for (const [route, positions] of [
    ['/streams/sensor-1', '.message-row .num'], ['/categories/sensor?tab=messages', null],
    ['/aggregated/sensors-by-type/keys/Measured', '.message-row .num'], ['/aggregated/sensors', '.cell b'],
  ]) {
    await page.goto(`${it.service.url}/#${route}`)
    await page.waitForFunction(() => document.querySelectorAll('.message-row, .cell').length === 10, undefined, { timeout: 15_000 })
    if (positions) assert.deepEqual(await page.locator(positions).allInnerTexts(), Array.from({ length: 10 }, (_, n) => String(60 - n)), route)
    assert.equal(await page.locator('.failure').count(), 0, route)
  }
  await page.goto(`${it.service.url}/#/subscriptions/alarms`)
  await page.locator('.stat', { hasText: 'Trimmed' }).locator('dd', { hasText: '51' }).waitFor()
  await close(page)
})

test('where it cannot be read what a subscription keeps, the preview says so, and the service decides', async () => {
  for (let n = 0; n < 12; n++) await appendMany(it.service.url, `gauge-${n}`, Array.from({ length: 10 }, (_, n) => ({ type: 'Read', data: { n } })))
  await send('PUT', '/v1/subscriptions/plots', { source: { category: 'gauge' }, mode: 'partitioned', partitions: 4, max_in_flight: 1000 })
  const { messages } = await send('POST', '/v1/subscriptions/plots/fetch', { consumer: 'w', limit: 1000, wait: '10s' })
  const { partition } = messages.find(({ message }) => message.stream_name === 'gauge-1')
  const last = messages.findLast(message => message.partition === partition)
  assert.ok(messages.some(message => message.partition !== partition))
  await send('POST', '/v1/subscriptions/plots/acks', { consumer: 'w', acks: [{ partition, position: last.position, epoch: last.epoch }] })
  const page = await open('/streams/gauge-1')
  await page.getByRole('button', { name: 'Trim…' }).click()
  await dialog(page).getByRole('textbox', { name: 'Messages' }).fill('2')
  await preview(page).getByText('plots may not have acked position 0 and later').waitFor()
  await dialog(page).getByRole('button', { name: 'Trim up to 8 messages of gauge-1' }).click()
  await dialog(page).getByText('8 messages have gone. The first is now at position 8.').waitFor()
  await close(page)
})

test('a live view says how many messages were trimmed, and goes on', async () => {
  const write = (type, number) => appendMany(it.service.url, 'clock-1', Array.from({ length: number }, (_, n) => ({ type, data: { n } })))
  await write('Early', 6)
  await send('PUT', '/v1/aggregated-streams/clocks', { categories: ['clock'], partitioner: { kind: 'constant' } })
  const pages = []
  for (const route of ['/streams/clock-1', '/categories/clock?tab=messages', '/aggregated/clocks']) {
    const page = await open(route)
    await page.locator('.live-switch.is-live').waitFor()
    await page.locator('.message-row, .cell', { hasText: 'Early' }).first().waitFor()
    await show(page, false)
    pages.push(page)
  }
  const { messages } = await write('Missed', 9)
  await send('GET', `/v1/aggregated-streams/clocks?min_position=${messages.at(-1).global_position}&wait=20s`)
  await send('POST', '/v1/streams/clock-1/trim', { keep_last: 2 })
  for (const page of pages) {
    await show(page, true)
    await trimmedLine(page, '7 messages were trimmed').waitFor()
    await page.locator('.live-switch.is-live').waitFor()
  }
  await append(it.service.url, 'clock-1', 'Late', {})
  for (const page of pages) await page.locator('.message-row, .cell', { hasText: 'Late' }).waitFor()
  assert.deepEqual(await pages[0].locator('.message-row .num, .trimmed-line').allInnerTexts(),
    ['15', '14', '13', '7 messages were trimmed', '5', '4', '3', '2', '1', '0'])
  for (const page of pages) await close(page)
})

test('a retention is set with a preview, shown while it works, changed and ended', async () => {
  const page = await open('/categories/log?tab=retention')
  await appendMany(it.service.url, 'log-1', Array.from({ length: 30 }, (_, n) => ({ type: 'Line', data: { n } })))
  await page.getByText('Everything is kept').waitFor()
  await page.getByRole('button', { name: 'Set retention…' }).click()
  const set = dialog(page).getByRole('button', { name: 'Set retention of log' })
  assert.ok(await set.isDisabled())
  await dialog(page).getByLabel('Keep for at most').fill('many')
  await preview(page).getByText('not understood').waitFor()
  await dialog(page).getByLabel('Keep for at most').fill('30')
  await preview(page).getByText('Too old now').waitFor()
  await dialog(page).getByLabel('Keep at most so many').fill('10')
  await preview(page).getByText('20 messages').waitFor()
  assert.match(await preview(page).innerText(), /Too old now\s+none\s+Too many now\s+20 messages of 30/)
  assert.equal((await fetch(`${it.service.url}/v1/categories/log/retention`)).status, 404)
  await set.click()
  const stat = (label, text) => page.locator('.stat', { hasText: label }).locator('dd', { hasText: text }).waitFor()
  await stat('Kept for', '30 d')
  await stat('Kept at most', '10 messages')
  await stat('Trimmed so far', '20')
  assert.equal((await send('GET', '/v1/streams/log-1')).first_position, 20)
  await page.getByRole('button', { name: 'Change…' }).click()
  assert.equal(await dialog(page).getByLabel('Keep for at most').inputValue(), '30')
  await dialog(page).getByLabel('Keep for at most').fill('')
  await dialog(page).getByLabel('Keep at most so many').fill('5')
  await preview(page).getByText('5 messages').waitFor()
  await set.click()
  await stat('Kept for', 'any time')
  await stat('Kept at most', '5 messages')
  await page.getByRole('button', { name: 'End…' }).click()
  await dialog(page).getByRole('button', { name: 'End retention' }).click()
  // The dialog says "everything is kept" too.
  await page.getByText(/^Everything is kept/).waitFor()
  assert.equal((await fetch(`${it.service.url}/v1/categories/log/retention`)).status, 404)
  await close(page)
})

test('no view of these is wider than a narrow screen, in either theme', async () => {
  await appendMany(it.service.url, 'narrow-1', Array.from({ length: 20 }, (_, n) => ({ type: 'Line', data: { n } })))
  const { messages: [{ id }] } = await append(it.service.url, 'narrow-1', 'Line', {})
  await send('DELETE', `/v1/messages/${id}?reason=${'long'.repeat(60)}`)
  await send('POST', '/v1/streams/narrow-1/trim', { keep_last: 5 })
  for (const colorScheme of ['light', 'dark']) {
    const page = await open('/', { viewport: { width: 360, height: 740 }, colorScheme })
    const fits = async what => {
      const tooWide = await page.evaluate(() => Math.max(document.documentElement.scrollWidth - innerWidth,
        ...[...document.querySelectorAll('dialog[open]')].map(dialog => dialog.scrollWidth - dialog.clientWidth)))
      assert.ok(tooWide <= 0, `${what} is ${tooWide} pixels too wide`)
    }
    await page.goto(`${it.service.url}/#/streams/narrow-1?at=20`)
    await erased(page).waitFor()
    await fits('an erased message')
    await page.keyboard.press('Escape')
    await trimmedLine(page, '16 messages were trimmed').waitFor()
    await rows(page).filter({ has: page.locator('.num', { hasText: /^19$/ }) }).click()
    await page.getByRole('button', { name: 'Erase…' }).click()
    await fits('erase')
    await page.keyboard.press('Escape')
    await dialog(page).waitFor({ state: 'detached' })
    await page.keyboard.press('Escape')
    await page.getByRole('button', { name: 'Trim…' }).click()
    for (const way of ['keep_last', 'before_position', 'before_time']) {
      await dialog(page).getByLabel('Which messages go').selectOption(way)
      await dialog(page).locator('input').first().fill(way === 'before_time' ? '2026-01-01T00:00:01' : '18')
      await preview(page).getByText('First to stay').waitFor()
      await fits(way)
    }
    await page.keyboard.press('Escape')
    await page.goto(`${it.service.url}/#/categories/narrow?tab=retention`)
    await page.getByRole('button', { name: 'Set retention…' }).click()
    await dialog(page).getByLabel('Keep at most so many').fill('1')
    await preview(page).getByText('Too many now').waitFor()
    await fits('retention')
    await close(page)
  }
})
