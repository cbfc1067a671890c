// A page of another origin, in a browser that means no harm: whatever it tries changes nothing, and it reads nothing.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { after, before, beforeEach, test } from 'node:test'
import { append, startBrowser, startService, temporaryDirectory } from './service.mjs'

let directory, service, browser, files, foreign, page

const json = (method, body) => ({ method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

before(async () => {
  directory = await temporaryDirectory()
  service = await startService(directory.path)
  files = createServer((_, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8')
    response.end('<!doctype html><title>A foreign page</title>')
  })
  await new Promise(resolve => files.listen(0, '127.0.0.1', resolve))
  foreign = `http://127.0.0.1:${files.address().port}/`
  browser = await startBrowser(['--host-resolver-rules=MAP evil.example 127.0.0.1'])
  await append(service.url, 'account-1', 'Opened', { owner: 'Ada' })
  const subscription = { source: { category: 'account' }, ack: 'auto' }
  const made = await fetch(`${service.url}/v1/subscriptions/billing`, json('PUT', subscription))
  assert.equal(made.status, 201)
})

after(async () => {
  await browser?.close()
  await service?.stop()
  files?.close()
  await directory?.remove()
})

beforeEach(async () => {
  page = await browser.newPage()
})

/** Nothing was appended, paused, joined or delivered. */
async function assertUnchanged() {
  const read = async path => (await fetch(`${service.url}${path}`)).json()
  assert.equal((await read('/v1/streams/account-1')).version, 0)
  const { status } = await read('/v1/subscriptions/billing')
  assert.deepEqual([status.state, status.consumers, status.delivered_lag], ['running', [], 1])
}

/** How many requests the service has refused; a page of another origin is not told. */
async function refusals() {
  const text = await (await fetch(`${service.url}/metrics`)).text()
  const lines = text.split('\n').filter(line => line.startsWith('headwater_http_requests_total{') && line.includes('status="403"'))
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

/** Does something in the page, and waits until the service has refused it. */
async function isRefused(what, ...values) {
  const before = await refusals()
  await page.evaluate(what, values)
  const deadline = Date.now() + 20_000
  while ((await refusals()) === before) {
    assert.ok(Date.now() < deadline, `was not refused: ${values}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

test('a page of another origin changes nothing by requests that need no permission', async () => {
  await page.goto(foreign)
  const pause = `${service.url}/v1/subscriptions/billing/pause`
  const messages = `${service.url}/v1/streams/account-1/messages`
  for (const [url, options] of [
    [pause, { method: 'POST' }],
    [pause, { method: 'POST', mode: 'no-cors' }],
    [pause, { method: 'POST', mode: 'no-cors', referrerPolicy: 'no-referrer' }],
    [messages, { method: 'POST', body: '{"messages":[{"type":"T"}]}', mode: 'no-cors' }],
    [messages, { method: 'POST', body: new URLSearchParams({ a: 'b' }).toString(), mode: 'no-cors' }],
  ]) {
    await isRefused(([url, options]) => fetch(url, options).then(() => {}, () => {}), url, options)
  }
  await isRefused(([url]) => void navigator.sendBeacon(url), pause)
  await assertUnchanged()
})

test('neither a form nor an image nor an event stream of another origin takes part in anything', async () => {
  await page.goto(foreign)
  const events = `${service.url}/v1/subscriptions/billing/events?consumer=thief`
  await isRefused(([url]) => void new EventSource(url), events)
  await isRefused(([url]) => void (new Image().src = url), events)
  const pause = `${service.url}/v1/subscriptions/billing/pause`
  for (const encoding of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain']) {
    await page.goto(foreign)
    const submit = ([url, encoding]) => {
      const form = document.createElement('form')
      Object.assign(form, { action: url, method: 'post', enctype: encoding })
      form.innerHTML = '<input name="{&quot;messages&quot;:[" value="]}">'
      document.body.append(form)
      form.submit()
    }
    await isRefused(submit, pause, encoding)
    // The page shows the refusal: a navigation that is still under way would end the next one.
    await page.waitForURL(pause)
  }
  await assertUnchanged()
})

test('a page of another origin reads nothing, and is not allowed what it asks permission for', async () => {
  await page.goto(foreign)
  const outcomes = await page.evaluate(
    async ([url, body]) => {
      const outcome = (path, options) => fetch(`${url}${path}`, options).then(r => r.status, () => 'not handed on')
      const options = { method: 'POST', headers: { 'content-type': 'application/json' }, body }
      return [
        await outcome('/v1/all/messages'),
        await outcome('/metrics'),
        await outcome('/v1/streams/account-1/messages', options),
        await outcome('/v1/subscriptions/billing', { method: 'DELETE' }),
      ]
    },
    [service.url, '{"messages":[{"type":"T"}]}'],
  )
  assert.deepEqual(outcomes, Array(4).fill('not handed on'))
  await assertUnchanged()
})

test('a name that points at this machine all of a sudden is served nothing', async () => {
  const port = new URL(service.url).port
  const response = await page.goto(`http://evil.example:${port}/v1/all/messages`)
  assert.equal(response.status(), 403)
  assert.match(await page.textContent('body'), /--allowed-host/)
  // A page made of what the service answers may not even ask.
  const statuses = await page.evaluate(() =>
    Promise.all(
      [['GET', '/metrics'], ['GET', '/'], ['POST', '/v1/subscriptions/billing/pause']].map(([method, path]) =>
        fetch(path, { method }).then(response => response.status, () => 'not asked'),
      ),
    ),
  )
  assert.deepEqual(statuses, Array(3).fill('not asked'))
  await assertUnchanged()
})

test('the console by its other names works', async () => {
  const port = new URL(service.url).port
  for (const host of ['localhost', 'tab.localhost', '127.0.0.1']) {
    await page.goto(`http://${host}:${port}/`)
    const own = '/v1/subscriptions/billing'
    const statuses = await page.evaluate(async path => {
      const post = path => fetch(path, { method: 'POST' }).then(response => response.ok)
      return [await post(`${path}/pause`), await post(`${path}/resume`)]
    }, own)
    assert.deepEqual(statuses, [true, true], host)
  }
  await assertUnchanged()
})
