// Many tabs: over HTTP/2 they share one connection, where HTTP/1.1 allows six streams a site.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { startBrowser, startService, temporaryDirectory } from './service.mjs'

const TABS = 20

let directory, service, browser

before(async () => {
  directory = await temporaryDirectory()
  const key = join(directory.path, 'key.pem')
  const certificate = join(directory.path, 'certificate.pem')
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost', '-keyout', key, '-out', certificate,
  ], { stdio: 'ignore' })
  service = await startService(directory.path, '127.0.0.1:0', ['--tls-certificate', certificate, '--tls-key', key])
  browser = await startBrowser()
})

after(async () => {
  await browser?.close()
  await service?.stop()
  await directory?.remove()
})

test('twenty tabs follow at once over one connection', async () => {
  assert.match(service.url, /^https:/)
  const context = await browser.newContext({ ignoreHTTPSErrors: true })
  const pages = await Promise.all(Array.from({ length: TABS }, async () => {
    const page = await context.newPage()
    await page.goto(`${service.url}/problems/forbidden`)
    await page.evaluate(() => {
      window.seen = []
      window.source = new EventSource('/v1/categories/tab/events')
      window.source.addEventListener('message', event => window.seen.push(JSON.parse(event.data).data.n))
      return new Promise(resolve => window.source.addEventListener('caught-up', resolve, { once: true }))
    })
    return page
  }))
  // Ordinary requests go through beside the twenty streams.
  const protocol = await pages[0].evaluate(async () => {
    for (let n = 0; n < 10; n++) {
      const response = await fetch(`/v1/streams/tab-${n % 3}/messages`, {
        method: 'POST', headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ messages: [{ type: 'Counted', data: { n } }] }),
      })
      if (response.status !== 201) throw new Error(`${response.status}`)
    }
    return performance.getEntriesByType('resource').at(-1).nextHopProtocol
  })
  assert.equal(protocol, 'h2')
  for (const page of pages) {
    await page.waitForFunction(() => window.seen.length >= 10)
    assert.deepEqual(await page.evaluate(() => window.seen), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  }
  await context.close()
})

test('twenty consoles are live at once', async () => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true })
  const pages = await Promise.all(Array.from({ length: TABS }, () => context.newPage()))
  await Promise.all(pages.map(page => page.goto(`${service.url}/#/streams/console-1`, { timeout: 120_000 })))
  await pages[0].evaluate(() => fetch('/v1/streams/console-1/messages', {
    method: 'POST', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ type: 'Shown', data: {} }] }),
  }))
  for (const page of pages) {
    await page.bringToFront()
    await page.locator('.message-row', { hasText: 'Shown' }).waitFor()
    await page.locator('.live-switch.is-live').waitFor()
  }
  await context.close()
})
