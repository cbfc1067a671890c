// A service of a test's own, and a proxy that loses answers.
import { spawn, execFileSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const BINARY = process.env.HEADWATER_TEST_BINARY!
const env = { ...process.env, HEADWATER_LOG: 'warn', DATABASE_URL: '' }

export class Service {
  url = ''
  #listen = '127.0.0.1:0'
  #child: ChildProcess | undefined
  readonly #directory: string
  readonly #settings: string[]

  constructor(directory: string, settings: string[]) {
    this.#directory = directory
    this.#settings = settings
  }

  static async start(...settings: string[]): Promise<Service> {
    const directory = await mkdtemp(join(tmpdir(), 'headwater-client-'))
    // The embedded PostgreSQL runs as a user of its own, who must be able to reach its data.
    await chmod(directory, 0o755)
    const service = new Service(directory, settings)
    await service.start()
    return service
  }

  async start(): Promise<void> {
    const data = join(this.#directory, 'data')
    this.#child = spawn(BINARY, ['serve', '--listen', this.#listen, '--data-dir', data, ...this.#settings], { env, stdio: ['ignore', 'pipe', 'inherit'] })
    const [line] = await once(createInterface({ input: this.#child.stdout! }), 'line') as [string]
    this.url = line.replace('headwater listening on ', '')
    this.#listen = new URL(this.url).host
  }

  /** `SIGTERM`: in good order, so that event streams are told that the service drains. */
  async restart(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.#end(signal)
    await this.start()
  }

  key(...scopes: string[]): string {
    const words = ['keys', 'create', '--data-dir', join(this.#directory, 'data'), '--name', 'test', ...scopes.flatMap(scope => ['--scope', scope])]
    return execFileSync(BINARY, words, { env, stdio: ['ignore', 'pipe', 'ignore'] }).toString().trim()
  }

  async remove(): Promise<void> {
    await this.#end('SIGTERM')
    await rm(this.#directory, { recursive: true, force: true })
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const ended = once(this.#child!, 'exit')
    this.#child!.kill(signal)
    await ended
  }
}

/** Passes requests on, and of every second answer to a POST nothing but the end of the connection. */
export async function losingProxy(to: string) {
  const { hostname, port } = new URL(to)
  const told = { url: '', lost: 0, stop: () => { server.close() } }
  let posts = 0
  const server = createServer(client => {
    const upstream = connect({ host: hostname, port: Number(port) })
    let isLost = false
    client.on('data', data => {
      if (data.toString('latin1').startsWith('POST')) isLost = posts++ % 2 === 0
      upstream.write(data)
    })
    upstream.on('data', data => {
      if (!isLost) return client.write(data)
      told.lost++
      client.destroy()
      upstream.destroy()
    })
    for (const [end, other] of [[client, upstream], [upstream, client]] as const) end.on('error', () => {}).on('close', () => other.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  told.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return told
}
