// The documents for users are true: every line of them is run, in order, and prints what they say. Links lead somewhere.
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'
import { runDocument } from './document.mjs'

const ROOT = new URL('../../', import.meta.url).pathname
/** Those of which every line can be run. */
const RUN = [
  'README.md', 'docs/TUTORIAL.md', 'docs/CONCEPTS.md', 'docs/SUBSCRIPTIONS.md', 'docs/EVENT_STREAMS.md', 'docs/CEL.md', 'docs/BROWSERS.md',
  'docs/MESSAGE_DB.md', 'docs/CLIENTS.md',
]

for (const name of RUN) test(name, { timeout: 300_000 }, context => runDocument(name, context))

/** The anchors of a document's headings, as forges make them. */
const anchorsOf = text => [...text.replace(/^```[^]*?^```$/gm, '').matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
  heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').replaceAll(' ', '-'))

test('every link between documents leads to a file, and to a heading in it', async () => {
  const names = ['README.md', 'CHANGELOG.md', 'examples/README.md', 'docs/decisions/README.md',
    ...(await readdir(join(ROOT, 'docs'))).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)]
  const texts = new Map()
  for (const name of names) texts.set(name, await readFile(join(ROOT, name), 'utf8'))
  const dead = []
  for (const [name, text] of texts) {
    for (const [, link] of text.replace(/^```[^]*?^```$/gm, '').matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^\w+:/.test(link)) continue
      const [path, anchor] = link.split('#')
      const target = path ? normalize(join(dirname(name), path)) : name
      const isThere = existsSync(join(ROOT, target)) && (!anchor || !texts.has(target) || anchorsOf(texts.get(target)).includes(anchor))
      if (!isThere) dead.push(`${name}: ${link}`)
    }
  }
  assert.deepEqual(dead, [])
})

test('every document is found from docs/README.md', async () => {
  const index = await readFile(join(ROOT, 'docs/README.md'), 'utf8')
  const names = (await readdir(join(ROOT, 'docs'))).filter(name => name.endsWith('.md') && name !== 'README.md')
  assert.deepEqual(names.filter(name => !index.includes(`](${name})`)), [])
})
