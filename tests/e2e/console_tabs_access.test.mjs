// Tabs of the console that are signed in with different credentials, in one browser: each follows with its own rights.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rows, signIn, startConsole } from './console_page.mjs'
import { append, connections, makeKey } from './service.mjs'

const it = startConsole(() => {}, ['--credentials', 'required', '--ticket-ttl-max', '2s'])
const { open, openBeside, close } = it

const live = page => page.locator('.live-switch.is-live').waitFor()

test('tabs with the same rights share a connection, others do not, and each ends with its own credential', { timeout: 120_000 }, async () => {
  const admin = await makeKey(it.directory, 'admin', 'admin')
  const orders = await makeKey(it.directory, 'orders', 'read:order*')
  const write = type => append(it.service.url, 'order-1', type, {}, admin)
  await write('Placed')
  const first = await open('/streams/order-1')
  const tabs = [[first, admin], [await openBeside(first, '/categories/order?tab=messages'), admin], [await openBeside(first, '/streams/order-1'), orders], [await openBeside(first, '/categories/order?tab=messages'), orders]]
  for (const [tab, key] of tabs) {
    await signIn(tab, key)
    await live(tab)
  }
  await connections(it.service.url, 2, admin)
  const told = async (type, some) => {
    await write(type)
    for (const [tab] of some) await rows(tab).filter({ hasText: type }).waitFor()
  }
  await told('Shipped', tabs)
  // Signed out in one tab, the other with the same key goes on.
  await tabs[0][0].goto(`${it.service.url}/#/access`)
  await tabs[0][0].getByRole('button', { name: 'Sign out' }).click()
  await tabs[0][0].getByLabel('API key or JWT').waitFor()
  await told('Paid', tabs.slice(1))
  // A key that is revoked ends its tabs, and no other.
  const revoked = await fetch(`${it.service.url}/v1/keys/${orders.split('_')[1]}`, { method: 'DELETE', headers: { authorization: `Bearer ${admin}` } })
  assert.ok(revoked.ok)
  for (const [tab] of tabs.slice(2)) await tab.getByLabel('API key or JWT').waitFor()
  await told('Returned', [tabs[1]])
  await connections(it.service.url, 1, admin)
  await close(first)
})

test('a live view outlasts its tickets, and loses nothing as they are renewed', { timeout: 60_000 }, async () => {
  const admin = await makeKey(it.directory, 'second', 'admin')
  const page = await open('/streams/long-1')
  let tickets = 0
  page.on('request', request => { if (request.url().endsWith('/v1/tickets')) tickets++ })
  await signIn(page, admin)
  await live(page)
  let written = 0
  while (tickets < 4) await append(it.service.url, 'long-1', 'Counted', { n: written++ }, admin)
  await append(it.service.url, 'long-1', 'Last', {}, admin)
  await rows(page).filter({ hasText: 'Last' }).waitFor()
  const told = await page.evaluate(() => [...document.querySelectorAll('.left-line')].reduce((sum, line) => sum + Number(line.textContent.replaceAll(',', '').match(/^\d+/)[0]), 0))
  const shown = await rows(page).count()
  assert.ok(shown === 400 || told + shown === written + 1, `${told} + ${shown} of ${written + 1}`)
  await close(page)
})
