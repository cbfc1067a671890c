// The five lines of examples/curl.sh, each as it stands there.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { makeKey, startService, temporaryDirectory } from './service.mjs'

for (const isGuarded of [false, true]) test(`append, conflict, aggregate, subscribe, follow${isGuarded ? ' with a key' : ''}`, async context => {
  const directory = await temporaryDirectory()
  const service = await startService(directory.path, undefined, isGuarded ? ['--credentials', 'required'] : [])
  context.after(async () => {
    await service.stop()
    await directory.remove()
  })
  const key = isGuarded ? await makeKey(directory.path, 'curl', 'read:order*', 'append:order-*', 'subscribe:*') : ''
  const script = await readFile(new URL('../../examples/curl.sh', import.meta.url), 'utf8')
  const [head, ...lines] = script.split(/^(?=curl )/m)
  assert.equal(lines.length, 5)
  const run = (line, seconds = 20) => {
    const text = `${head}\n${line}`
    const env = { ...process.env, HEADWATER_URL: service.url, HEADWATER_KEY: key }
    try {
      return execFileSync('timeout', [String(seconds), 'bash', '-c', text], { encoding: 'utf8', env, stdio: ['ignore', 'pipe', 'ignore'] })
    } catch (error) {
      if (error.status === 124) return error.stdout // a stream that is followed does not end by itself
      throw error
    }
  }
  const [append, conflict, aggregate, subscribe] = lines.slice(0, 4).map(line => run(line))
  assert.equal(JSON.parse(append).version, 0)
  assert.deepEqual([JSON.parse(conflict).status, JSON.parse(conflict).current_version], [409, 0])
  assert.equal(JSON.parse(aggregate).definition.partitioner.partitions, 4)
  // Two answers, one behind the other: the subscription, and what it delivers.
  assert.match(subscribe, /"name":\s*"billing"/)
  assert.match(subscribe, /"messages":\s*\[\{.*"type":\s*"OrderPlaced"/)
  const follow = run(lines[4], 5)
  assert.match(follow, /event: message\ndata: .*"type":"OrderPlaced"/)
  assert.match(follow, /event: caught-up\n/)
})
