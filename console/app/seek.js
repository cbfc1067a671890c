// Setting the cursors of a subscription: the service's own dry run is shown first.
import { html, useState } from './dom.js'
import { perform } from './api.js'
import { Dialog, PreviewBox, usePreview } from './dialog.js'
import { Choice, listOf, Text, wholeOf } from './fields.js'
import { count } from './format.js'
import { Table } from './table.js'

const WAYS = [['beginning', 'The beginning'], ['end', 'The end: only new messages'], ['position', 'A position'], ['time', 'A time']]

/** Where to, as the service takes it; undefined where the field says nothing yet. */
export function placeOf(way, text) {
  if (way === 'position') return wholeOf(text) ?? undefined
  if (way !== 'time') return way
  const at = new Date(text)
  return text && !Number.isNaN(at.getTime()) ? at.toISOString() : undefined
}

/** Chooses one: `ways` as above. */
export const Place = ({ label, way, text, onChange, ways = WAYS }) => html`
  <${Choice} label=${label} value=${way} options=${ways} onChange=${way => onChange(way, '')} />
  ${way === 'position' && html`<${Text} label="Position" value=${text} onChange=${text => onChange(way, text)} placeholder="the first to be delivered" isNumber=${true} />`}
  ${way === 'time' && html`<label class="field">Time, here<input type="datetime-local" step="1" value=${text} onInput=${event => onChange(way, event.target.value)} /></label>`}`

export function SeekDialog({ name, path, partitions, onDone, onClose }) {
  const [[way, text], setPlace] = useState(['beginning', ''])
  const [only, setOnly] = useState('')
  const to = placeOf(way, text)
  const numbers = listOf(only).map(wholeOf)
  const isUnderstood = to !== undefined && !Number.isNaN(to) && !numbers.some(Number.isNaN)
  const body = { to, ...(numbers.length > 0 && { partitions: numbers }) }
  const request = dry => ({ method: 'POST', path: `${path}/seek`, body: dry ? { ...body, dry_run: true } : body })
  const look = usePreview(isUnderstood && (() => perform(request(true))), [way, text, only])
  return html`
    <${Dialog} title=${`Seek ${name}?`} action=${`Set ${numbers.length ? 'these' : 'all'} cursors of ${name}`} isDanger=${true} isReady=${Boolean(look.preview)} request=${request(false)}
      onDone=${() => { onDone(); onClose() }} onClose=${onClose}>
      <${Place} label="Go to" way=${way} text=${text} onChange=${(...place) => setPlace(place)} />
      ${partitions > 1 && html`<${Text} label="Partitions" value=${only} onChange=${setOnly} placeholder="all; or 0, 3" />`}
      <${PreviewBox} look=${look} waits=${isUnderstood ? 'Looking' : 'What would happen is shown here first.'}>${({ partitions }) => html`
        <div class="preview-rows"><${Table} label="Cursors" rows=${partitions} keyOf=${one => one.partition} columns=${[
          { label: 'Partition', kind: 'num', cell: one => one.partition },
          { label: 'Acked up to', kind: 'num', cell: one => shownPlace(one.from_position) },
          { label: 'Then', kind: 'num', cell: one => html`<b>${shownPlace(one.to_position)}</b>` },
        ]} /></div>
        <p class="hint">A dry run of the service. Acks of what was delivered before count no more; what lies between is ${partitions.some(one => one.to_position < one.from_position) ? 'delivered again' : 'passed over'}.</p>`}<//>
    <//>`
}

const shownPlace = position => (position < 0 ? 'nothing' : count(position))
