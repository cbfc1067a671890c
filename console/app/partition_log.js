// The messages of a partition of an aggregated stream, newest first: by its number, or as those of a key.
import { html, useMemo, useState } from './dom.js'
import { api, getJson, getText, Problem, query } from './api.js'
import { count, plural } from './format.js'
import { deliveryOf, pageOf } from './json_text.js'
import { LogView } from './log_view.js'
import { PAGE } from './logs.js'
import { useLook } from './poll.js'
import { to } from './router.js'
import { Empty, Heading } from './widgets.js'

/** Pages that reading an end may take: what is known of it may be a second old. */
const PAGES_MAX = 3

const rowOf = ({ position, message }) => ({ ...message, partition_position: position })

/** A log as in logs.js; `find(signal)` gives `{ partition, message_count }` or null, `follows` the query of its event stream. */
export function partitionLog(base, { id, follows, find }) {
  return {
    id,
    position: 'partition_position',
    events: `${base}/events?${follows}`,
    itemOf: text => rowOf(deliveryOf(text)),
    hasFilter: false,
    async before(position, _, signal) {
      const { status } = await getJson(base, { signal })
      const cursor = String(status.projected_position)
      const found = await find(signal)
      if (!found) return { rows: [], before: null, cursor, end: -1 }
      const end = position ?? Infinity
      const start = Math.max((position ?? found.message_count) - PAGE, 0)
      const { rows, first } = await readFrom(`${base}/partitions/${found.partition}/messages`, start, end, signal)
      return { rows: rows.slice(-PAGE).reverse(), before: first > 0 && first === start ? first : null, cursor, end: found.message_count - 1 }
    },
  }
}

/** Messages of a partition from a position to one before another, oldest first; `first`: where reading could begin. */
async function readFrom(path, start, end, signal) {
  let rows = [], from = start, first = start
  for (let pages = 0; pages < PAGES_MAX && from < end; pages++) {
    try {
      const page = pageOf(await getText(query(path, { from, limit: Math.min(end - from, PAGE) }), { signal }), 'messages', deliveryOf)
      rows = rows.concat(page.messages.map(rowOf).filter(row => row.partition_position < end))
      if (page.at_end) break
      from = page.next
    } catch (error) {
      if (!(error instanceof Problem) || error.slug !== 'position-trimmed') throw error
      from = first = error.document.first_position
    }
  }
  return { rows, first }
}

/** A partition as the status has it, or null before its first message. */
async function partitionOf(base, number, signal) {
  const { status } = await getJson(base, { signal })
  return status.partitions.find(one => String(one.partition) === number) ?? null
}

/** A partition with what the list below it has got since: it must not say less than what is shown. `[partition, onNewest]`. */
export function useNewest(partition) {
  const [newest, setNewest] = useState(-1)
  if (!partition) return [partition, setNewest]
  const last = partition.last_position ?? partition.message_count - 1
  const more = Math.max(newest - last, 0)
  return [{ ...partition, message_count: partition.message_count + more, last_position: last + more }, setNewest]
}

export function Partition({ name, number }) {
  const base = api`/v1/aggregated-streams/${name}`
  const log = useMemo(() => partitionLog(base, {
    id: `partition ${name} ${number}`, follows: `partition=${encodeURIComponent(number)}`, find: signal => partitionOf(base, number, signal),
  }), [name, number])
  const look = useLook(signal => partitionOf(base, number, signal), [name, number], 2_000)
  const [value, onNewest] = useNewest(look.value)
  return html`
    <${Heading} trail=${[['Aggregated', to('aggregated')], [name, to('aggregated', name)]]} title=${`Partition ${number}`} path=${`${base}/partitions/${number}/messages`}>
      ${value && html`<span class="muted">${plural(value.message_count, 'message')} · last at ${count(value.last_position)}</span>`}
    <//>
    <${LogView} key=${`${name} ${number}`} log=${log} withStream=${true} onNewest=${onNewest}>
      <${Empty} title="No message is in this partition yet"><p>It is shown as soon as one comes.</p><//>
    <//>`
}
