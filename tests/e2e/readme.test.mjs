// The README's curl lines do what the README says they do.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { after, before, test } from 'node:test'
import { startService, temporaryDirectory } from './service.mjs'

let directory, service

before(async () => {
  directory = await temporaryDirectory()
  service = await startService(directory.path)
})

after(async () => {
  await service?.stop()
  await directory?.remove()
})

/** The lines of the README that call curl, as they stand there. */
async function curlLines() {
  const text = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
  return text.split('\n').filter(line => line.startsWith('curl '))
}

/** Runs a line as a user would, on this service's address; ends it after two seconds. */
function run(line) {
  const own = line.replaceAll('http://127.0.0.1:8080', service.url)
  try {
    return execFileSync('timeout', ['2', 'bash', '-c', own], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch (error) {
    if (error.status === 124) return error.stdout // a stream that is followed does not end by itself
    throw error
  }
}

test('append, conflict, follow, aggregate, subscribe', async () => {
  const [append, conflict, follow, aggregate, subscribe, ...more] = await curlLines()
  assert.deepEqual(more, [])
  assert.equal(JSON.parse(run(append)).version, 0)
  const problem = JSON.parse(run(conflict))
  assert.equal(problem.status, 409)
  assert.equal(problem.current_version, 0)
  const frames = run(follow)
  assert.match(frames, /event: message\ndata: .*"type":"Opened"/)
  assert.match(frames, /event: caught-up\n/)
  assert.equal(JSON.parse(run(aggregate)).name, 'accounts')
  const delivered = run(subscribe)
  assert.match(delivered, /"name":"billing"/)
  assert.match(delivered, /event: assigned\n/)
  assert.match(delivered, /event: message\ndata: .*"type":"Opened"/)
})

test("the append session of docs/CLIENTS.md", async () => {
  const text = await readFile(new URL('../../docs/CLIENTS.md', import.meta.url), 'utf8')
  const lines = text.split('\n').filter(line => line.startsWith('seq '))
  assert.equal(lines.length, 1)
  const send = () => run(lines[0]).trim().split('\n').map(line => JSON.parse(line))
  for (const duplicate of [false, true]) {
    const commits = send()
    assert.equal(commits.reduce((sum, commit) => sum + commit.count, 0), 1000)
    assert.equal(commits.at(-1).version, 999)
    assert.ok(commits.every(commit => commit.duplicate === duplicate))
  }
})
