// What is gone from the log on purpose, as the console shows and does it: erased messages, trimmed ones, retention.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rows, startConsole } from './console_page.mjs'
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
      assert.match(await erased(page).innerText(), /When\s+\d\d:\d\d:\d\d/)
    }
    assert.doesNotMatch(await page.locator('main').innerText(), /null|Ann/, route)
  }
  await close(page)
})
