// Many tabs of the console in one browser, over plain HTTP/1.1, of which a browser opens six connections.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rows, show, startConsole } from './console_page.mjs'
import { append, connections } from './service.mjs'

const it = startConsole(async ({ url }) => {
  await append(url, 'order-1', 'Placed', {})
})
const { open, openBeside, close, send } = it

const TABS = 20
const live = page => page.locator('.live-switch.is-live').waitFor()

test('twenty tabs load, follow over one connection, and each shows each message', { timeout: 180_000 }, async () => {
  const routes = ['/categories/order?tab=messages', '/streams/order-1']
  const tabs = []
  for (let n = 0; n < TABS; n++) {
    tabs.push(n === 0 ? await open(routes[0]) : await openBeside(tabs[0], routes[n % routes.length]))
    await live(tabs[n])
  }
  await connections(it.service.url, 1)
  for (const type of ['Shipped', 'Returned']) {
    await append(it.service.url, 'order-1', type, {})
    for (const tab of tabs) await rows(tab).filter({ hasText: type }).waitFor()
  }
  await connections(it.service.url, 1)
  for (const tab of tabs) assert.equal(await tab.locator('.live-switch').innerText(), 'Live')
  await close(tabs[0])
  await connections(it.service.url, 0)
})

test('tabs of one aggregated stream share a connection of their own, and go on when it is rebuilt or deleted', { timeout: 60_000 }, async () => {
  await send('PUT', '/v1/aggregated-streams/orders', { categories: ['order'], partitioner: { kind: 'constant' } })
  const tabs = [await open('/aggregated/orders')]
  for (const route of ['/aggregated/orders', '/aggregated/orders/partitions/0', '/streams/order-1']) tabs.push(await openBeside(tabs[0], route))
  for (const tab of tabs) await live(tab)
  // The columns and the partition ask for the same.
  await connections(it.service.url, 2)
  await append(it.service.url, 'order-1', 'Changed', {})
  for (const tab of tabs) await tab.locator('.message-row, .cell', { hasText: 'Changed' }).first().waitFor()
  await send('DELETE', '/v1/aggregated-streams/orders')
  await connections(it.service.url, 1)
  await append(it.service.url, 'order-1', 'Kept', {})
  await rows(tabs[3]).filter({ hasText: 'Kept' }).waitFor()
  await close(tabs[0])
})

test('a hidden tab is sent nothing, and misses nothing', async () => {
  const tab = await open('/streams/quiet-1')
  await live(tab)
  await show(tab, false)
  await connections(it.service.url, 0)
  await append(it.service.url, 'quiet-1', 'Meanwhile', {})
  await show(tab, true)
  await rows(tab).filter({ hasText: 'Meanwhile' }).waitFor()
  await live(tab)
  await close(tab)
})
