// Who is slow, and how fast consumers are.
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { startConsole } from './console_page.mjs'
import { append, appendMany } from './service.mjs'

const it = startConsole(() => {}, ['--cache-bytes-max', '1000000'])
const { open, close, send } = it

/** A client that follows and takes nothing until `resume()`. */
function followWithoutReading(path) {
  const { hostname, port } = new URL(it.service.url)
  const socket = connect({ host: hostname, port: Number(port) })
  socket.pause()
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nAccept: text/event-stream\r\n\r\n`)
  return socket
}

const large = n => Array.from({ length: 40 }, () => ({ type: 'Large', data: { n, text: 'x'.repeat(64 << 10) } }))

test('a follower that takes nothing is shown on the health page, until it has gone', { timeout: 90_000 }, async () => {
  const page = await open('/health')
  const panel = page.getByLabel('Slow followers').first()
  await panel.getByText('None is behind').waitFor()
  await append(it.service.url, 'photo-1', 'Taken', {})
  const slow = followWithoutReading('/v1/categories/photo/events?from=beginning')
  for (let n = 0; n < 10; n++) await appendMany(it.service.url, 'photo-1', large(n))
  const row = page.getByRole('table', { name: 'Slow followers' }).locator('tbody tr')
  await row.getByText('/v1/categories/photo/events?from=beginning').waitFor()
  await row.getByText('its client takes nothing').waitFor()
  assert.match(await row.innerText(), /127\.0\.0\.1/)
  await panel.getByText(/^1 of \d+ behind$/).waitFor()
  slow.resume()
  slow.destroy()
  await panel.getByText('None is behind').waitFor()
  await close(page)
})

test('one that has been behind for long is on the list of what needs attention', async () => {
  const page = await open('/health')
  const lines = await page.evaluate(async () => {
    const { ofBehind } = await import('/console/app/slow_followers.js')
    const at = Date.parse('2026-11-22T12:02:30Z')
    const first = { path: '/v1/all/events?from=end', behind_since: '2026-11-22T12:00:00.000000Z', waits_for: 'client', lag: 12345 }
    return [[1, first], [3, { ...first, waits_for: 'database', lag: null }]].flatMap(([behind, first]) => ofBehind(behind, first, at)).map(({ what, why, link }) => [what, why, link])
  })
  assert.deepEqual(lines, [
    ['An event stream has been behind for 2 min 30 s', '/v1/all/events by 12,345 positions, because its client takes nothing', '#/health'],
    ['3 event streams have been behind for more than a minute', '/v1/all/events, because it reads what is stored', '#/health'],
  ])
  await close(page)
})

for (const mode of ['competing', 'partitioned']) {
  test(`the rate of each consumer is shown (${mode})`, { timeout: 60_000 }, async () => {
    await appendMany(it.service.url, `task-${mode}`, Array.from({ length: 900 }, (_, n) => ({ type: 'Made', data: { n } })))
    await send('PUT', `/v1/subscriptions/${mode}`, { source: { stream_name: `task-${mode}` }, mode, max_in_flight: 1000, consumer_timeout: '10m' })
    const fetchAs = (consumer, limit) => send('POST', `/v1/subscriptions/${mode}/fetch`, { consumer, limit, wait: '5s' })
    await fetchAs('idle', 1)
    const page = await open(`/subscriptions/${mode}?tab=consumers`)
    const rate = async consumer => {
      const text = await page.locator('tr', { hasText: consumer }).locator('td[data-label=Acked]').innerText()
      return Number(/^([\d.,]+)\/s$/.exec(text)?.[1].replaceAll(',', '') ?? NaN)
    }
    let seen = 0
    // It works until that is seen, or all is done.
    const busy = mode === 'competing' ? 'busy' : 'idle'
    while (!(seen > 0)) {
      const { messages } = await fetchAs(busy, 5)
      assert.ok(messages.length > 0, 'all is done, and no rate was shown')
      const acks = (mode === 'competing' ? messages : messages.slice(-1)).map(({ partition, position, epoch }) => ({ partition, position, epoch }))
      await send('POST', `/v1/subscriptions/${mode}/acks`, { consumer: busy, acks })
      await page.locator('tr', { hasText: busy }).locator('td[data-label=Acked]').waitFor()
      seen = await rate(busy)
      await new Promise(resolve => setTimeout(resolve, 100))
    }
    if (mode === 'competing') assert.equal(await rate('idle'), 0)
    await close(page)
  })
}
