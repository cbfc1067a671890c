// "Try it out" succeeds: every example of the OpenAPI document is sent to a fresh service, from top to bottom.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startBrowser, startService, temporaryDirectory } from './service.mjs'

/** What an answer says if the request has done its work. */
const DONE = {
  ackMessages: { acked: 1 },
  extendMessages: { extended: 1 },
  nackMessages: { nacked: 1 },
  replayParked: { replayed: 1 },
  appendMessages: { duplicate: false },
  appendToStreams: { duplicate: false },
}

test('every body of the document has an example that works as it is, and so do its parameters', async context => {
  const directory = await temporaryDirectory()
  const service = await startService(directory.path)
  context.after(async () => {
    await service.stop()
    await directory.remove()
  })
  const document = await (await fetch(`${service.url}/openapi.json`)).json()

  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, ...operation })))
  const pathOf = ({ path, parameters }) => path.replace(/\{(\w+)\}/g, (_, name) => {
    const { example } = parameters.find(parameter => parameter.name === name && parameter.in === 'path')
    return encodeURIComponent(example)
  })
  const send = async (method, path, body) => {
    const response = await fetch(service.url + path, {
      method: method.toUpperCase(), headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body),
    })
    const answer = response.status === 204 ? {} : await response.json()
    assert.ok(response.ok, `${method} ${path}: ${JSON.stringify(answer)}`)
    return { status: response.status, answer }
  }
  const example = id => operations.find(operation => operation.operationId === id).requestBody.content['application/json'].example

  /** A subscription of which `w1` has what there is: the first message of order-1 is in partition 1. */
  const delivered = async () => {
    await fetch(`${service.url}/v1/subscriptions/billing`, { method: 'DELETE' })
    await send('put', '/v1/subscriptions/billing', example('createSubscription'))
    await send('patch', '/v1/subscriptions/billing', { consumer_timeout: '10m' })
    const { answer } = await send('post', '/v1/subscriptions/billing/fetch', { consumer: 'w1', wait: '30s' })
    assert.ok(answer.messages.some(({ partition, position }) => partition === 1 && position === 0), JSON.stringify(answer))
  }
  /** What an operation needs that those before it have not made. */
  const first = {
    ackMessages: delivered,
    extendMessages: delivered,
    nackMessages: delivered,
    claimMessages: async () => {
      await send('put', '/v1/subscriptions/emails', { source: { category: 'order' }, mode: 'competing' })
      await send('post', '/v1/subscriptions/emails/fetch', { consumer: 'w1', wait: '30s' })
    },
    // Everything that was appended has to be in the aggregated stream.
    createSubscription: async () => {
      const { answer } = await send('get', '/v1/reports/settled')
      await send('get', `/v1/aggregated-streams/orders?min_position=${answer.head}&wait=30s`)
    },
  }

  let sent = 0
  for (const operation of operations.filter(operation => operation.requestBody)) {
    const { operationId, method, requestBody } = operation
    for (const [mediaType, { example }] of Object.entries(requestBody.content)) {
      assert.equal(mediaType, 'application/json', operationId)
      assert.ok(example, `${operationId} has no example: src/http/openapi/examples.rs`)
      await first[operationId]?.()
      const { answer } = await send(method, pathOf(operation), example)
      for (const [field, value] of Object.entries(DONE[operationId] ?? {})) assert.equal(answer[field], value, `${operationId}: ${JSON.stringify(answer)}`)
      if (operationId === 'claimMessages') assert.ok(answer.messages.length > 0)
      sent++
    }
  }
  assert.ok(sent >= 16, `${sent}`)

  // Sent again they do no harm: what has an id is recognised, a definition is the same.
  for (const id of ['appendMessages', 'appendToStreams']) {
    const operation = operations.find(operation => operation.operationId === id)
    const { status, answer } = await send(operation.method, pathOf(operation), example(id))
    assert.deepEqual([status, answer.duplicate], [200, true])
  }

  // The page fills in every parameter that has an example or a default.
  await send('put', '/v1/aggregated-streams/orders-by-item', { categories: ['order'], types: ['OrderPlaced'], partitioner: { kind: 'key', of: 'data', pointer: '/item' } })
  const filled = operation => {
    const query = new URLSearchParams()
    for (const { name, in: place, example, schema } of operation.parameters ?? []) {
      const value = example ?? schema.example ?? schema.default
      if (place === 'query' && value !== undefined) for (const one of [value].flat()) query.append(name, one)
    }
    return `${pathOf(operation)}?${query}`
  }
  const withoutBody = operations.filter(operation => !operation.requestBody)
  for (const operation of withoutBody.filter(({ method }) => method === 'get')) {
    const stop = new AbortController()
    const response = await fetch(service.url + filled(operation), { signal: stop.signal })
    if (!response.ok) assert.fail(`${operation.operationId}: ${JSON.stringify(await response.json())}`)
    // An event stream does not end.
    stop.abort()
  }
  for (const operation of withoutBody.filter(({ method }) => method === 'post')) await send('post', filled(operation))
  // The parked message has to be there, and what belongs to a subscription goes before it does; a key has an id of its own.
  await delivered()
  await send('post', '/v1/subscriptions/billing/nacks', example('nackMessages'))
  const deletions = withoutBody.filter(({ method, operationId }) => method === 'delete' && operationId !== 'revokeApiKey')
  for (const operation of deletions.reverse()) await send('delete', filled(operation))
})

test('"Try it out" and "Execute" in the page at /docs succeed, with nothing typed', async context => {
  const directory = await temporaryDirectory()
  const service = await startService(directory.path)
  const browser = await startBrowser()
  context.after(async () => {
    await browser.close()
    await service.stop()
    await directory.remove()
  })
  const page = await browser.newPage()
  await page.goto(`${service.url}/docs/`)
  const statusOf = async id => {
    const operation = page.locator(`#operations-${id}`)
    await operation.locator('.opblock-summary').click()
    await operation.locator('button.try-out__btn').click()
    await operation.locator('button.execute').click()
    return (await operation.locator('.live-responses-table .response-col_status').last().innerText()).trim()
  }
  for (const [id, status] of [
    ['aggregate-defineAggregatedStream', '201'], ['append-appendMessages', '201'], ['subscribe-createSubscription', '201'],
    ['subscribe-fetchMessages', '200'],
  ]) assert.equal(await statusOf(id), status, id)
})
