// The orders of examples/, placed and moved as a user would.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { makeKey, startService, temporaryDirectory } from './service.mjs'

const PROGRAM = new URL('../../examples/orders.py', import.meta.url).pathname
// Where tests/clients/run has installed the client.
const PYTHON = new URL('../../target/clients/headwater-python/venv/bin', import.meta.url).pathname

let directory, service, key

before(async () => {
  assert.ok(existsSync(PYTHON), 'the client is not installed: tests/clients/run python_package')
  directory = await temporaryDirectory()
  service = await startService(directory.path, undefined, ['--credentials', 'required'])
  key = await makeKey(directory.path, 'orders', 'read:order-*', 'append:order-*')
})

after(async () => {
  await service?.stop()
  await directory?.remove()
})

/** What the program says, or what it says as it fails. */
async function orders(...words) {
  const env = { ...process.env, PATH: `${PYTHON}:${process.env.PATH}`, HEADWATER_URL: service.url, HEADWATER_KEY: key }
  try {
    return (await promisify(execFile)(PROGRAM, words.map(String), { env })).stdout.trim()
  } catch (error) {
    return error.stderr.trim()
  }
}

test('an order is placed, packed and shipped, and its rules hold', async () => {
  assert.equal(await orders('pack', 'a 1'), 'refused: the order is not there')
  assert.equal(await orders('show', 'a 1'), 'refused: the order is not there')
  assert.equal(await orders('place', 'a 1', 'Tea', 0), 'refused: the quantity must be 1 or more')
  assert.equal(await orders('place', 'a 1', 'Tea', 2), '2 × Tea, placed')
  assert.equal(await orders('place', 'a 1', 'Coffee', 1), 'refused: the order is placed')
  assert.equal(await orders('ship', 'a 1'), 'refused: the order is placed')
  assert.equal(await orders('pack', 'a 1'), '2 × Tea, packed')
  assert.equal(await orders('cancel', 'a 1'), 'refused: the order is packed')
  assert.equal(await orders('ship', 'a 1'), '2 × Tea, shipped')
  assert.equal(await orders('show', 'a 1'), '2 × Tea, shipped')
})

test('of many who pack and cancel at once, one succeeds, and the others decide again', async () => {
  await orders('place', 'b', 'Coffee', 1)
  const said = await Promise.all(Array.from({ length: 6 }, (_, n) => orders(n % 2 ? 'cancel' : 'pack', 'b')))
  const state = (await orders('show', 'b')).replace('1 × Coffee, ', '')
  assert.match(state, /^(packed|cancelled)$/)
  assert.equal(said.filter(line => line === `1 × Coffee, ${state}`).length, 1, said.join('\n'))
  assert.equal(said.filter(line => line === `refused: the order is ${state}`).length, 5, said.join('\n'))
})
