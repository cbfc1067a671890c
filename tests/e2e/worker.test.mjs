// The worker of examples/, as several processes of which one is killed.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { after, before, test } from 'node:test'
import { append as appendWith, makeKey, startService, temporaryDirectory } from './service.mjs'

// The example, beside the client that tests/clients/run has installed.
const FOLDER = new URL('../../target/clients/headwater-typescript/used/', import.meta.url)
const PROGRAM = new URL('worker.ts', FOLDER).pathname
// Node.js runs TypeScript as it is from 22.18 on; tests/clients/run brings such a one along.
const PINNED = new URL('../../target/clients/typescript/node_modules/.bin/node', import.meta.url).pathname
const NODE = existsSync(PINNED) ? PINNED : process.execPath

let directory, service, workers, admin, key

before(async () => {
  assert.ok(existsSync(FOLDER), 'the client is not installed: tests/clients/run typescript_package')
  await copyFile(new URL('../../examples/worker.ts', import.meta.url), PROGRAM)
  directory = await temporaryDirectory()
  service = await startService(directory.path, undefined, ['--credentials', 'required'])
  admin = await makeKey(directory.path, 'test', 'admin')
  key = await makeKey(directory.path, 'worker', 'read:order*', 'append:invoice-*', 'subscribe:invoices')
  workers = []
})

after(async () => {
  for (const worker of workers) worker.end('SIGKILL')
  await service?.stop()
  await directory?.remove()
})

/** Starts a worker; resolves once it is ready. */
async function startWorker(name) {
  const child = spawn(NODE, [PROGRAM, name], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, HEADWATER_URL: service.url, HEADWATER_KEY: key },
  })
  const ended = new Promise(resolve => child.once('exit', resolve))
  const lines = []
  const said = createInterface({ input: child.stdout })
  said.on('line', line => lines.push(line))
  /** Waits until it has said something like this. */
  const says = async text => {
    while (!lines.some(line => line.includes(text))) {
      const line = new Promise(resolve => said.once('line', resolve))
      await Promise.race([line, ended.then(code => { throw new Error(`${name} ended with ${code}: ${lines.join('\n')}`) })])
    }
  }
  const end = async signal => {
    child.kill(signal)
    return ended
  }
  const worker = { lines, says, end }
  workers.push(worker)
  await says('ready')
  return worker
}

const append = (stream, type, data) => appendWith(service.url, stream, type, data, admin)
const get = async path => (await fetch(service.url + path, { headers: { authorization: `Bearer ${admin}` } })).json()

async function ship(order, item) {
  await append(order, 'OrderPlaced', { item, quantity: 2 })
  await append(order, 'OrderShipped', {})
}

/** The invoices, once there are as many. */
async function invoices(count) {
  const found = []
  let from = 1
  while (found.length < count) {
    const page = await get(`/v1/categories/invoice/messages?wait=30s&limit=1000&from=${from}`)
    found.push(...page.messages)
    from = page.next
  }
  return found
}

test('each order gets one invoice, poison is put aside, and what a worker leaves behind the others take over', { timeout: 120_000 }, async () => {
  const orders = Array.from({ length: 8 }, (_, n) => `order-${n}`)
  for (const order of orders) await ship(order, `Tea ${order}`)
  const [one, two] = [await startWorker('one'), await startWorker('two')]
  const first = await invoices(8)
  assert.deepEqual(first.map(message => message.stream_name).sort(), orders.map(order => order.replace('order', 'invoice')))

  // Shipped without having been placed: no attempt will ever make an invoice of it.
  await append('order-poison', 'OrderShipped', {})
  await Promise.any([one.says('park: order-poison'), two.says('park: order-poison')])
  // The worker says so before it is done.
  let aside
  do aside = await get('/v1/subscriptions/invoices/parked')
  while (!aside.parked.length)
  assert.deepEqual(aside.parked.map(one => one.message.stream_name), ['order-poison'])

  await one.end('SIGKILL')
  const more = Array.from({ length: 8 }, (_, n) => `order-more-${n}`)
  for (const order of more) await ship(order, 'Coffee')
  const all = await invoices(16)
  assert.ok(all.every(message => message.position === 0), 'an order has two invoices')
  assert.equal(await two.end('SIGTERM'), 0)
  const { consumers } = await get('/v1/subscriptions/invoices/consumers')
  assert.ok(!JSON.stringify(consumers).includes('two'), 'who stops in good order leaves')
})
