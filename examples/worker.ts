// A worker: writes an invoice for every order that is shipped. Run as many as you like; each takes its share, and
// what one leaves behind the others take over.
//
//     node examples/worker.ts            (Node.js 22.18 or newer runs TypeScript as it is; with the client of clients/typescript)
//
// HEADWATER_URL says where the service is; http://127.0.0.1:8080 unless it is set. HEADWATER_KEY is an API key, if one is
// required: with the scopes read:order*, append:invoice-* and subscribe:invoices.
import { Conflict, Headwater, Park, type Message } from 'headwater-client'

const { HEADWATER_URL = 'http://127.0.0.1:8080', HEADWATER_KEY } = process.env
const service = new Headwater(HEADWATER_URL, HEADWATER_KEY ? { credential: HEADWATER_KEY } : {})
const consumer = process.argv[2] ?? `worker-${process.pid}`

/** The work itself. It may be done twice, if this process dies before the ack: the second time, the invoice is there. */
async function writeInvoice({ stream_name: order }: Message): Promise<void> {
  const { messages } = await service.read(order)
  const placed = messages.find(message => message.type === 'OrderPlaced')?.data as { item: string, quantity: number } | undefined
  if (!placed) {
    console.log(`${consumer}: park: ${order}`)
    throw new Park(`${order} was shipped without having been placed`)
  }
  const invoice = `invoice-${order.slice(order.indexOf('-') + 1)}`
  const text = `${placed.quantity} × ${placed.item}`
  await service.append(invoice, [{ type: 'InvoiceWritten', data: { order, text } }], -1).catch(error => {
    if (!(error instanceof Conflict)) throw error
  })
  console.log(`${consumer}: ${invoice}: ${text}`)
}

const stopping = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stopping.abort())

// The same definition as often as one likes: whoever comes first makes the subscription.
await service.subscribe('invoices', { source: { category: 'order' }, types: ['OrderShipped'], from: 'beginning', partitions: 4 })
console.log(`${consumer}: ready`)
await service.consume('invoices', writeInvoice, { consumer, signal: stopping.signal, onWarning: error => console.error(`${consumer}: ${error}`) })
