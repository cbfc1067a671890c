// Runs a document as its reader would: what it says is typed in is typed in, and what it shows has to come.
//
//   ```sh                     run to its end; a `json` or `text` block right behind it is what it prints
//   ```sh terminal 2          goes on in a terminal of its own, until the document uses that terminal again or ends
//   ```text terminal 2        what that terminal says next
//   ```python projection.py   a file that the reader writes
//   ```text page http://…     what a page shows, once it does
//   ```sh not run             for the reader alone: installing, building
//
// In what is shown, `…` in a line is a part that differs each time, and a line of `…` is any number of lines.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { BINARY, startBrowser, temporaryDirectory } from './service.mjs'

/** The longest wait for what is shown, in milliseconds. */
const SHOWN_WITHIN_MS = 60_000

/** The fenced blocks of a document, in their order. */
export function blocksOf(text) {
  const blocks = []
  const lines = text.split('\n')
  for (let at = 0; at < lines.length; at++) {
    const fence = lines[at].match(/^```(\w+) ?(.*)$/)
    if (!fence) continue
    const begin = at + 1
    while (lines[++at] !== '```') assert.ok(at < lines.length, `line ${begin}: the block has no end`)
    const previous = blocks.at(-1)
    const isAnswer = fence[1] !== 'sh' && fence[2] === '' && previous?.language === 'sh' && lines.slice(previous.end, begin - 1).every(line => line === '')
    blocks.push({ language: fence[1], words: fence[2], text: lines.slice(begin, at).join('\n'), line: begin, end: at + 1, isAnswer })
  }
  return blocks
}

/** An expression for what is shown; white space does not count. */
function patternOf(shown) {
  const literal = text => text.replace(/\s+/g, '').replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const line = text => text.split('…').map(literal).join('[^"{}\\[\\]]*?')
  return shown.split('\n').map(text => (text.trim() === '…' ? '[^]*?' : line(text))).join('')
}

/** So many ports, all of them held until all are known: otherwise two could be the same. */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer())
  for (const server of servers) await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const ports = servers.map(server => server.address().port)
  for (const server of servers) await new Promise(resolve => server.close(resolve))
  return ports
}

/** A command that runs, and all that it has printed. */
class Command {
  printed = ''
  complaints = ''
  /** How much of what was printed, without white space, has been shown. */
  shown = 0
  #changed = []

  constructor(script, options) {
    this.script = script
    // A group of its own, which a Ctrl-C ends.
    this.child = spawn('bash', ['-euo', 'pipefail', '-c', script], { ...options, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
    this.child.stdout.setEncoding('utf8').on('data', text => { this.printed += text; this.#wake() })
    this.child.stderr.setEncoding('utf8').on('data', text => { this.complaints += text; this.#wake() })
    this.ended = new Promise(resolve => this.child.once('close', (code, signal) => {
      this.code = code ?? signal
      this.#wake()
      resolve()
    }))
  }

  #wake() {
    for (const wake of this.#changed.splice(0)) wake()
  }

  /** Waits until the command has printed what is shown next. */
  async shows(shown, until = Date.now() + SHOWN_WITHIN_MS) {
    const pattern = new RegExp(`^${patternOf(shown)}`)
    for (;;) {
      const left = this.printed.replace(/\s+/g, '').slice(this.shown)
      const found = left.match(pattern)
      if (found) {
        this.shown += found[0].length
        return
      }
      const pause = until - Date.now()
      if (this.code !== undefined || pause <= 0) this.fail(`does not print what is shown:\n${shown}`)
      let timer
      await new Promise(resolve => {
        this.#changed.push(resolve)
        timer = setTimeout(resolve, pause)
      })
      clearTimeout(timer)
    }
  }

  fail(reason) {
    assert.fail(`${this.script}\n${reason}\n-- printed:\n${this.printed}\n-- and as an error:\n${this.complaints}\n-- ended with ${this.code}`)
  }

  async stop() {
    if (this.code === undefined) process.kill(-this.child.pid, 'SIGINT')
    const late = setTimeout(() => process.kill(-this.child.pid, 'SIGKILL'), SHOWN_WITHIN_MS)
    await this.ended
    clearTimeout(late)
  }
}

/** Runs every block of a document, on a service of its own: the document's, or one that is started before it. */
export async function runDocument(name, context) {
  const blocks = blocksOf(await readFile(new URL(`../../${name}`, import.meta.url), 'utf8'))
  const directory = await temporaryDirectory()
  const terminals = new Map()
  let browser
  context.after(async () => {
    await browser?.close()
    for (const terminal of [...terminals.values()].reverse()) await terminal.stop()
    await directory.remove()
  })
  const [work, programs] = [join(directory.path, 'work'), join(directory.path, 'programs')]
  await mkdir(work)
  await mkdir(programs)
  await symlink(BINARY, join(programs, 'headwater'))
  const [service, other] = await freePorts(2)
  const ports = { 8080: service, 8000: other }
  const own = text => text.replace(/(127\.0\.0\.1:|http\.server |port )(8080|8000)\b/g, (_, before, port) => before + ports[port])
    .replaceAll('cargo run --release', 'headwater')
  const env = {
    ...process.env,
    PATH: `${programs}:${process.env.PATH}`,
    HEADWATER_LISTEN: `127.0.0.1:${ports[8080]}`,
    HEADWATER_DATA_DIR: join(directory.path, 'data'),
    HEADWATER_LOG: 'warn',
    DATABASE_URL: '',
    PYTHONUNBUFFERED: '1',
  }
  const open = async (terminal, script) => {
    await terminals.get(terminal)?.stop()
    terminals.set(terminal, new Command(own(script), { cwd: work, env }))
  }
  const pages = new Map()
  const pageAt = async url => {
    if (!pages.has(url)) {
      browser ??= await startBrowser()
      const page = await browser.newPage()
      await page.goto(url)
      pages.set(url, page)
    }
    return pages.get(url)
  }
  if (!blocks.some(block => block.language === 'sh' && block.words === 'terminal 1')) {
    await open('1', 'headwater')
    await terminals.get('1').shows('headwater listening on')
  }
  for (const [at, block] of blocks.entries()) {
    const shown = own(block.text)
    const [kind, ...words] = block.words.split(' ')
    const place = `${name}:${block.line}`
    if (block.language === 'sh' && block.words === '') {
      const command = new Command(shown, { cwd: work, env })
      const late = setTimeout(() => command.stop(), SHOWN_WITHIN_MS)
      await command.ended
      clearTimeout(late)
      if (command.code !== 0) command.fail(`${place}: ended with ${command.code}`)
      // What is shown is all that is printed.
      const answer = blocks[at + 1]
      if (answer?.isAnswer && !new RegExp(`^${patternOf(own(answer.text))}$`).test(command.printed.replace(/\s+/g, ''))) {
        command.fail(`${place}: does not print what is shown:\n${answer.text}`)
      }
    } else if (block.language === 'sh' && kind === 'terminal') {
      await open(words[0], block.text)
      const answer = blocks[at + 1]
      if (answer?.isAnswer) await terminals.get(words[0]).shows(own(answer.text))
    } else if (kind === 'terminal') {
      await terminals.get(words[0]).shows(shown)
    } else if (kind === 'page') {
      const page = await pageAt(own(words[0]))
      const pattern = `^${patternOf(shown)}$`
      try {
        await page.waitForFunction(
          pattern => new RegExp(pattern).test(document.body.innerText.replace(/\s+/g, '')), pattern, { timeout: SHOWN_WITHIN_MS })
      } catch {
        assert.fail(`${place}: the page shows:\n${await page.evaluate(() => document.body.innerText)}`)
      }
    } else if (/^[\w-]+\.\w+$/.test(kind)) {
      await writeFile(join(work, kind), `${shown}\n`)
    } else {
      assert.ok(block.words === '' || block.words === 'not run', `${place}: what is a block of ${block.words}?`)
    }
  }
}
