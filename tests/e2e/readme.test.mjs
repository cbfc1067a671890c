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

/** The commands of a document that call curl, as they are there. */
async function curlLines(document) {
  const text = await readFile(new URL(`../../${document}`, import.meta.url), 'utf8')
  const blocks = [...text.matchAll(/^```sh\n([^]*?)^```/gm)].map(([, block]) => block.replace(/^#.*\n/gm, ''))
  return blocks.flatMap(block => block.split(/^(?=\w)/m)).filter(command => command.startsWith('curl '))
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
  const [append, conflict, follow, aggregate, subscribe, ...more] = await curlLines('README.md')
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

test('the curl lines of docs/CLIENTS.md', async () => {
  const [append, users, register, index, keys, ofKey, latest, trim, retention, erase, ...more] = await curlLines('docs/CLIENTS.md')
  assert.deepEqual(more, [])
  const { appends } = JSON.parse(run(append))
  assert.deepEqual(appends.map(one => [one.stream_name, one.version]), [['order-1', 0], ['customer-7', 0]])
  assert.equal(JSON.parse(run(users)).definition.partitioner.kind, 'key')
  assert.equal(JSON.parse(run(register)).appends[0].version, 0)
  assert.equal(JSON.parse(run(register)).type, '/problems/condition-failed')
  assert.equal(JSON.parse(run(index)).definition.partitioner.kind, 'key')
  const { global_position } = appends[0].messages[0]
  await (await fetch(`${service.url}/v1/aggregated-streams/orders-by-sku?min_position=${global_position}&wait=20s`)).text()
  assert.deepEqual(JSON.parse(run(keys)).keys.map(one => [one.key, one.message_count]), [['X1', 1]])
  assert.equal(JSON.parse(run(ofKey)).messages[0].message.stream_name, 'order-1')
  assert.match(run(latest), /event: message\ndata: .*"type":"OrderPlaced"[^]*event: caught-up\n/)
  assert.deepEqual(JSON.parse(run(trim)), { trimmed: 0, first_position: 0, kept_unacked: false, is_complete: true })
  assert.equal(JSON.parse(run(retention)).max_count, 1_000_000)
  assert.equal(JSON.parse(run(erase)).erased.reason, 'request 4711')
})
