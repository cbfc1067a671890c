// The console in a browser, for tests: a service of its own, and pages whose errors count.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { after, before } from 'node:test'
import { startBrowser, startService, temporaryDirectory } from './service.mjs'

/** With this folder, the console's files come from there, not from the binary: for working on them without building. */
const FOLDER = process.env.HEADWATER_TEST_CONSOLE

const TYPES = { js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' }

/** Starts a service that `fill` writes to, and a browser, around the tests of a file. `more`: settings of the service. */
export function startConsole(fill = () => {}, more = []) {
  const it = { service: undefined, directory: undefined }
  const problems = []
  let browser, directory

  before(async () => {
    directory = await temporaryDirectory()
    it.directory = directory.path
    it.service = await startService(directory.path, undefined, more)
    browser = await startBrowser()
    await fill(it.service)
  })

  after(async () => {
    await browser?.close()
    await it.service?.stop()
    await directory?.remove()
  })

  /** A page of the console; errors and requests to elsewhere are kept. */
  it.open = async (route, options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options })
    return openIn(context, route)
  }
  /** Another tab of the browser that a page is in. */
  it.openBeside = (page, route) => openIn(page.context(), route)

  async function openIn(context, route) {
    const page = await context.newPage()
    page.on('pageerror', error => problems.push(error.message))
    page.on('console', message => {
      if (message.type() === 'error' && !/Failed to load resource|ERR_|EventSource/.test(message.text())) problems.push(message.text())
    })
    page.on('request', request => {
      if (!request.url().startsWith(it.service.url) && !request.url().startsWith('data:')) problems.push(request.url())
    })
    if (FOLDER) {
      await page.route('**/console/**', async route => {
        const path = new URL(route.request().url()).pathname.replace('/console/', '/')
        await route.fulfill({ body: await readFile(FOLDER + path), contentType: TYPES[path.split('.').pop()] })
      })
    }
    await page.goto(`${it.service.url}/#${route}`)
    return page
  }

  it.close = async page => {
    await page.context().close()
    assert.deepEqual(problems.splice(0), [])
  }

  /** Sends JSON to the service and returns the answer. */
  it.send = async (method, path, body) => {
    const response = await fetch(it.service.url + path, {
      method, headers: body === undefined ? {} : { 'content-type': 'application/json' }, body: JSON.stringify(body),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text && JSON.parse(text)
  }
  return it
}

export async function signIn(page, key) {
  await page.getByLabel('API key or JWT').fill(key)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

export const heading = (page, text) => page.locator('h1', { hasText: text }).waitFor()
export const rows = page => page.locator('.message-row')

/** Shows or hides a page, as another tab in front of it does. */
export const show = (page, isShown) => page.evaluate(isShown => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => !isShown })
  document.dispatchEvent(new Event('visibilitychange'))
}, isShown)
