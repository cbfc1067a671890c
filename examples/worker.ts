// A worker: writes an invoice for every order that is shipped. Run as many as you like; each takes its share, and
// what one leaves behind the others take over.
//
//     node examples/worker.ts            (Node.js 22.18 or newer runs TypeScript as it is)
//
// HEADWATER_URL says where the service is; http://127.0.0.1:8080 unless it is set. HEADWATER_KEY is an API key, if one is
// required: with the scopes read:order*, append:invoice-* and subscribe:invoices.

const service = process.env.HEADWATER_URL ?? 'http://127.0.0.1:8080'
const credential = process.env.HEADWATER_KEY ? { authorization: `Bearer ${process.env.HEADWATER_KEY}` } : {}
const consumer = process.argv[2] ?? `worker-${process.pid}`
const subscription = `${service}/v1/subscriptions/invoices`

interface Message { id: string, stream_name: string, type: string, data: { item?: string, quantity?: number } | null }
interface Delivery { partition: number, position: number, epoch: number, delivery_count: number, message: Message }

/** What no attempt will ever change. */
class Poison extends Error {}

/** An answer that is no success. */
class Refused extends Error {
  readonly type: string
  constructor(problem: { type: string, detail: string }) {
    super(problem.detail)
    this.type = problem.type
  }
}

async function call<T>(method: string, url: string, body?: unknown, options: RequestInit = {}): Promise<T> {
  const headers = { 'content-type': 'application/json', ...credential, ...options.headers }
  const response = await fetch(url, { ...options, method, headers, body: body === undefined ? null : JSON.stringify(body) })
  if (!response.ok) throw new Refused(await response.json())
  return (response.status === 204 ? undefined : await response.json()) as T
}

/** The work itself. It may be done twice, if this process dies before the ack: the key makes that one invoice. */
async function writeInvoice({ message }: Delivery): Promise<void> {
  const order = message.stream_name
  const { messages } = await call<{ messages: Message[] }>('GET', `${service}/v1/streams/${encodeURIComponent(order)}/messages?types=OrderPlaced`)
  const placed = messages[0]?.data
  if (!placed?.item || !placed.quantity) throw new Poison(`${order} was shipped without having been placed`)
  const invoice = `invoice-${order.slice(order.indexOf('-') + 1)}`
  const data = { order, text: `${placed.quantity} × ${placed.item}` }
  const headers = { 'Idempotency-Key': message.id }
  await call('POST', `${service}/v1/streams/${encodeURIComponent(invoice)}/messages`, { messages: [{ type: 'InvoiceWritten', data }] }, { headers })
  console.log(`${consumer}: ${invoice}: ${data.text}`)
}

/** Works on one delivery and says what became of it; false if the rest of its partition is to be left alone for now. */
async function work(delivery: Delivery): Promise<boolean> {
  const { partition, position, epoch } = delivery
  const place = { partition, position, epoch }
  try {
    try {
      await writeInvoice(delivery)
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      // Poison is put aside at once, where people can look at it; everything else may go better in a second.
      const action = error instanceof Poison ? 'park' : 'retry'
      await call('POST', `${subscription}/nacks`, { consumer, nacks: [{ ...place, action, reason }] })
      console.log(`${consumer}: ${action}: ${reason}`)
      return action === 'park'
    }
    await call('POST', `${subscription}/acks`, { consumer, acks: [place] })
    return true
  } catch (error) {
    // The partition is another worker's by now, which does this again: the key above makes it one invoice all the same.
    if (error instanceof Refused && error.type === '/problems/fenced') return false
    throw error
  }
}

const stopping = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stopping.abort())

// The same definition as often as one likes: whoever comes first makes the subscription.
await call('PUT', subscription, {
  source: { category: 'order' }, types: ['OrderShipped'], from: 'beginning', mode: 'partitioned', partitions: 4,
})
console.log(`${consumer}: ready`)
while (!stopping.signal.aborted) {
  try {
    // It begins with what this worker was given before and, for an error's sake, has not answered.
    const wish = { consumer, limit: 10, wait: '10s' }
    const { messages } = await call<{ messages: Delivery[] }>('POST', `${subscription}/fetch`, wish, { signal: stopping.signal })
    // In order within a partition: behind a message that comes again, or in a partition that was lost, nothing is done.
    const left = new Set<number>()
    for (const delivery of messages) {
      if (!left.has(delivery.partition) && !await work(delivery)) left.add(delivery.partition)
    }
  } catch (error) {
    if (stopping.signal.aborted) break
    console.error(`${consumer}: ${error instanceof Error ? error.message : error}; trying again`)
    await new Promise(resolve => setTimeout(resolve, 1_000))
  }
}
// The others need not wait until it is noticed that this one is gone.
await call('DELETE', `${subscription}/consumers/${encodeURIComponent(consumer)}`)
