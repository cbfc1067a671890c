// The console and the pages of the API under their Content-Security-Policy: they work, and the browser reports no violation.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { append, startBrowser, startService, temporaryDirectory } from './service.mjs'

let directory, service, browser

before(async () => {
  directory = await temporaryDirectory()
  service = await startService(directory.path)
  browser = await startBrowser()
  await append(service.url, 'account-1', 'Opened', { owner: 'Ada', key: 'X1' })
  const put = async (path, body) => {
    const options = { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
    assert.equal((await fetch(`${service.url}${path}`, options)).status, 201)
  }
  await put('/v1/aggregated-streams/all', { categories: ['account'], partitioner: { kind: 'cardinal_id', partitions: 4 }, max_partition: 3 })
  await put('/v1/subscriptions/billing', { source: { category: 'account' } })
})

after(async () => {
  await browser?.close()
  await service?.stop()
  await directory?.remove()
})

/** A page that remembers what the browser refused, and what failed. */
async function watchedPage() {
  const page = await browser.newPage()
  const wrong = []
  page.on('console', message => message.type() === 'error' && wrong.push(message.text()))
  page.on('pageerror', error => wrong.push(String(error)))
  page.on('requestfailed', request => wrong.push(`${request.url()}: ${request.failure()?.errorText}`))
  await page.addInitScript(() => {
    window.violations = []
    document.addEventListener('securitypolicyviolation', event =>
      window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`),
    )
  })
  return { page, wrong }
}

async function assertNothingWrong({ page, wrong }, place) {
  assert.deepEqual(await page.evaluate(() => window.violations), [], place)
  // A page that is left breaks its event streams off.
  assert.deepEqual(wrong.filter(text => !text.includes('ERR_ABORTED')), [], place)
}

test('every view of the console works under its policy', async () => {
  const watched = await watchedPage()
  const { page } = watched
  for (const [path, shown] of [
    ['/', '.chart canvas'],
    ['/streams', 'td.name a'],
    ['/streams/account-1', '.message-row'],
    ['/log', '.message-row'],
    ['/aggregated', 'a'],
    ['/aggregated/all', '.partition-columns'],
    ['/subscriptions', 'a'],
    ['/subscriptions/billing', 'h1'],
    ['/health', 'h1'],
  ]) {
    await page.goto(`${service.url}/#${path}`)
    await page.reload()
    await page.locator(shown).first().waitFor()
    await assertNothingWrong(watched, path)
  }
  // What is styled by script is styled: a bar has the width that it was given.
  await page.goto(`${service.url}/#/streams`)
  await page.reload()
  await page.locator('.bars .bar').first().waitFor()
  assert.match(await page.locator('.bars .bar').first().getAttribute('style'), /width/)
  await page.close()
})

test('the pages of the API work under their policy, and a request can be made from them', async () => {
  const watched = await watchedPage()
  const { page } = watched
  const response = await page.goto(`${service.url}/docs/`)
  assert.match(response.headers()['content-security-policy'], /script-src 'self'/)
  const operation = page.locator('.opblock', { hasText: '/v1/reports/categories' }).first()
  await operation.locator('.opblock-summary').click()
  await operation.getByRole('button', { name: 'Try it out' }).click()
  await operation.getByRole('button', { name: 'Execute' }).click()
  await operation.locator('.live-responses-table').waitFor()
  assert.match(await operation.locator('.live-responses-table').innerText(), /settled_position/)
  await assertNothingWrong(watched, '/docs/')
  await page.close()
})

test('the page of a problem has its style', async () => {
  const watched = await watchedPage()
  const { page } = watched
  await page.goto(`${service.url}/problems/forbidden`)
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).maxWidth), '640px')
  await assertNothingWrong(watched, '/problems/forbidden')
  await page.close()
})

test('a script that gets into a page is not run, and no page shows the console in a frame', async () => {
  const page = await browser.newPage()
  await page.goto(`${service.url}/`)
  const ran = await page.evaluate(async () => {
    const script = document.createElement('script')
    script.textContent = 'window.ran = true'
    document.body.append(script)
    const image = document.createElement('div')
    image.innerHTML = '<img src="x:" onerror="window.ran = true">'
    document.body.append(image)
    await new Promise(resolve => setTimeout(resolve, 200))
    return window.ran ?? false
  })
  assert.equal(ran, false)
  const framed = await page.evaluate(async url => {
    const frame = document.createElement('iframe')
    frame.src = url
    document.body.append(frame)
    await new Promise(resolve => setTimeout(resolve, 500))
    try {
      return frame.contentDocument?.querySelector('#app') !== null && frame.contentDocument !== null
    } catch {
      return false
    }
  }, service.url)
  assert.equal(framed, false)
  await page.close()
})
