// Server-sent events with the header that the browser's own EventSource cannot send; its interface as far as it is used here.
import { authorization, noteRefused } from './session.js'

const RETRY_MS = 2_000

export class EventStream extends EventTarget {
  readyState = EventSource.CONNECTING
  #url
  #lastId = ''
  #retry = RETRY_MS
  #ended = new AbortController()
  #timer

  constructor(url) {
    super()
    this.#url = url
    this.#open()
  }

  close() {
    this.readyState = EventSource.CLOSED
    this.#ended.abort()
    clearTimeout(this.#timer)
  }

  async #open() {
    try {
      const response = await fetch(this.#url, {
        headers: { accept: 'text/event-stream', ...(this.#lastId && { 'last-event-id': this.#lastId }), ...authorization() },
        cache: 'no-store',
        signal: this.#ended.signal,
      })
      if (!response.ok) {
        if (response.status === 401) noteRefused()
        return this.#fail(EventSource.CLOSED)
      }
      this.readyState = EventSource.OPEN
      await this.#read(response.body)
    } catch { /* the connection is lost, or was closed here */ }
    if (this.readyState === EventSource.CLOSED) return
    this.#fail(EventSource.CONNECTING)
    this.#timer = setTimeout(() => this.#open(), this.#retry)
  }

  #fail(state) {
    if (this.readyState === EventSource.CLOSED) return
    this.readyState = state
    this.dispatchEvent(new Event('error'))
  }

  async #read(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader()
    let rest = ''
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      const blocks = (rest + value).split('\n\n')
      rest = blocks.pop()
      for (const block of blocks) this.#take(block)
    }
  }

  #take(block) {
    let name = 'message'
    const data = []
    for (const line of block.split('\n')) {
      const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line)
      if (field === 'event') name = value
      else if (field === 'data') data.push(value ?? '')
      else if (field === 'id') this.#lastId = value ?? ''
      else if (field === 'retry') this.#retry = Number(value) || RETRY_MS
    }
    // An event without data only moves the cursor on.
    if (data.length && this.readyState === EventSource.OPEN) {
      this.dispatchEvent(new MessageEvent(name, { data: data.join('\n'), lastEventId: this.#lastId }))
    }
  }
}
