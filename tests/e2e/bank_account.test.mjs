// The bank account of examples/, run as a user would.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { makeKey, startService, temporaryDirectory } from './service.mjs'

const PROGRAM = new URL('../../examples/bank_account.py', import.meta.url).pathname

let directory, service, key

before(async () => {
  directory = await temporaryDirectory()
  service = await startService(directory.path, undefined, ['--credentials', 'required'])
  key = await makeKey(directory.path, 'bank', 'read:account-*', 'append:account-*')
})

after(async () => {
  await service?.stop()
  await directory?.remove()
})

/** What the program says, or what it says as it fails. */
async function bank(...words) {
  const env = { ...process.env, HEADWATER_URL: service.url, HEADWATER_KEY: key }
  try {
    return (await promisify(execFile)(PROGRAM, words.map(String), { env })).stdout.trim()
  } catch (error) {
    return error.stderr.trim()
  }
}

test('an account is opened, filled and emptied, and its rules hold', async () => {
  assert.equal(await bank('deposit', 'a 1', 5), 'refused: there is no such account')
  assert.equal(await bank('open', 'a 1', 'Ann'), 'Ann: 0')
  assert.equal(await bank('open', 'a 1', 'Bob'), "refused: the account is Ann's already")
  assert.equal(await bank('deposit', 'a 1', 100), 'Ann: 100')
  assert.equal(await bank('withdraw', 'a 1', 30), 'Ann: 70')
  assert.equal(await bank('withdraw', 'a 1', 71), 'refused: the balance is 70')
  assert.equal(await bank('show', 'a 1'), 'Ann: 70')
})

test('of many who withdraw at once, only as many succeed as there is money', async () => {
  await bank('open', 'b', 'Bob')
  await bank('deposit', 'b', 30)
  const said = await Promise.all(Array.from({ length: 6 }, () => bank('withdraw', 'b', 10)))
  assert.equal(said.filter(line => line === 'refused: the balance is 0').length, 3, said.join('\n'))
  assert.equal(await bank('show', 'b'), 'Bob: 0')
})
