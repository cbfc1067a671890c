// The service and a browser, for tests: both are processes of their own, ended by their id.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { chmod } from 'node:fs/promises'
import { chromium } from 'playwright-core'

export const BINARY = process.env.HEADWATER_TEST_BINARY ?? new URL('../../target/debug/headwater', import.meta.url).pathname
const CHROMIUM = process.env.HEADWATER_TEST_CHROMIUM ?? '/usr/bin/chromium'

/** A directory that the embedded PostgreSQL's user can reach. */
export async function temporaryDirectory() {
  const directory = await mkdtemp(join(tmpdir(), 'headwater-e2e-'))
  await chmod(directory, 0o755)
  return { path: directory, remove: () => rm(directory, { recursive: true, force: true }) }
}

/** What a log must not have: see `tests/support/log_scan.rs`, which says the same. */
const SECRETS = /HwTestSecret|(?:[Bb]earer |ticket=)[\w.-]{8}|hwt?_[\w.-]{16}|eyJ[\w.-]{16}|BEGIN PRIVATE KEY/

/** Passes the log on, and fails the run if it has a secret. */
function searchLog(log) {
  createInterface({ input: log }).on('line', line => {
    process.stderr.write(`${line}\n`)
    if (SECRETS.test(line)) {
      process.stderr.write('a secret is in the log\n')
      process.exitCode = 1
    }
  })
}

/** Starts the service on its embedded PostgreSQL; resolves once it says that it listens. */
export async function startService(directory, listen = '127.0.0.1:0', more = []) {
  const child = spawn(BINARY, ['serve', '--listen', listen, '--data-dir', join(directory, 'data'), ...more], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, HEADWATER_LOG: 'warn', DATABASE_URL: '' },
  })
  searchLog(child.stderr)
  const ended = new Promise(resolve => child.once('exit', resolve))
  const url = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', line => resolve(line.replace('headwater listening on ', '')))
    child.once('exit', code => reject(new Error(`the service ended with ${code}`)))
  })
  const stop = async signal => {
    child.kill(signal)
    await ended
  }
  return { url, stop: () => stop('SIGTERM'), kill: () => stop('SIGKILL') }
}

/** Makes an API key on a service's own database, as a user makes the first one. */
export async function makeKey(directory, name, ...scopes) {
  const words = ['keys', 'create', '--name', name, ...scopes.flatMap(scope => ['--scope', scope]), '--data-dir', join(directory, 'data')]
  const { stdout } = await promisify(execFile)(BINARY, words, { env: { ...process.env, DATABASE_URL: '' } })
  return stdout.trim()
}

/** A headless browser that talks to nobody but the service. */
export function startBrowser(more = []) {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', ...more,
    ],
  })
}

/** Appends one message and returns the answer; with a key, where one is required. */
export const append = (url, stream, type, data, key) => appendMany(url, stream, [{ type, data }], key)

/** Appends several messages at once. */
export async function appendMany(url, stream, messages, key) {
  const response = await fetch(`${url}/v1/streams/${encodeURIComponent(stream)}/messages`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ messages }),
  })
  if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`)
  return response.json()
}

/** Waits until a service has so many event streams open. */
export async function connections(url, count, key) {
  const end = Date.now() + 20_000
  for (;;) {
    const answer = await fetch(`${url}/metrics`, { headers: key ? { authorization: `Bearer ${key}` } : {} })
    const found = Number(/^headwater_followers (\d+)/m.exec(await answer.text())?.[1])
    if (found === count) return
    assert.ok(Date.now() < end, `${found} connections, not ${count}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}
