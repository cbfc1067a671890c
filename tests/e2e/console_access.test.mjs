// Signing in to the console, and what it shows to whom.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heading, rows, signIn, startConsole } from './console_page.mjs'
import { makeKey as makeKeyIn } from './service.mjs'

const it = startConsole(() => {}, ['--credentials', 'required'])
const { open, close } = it

const makeKey = (name, ...scopes) => makeKeyIn(it.directory, name, ...scopes)

async function send(key, method, path, body) {
  const response = await fetch(it.service.url + path, {
    method, body: JSON.stringify(body),
    headers: { authorization: `Bearer ${key}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
  })
  const text = await response.text()
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`)
  return text && JSON.parse(text)
}

const write = (key, stream, type, data = {}) => send(key, 'POST', `/v1/streams/${stream}/messages`, { messages: [{ type, data }] })

const sections = page => page.locator('nav[aria-label=Sections] li').allInnerTexts()

test('an administrator signs in, sees everything, follows live, makes and revokes a key', async () => {
  const admin = await makeKey('root', 'admin')
  await write(admin, 'order-1', 'Placed', { sku: 'A' })
  const page = await open('/log')
  await page.getByLabel('API key or JWT').waitFor()
  assert.equal(await page.locator('nav[aria-label=Sections]').count(), 0)
  await signIn(page, 'hw_wrong')
  await page.getByRole('alert').waitFor()
  assert.match(await page.getByRole('alert').innerText(), /credential/i)
  await signIn(page, 'hw_…')
  await page.getByRole('alert').filter({ hasText: 'ASCII' }).waitFor()
  await signIn(page, admin)
  await rows(page).filter({ hasText: 'Placed' }).waitFor()
  assert.deepEqual(await sections(page), ['Overview', 'Streams', 'Log', 'Aggregated', 'Subscriptions', 'Health', 'Access'])
  await page.locator('.live-switch.is-live').waitFor()
  await write(admin, 'order-2', 'Shipped')
  await rows(page).filter({ hasText: 'Shipped' }).waitFor()
  // The credential is in no address, and in no storage that outlives the tab.
  const kept = await page.evaluate(() => [location.href, document.cookie, JSON.stringify({ ...localStorage })].join(' '))
  assert.ok(!kept.includes(admin.split('_')[2]))
  await page.reload()
  await rows(page).filter({ hasText: 'Shipped' }).waitFor()
  const other = await page.context().newPage()
  await other.goto(`${it.service.url}/#/log`)
  await other.getByLabel('API key or JWT').waitFor()
  await other.close()

  await page.goto(`${it.service.url}/#/access`)
  await page.getByText('May do everything').waitFor()
  await page.getByRole('button', { name: 'New key…' }).click()
  await page.getByLabel('Name', { exact: true }).fill('shipping')
  await page.getByLabel('Scopes').fill('read:order-*')
  await page.getByRole('button', { name: 'Make the key' }).click()
  const made = page.locator('dialog[open] pre')
  await made.waitFor()
  const key = await made.innerText()
  await page.locator('dialog[open]').getByRole('button', { name: 'Close' }).click()
  const row = page.locator('tr', { hasText: 'shipping' })
  await row.waitFor()
  assert.ok(!(await page.locator('main').innerText()).includes(key))
  assert.equal((await send(key, 'GET', '/v1/caller')).scopes[0], 'read:order-*')
  await row.getByRole('button', { name: 'Revoke…' }).click()
  await page.locator('dialog[open]').getByRole('button', { name: 'Revoke' }).click()
  await row.getByText('revoked').waitFor()
  assert.equal((await fetch(`${it.service.url}/v1/caller`, { headers: { authorization: `Bearer ${key}` } })).status, 401)

  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByLabel('API key or JWT').waitFor()
  await page.reload()
  await page.getByLabel('API key or JWT').waitFor()
  await close(page)
})

test('a reader of some streams sees those and is offered nothing else', async () => {
  const admin = await makeKey('admin again', 'admin')
  const reader = await makeKey('reader', 'read:order*', 'subscribe:orders')
  await write(admin, 'secret-1', 'Hidden')
  await write(admin, 'order-3', 'Returned', { sku: 'B' })
  await send(admin, 'PUT', '/v1/subscriptions/orders', { source: { category: 'order' } })
  await send(admin, 'PUT', '/v1/subscriptions/secrets', { source: { category: 'secret' } })
  const page = await open('/')
  await signIn(page, reader)
  await rows(page).filter({ hasText: 'Returned' }).waitFor()
  assert.deepEqual(await sections(page), ['Streams', 'Log', 'Aggregated', 'Subscriptions', 'Access'])
  await page.locator('nav[aria-label=Sections]').getByText('Log').click()
  await rows(page).filter({ hasText: 'Returned' }).waitFor()
  assert.equal(await rows(page).filter({ hasText: 'Hidden' }).count(), 0)
  await rows(page).filter({ hasText: 'Returned' }).click()
  await page.locator('.detail').waitFor()
  assert.equal(await page.getByRole('button', { name: 'Erase…' }).count(), 0)
  await page.goto(`${it.service.url}/#/streams/order-3`)
  await heading(page, 'order-3')
  await rows(page).first().waitFor()
  assert.equal(await page.getByRole('button', { name: 'Trim…' }).count(), 0)
  await page.goto(`${it.service.url}/#/categories/order`)
  await rows(page).filter({ hasText: 'Returned' }).waitFor()
  assert.deepEqual(await page.locator('nav[aria-label="Parts of the category"] a').allInnerTexts(), ['Messages'])
  await page.goto(`${it.service.url}/#/streams`)
  await page.getByLabel('Name of a stream or a category').fill('order-3')
  await page.keyboard.press('Enter')
  await heading(page, 'order-3')
  await page.goto(`${it.service.url}/#/subscriptions`)
  await page.getByText('orders').first().waitFor()
  assert.ok(!(await page.locator('main').innerText()).includes('secrets'))
  await page.goto(`${it.service.url}/#/access`)
  await page.getByText('order*').waitFor()
  assert.equal(await page.getByText('API keys').count(), 0)
  for (const [route, said] of [
    ['/streams/order-none', 'No message yet'], ['/aggregated/other', 'Aggregated stream other not found'], ['/health', 'This credential does not show this'],
  ]) {
    await page.goto(`${it.service.url}/#${route}`)
    await page.getByText(said).waitFor()
    assert.equal(await page.locator('.empty pre').count(), 0, `${route} offers what is refused`)
  }
  await close(page)
})

test('on a phone a reader sees what its credential may do', async () => {
  const page = await open('/access', { viewport: { width: 390, height: 844 } })
  await signIn(page, await makeKey('phone', 'read:order*'))
  const scope = page.locator('dd', { hasText: 'order*' })
  await scope.waitFor()
  assert.ok((await scope.boundingBox()).width > 60)
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0)
  await close(page)
})

test('a key that is revoked ends the session of the tab and says so', async () => {
  const admin = await makeKey('third', 'admin')
  const reader = await makeKey('soon gone', 'read:*')
  const page = await open('/log')
  await signIn(page, reader)
  await page.locator('.live-switch.is-live').waitFor()
  await send(admin, 'DELETE', `/v1/keys/${reader.split('_')[1]}`)
  await page.getByLabel('API key or JWT').waitFor()
  assert.match(await page.getByRole('alert').innerText(), /expired, or was revoked/)
  await close(page)
})
