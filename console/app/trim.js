// Trimming a stream: which of its oldest messages go is shown first.
import { html, useEffect, useRef, useState } from './dom.js'
import { api, perform } from './api.js'
import { Dialog, PreviewBox, usePreview } from './dialog.js'
import { ago, clock, count, plural } from './format.js'
import { useNow } from './poll.js'
import { previewTrim } from './trim_preview.js'

const WAYS = [['keep_last', 'All but the newest'], ['before_position', 'Those before a position'], ['before_time', 'Those before a time']]

/** What is asked for, or null where the field says nothing yet. */
function oldestOf(way, text) {
  if (way === 'before_time') {
    const at = new Date(text)
    return Number.isNaN(at.getTime()) ? null : { before_time: at.toISOString() }
  }
  if (!/^\d{1,15}$/.test(text.trim())) return null
  const number = Number(text)
  return way === 'keep_last' && number < 1 ? null : { [way]: number }
}

/** `onDone` is called after messages have gone. */
export function TrimDialog({ stream, onDone, onClose }) {
  const [way, setWay] = useState('keep_last')
  const [text, setText] = useState('')
  const [unlessUnacked, setUnlessUnacked] = useState(true)
  const [done, setDone] = useState(null)
  const oldest = oldestOf(way, text)
  const isOpen = useRef(true)
  useEffect(() => () => { isOpen.current = false }, [])
  const look = usePreview(oldest && (signal => previewTrim(stream, oldest, unlessUnacked, signal)), [stream, way, text, unlessUnacked])
  const request = { method: 'POST', path: api`/v1/streams/${stream}/trim`, body: { before_position: look.preview?.before, unless_unacked: unlessUnacked } }

  const run = async () => {
    let trimmed = 0, result
    // The service answers after ten seconds at most, and goes on when it is asked again.
    do {
      // What was shown and no more, whatever has been appended since.
      result = await perform(request)
      trimmed += result.trimmed
      setDone({ ...result, trimmed })
    } while (!result.is_complete && isOpen.current)
    onDone()
  }
  const { preview } = look
  const isEstimate = preview?.holders.some(holder => holder.isEstimate)
  const most = isEstimate ? preview.wanted : preview?.goes
  if (done?.is_complete) return html`<${Dialog} title=${`Trimmed ${stream}`} onClose=${onClose}><${Result} done=${done} /><//>`
  return html`
    <${Dialog} title=${`Trim ${stream}?`} action=${preview ? `Trim ${isEstimate ? 'up to ' : ''}${plural(most, 'message')} of ${stream}` : 'Trim'} isDanger=${true} request=${request}
      isReady=${most > 0} run=${run} onClose=${onClose}>
      <div class="field-row">
        <label class="field">Which messages go
          <select value=${way} onChange=${event => { setWay(event.target.value); setText('') }}>
            ${WAYS.map(([id, name]) => html`<option key=${id} value=${id}>${name}</option>`)}
          </select>
        </label>
        <label class="field">${{ keep_last: 'Messages', before_position: 'Position', before_time: 'Time, here' }[way]}
          <input key=${way} type=${way === 'before_time' ? 'datetime-local' : 'text'} step="1" inputmode=${way === 'before_time' ? undefined : 'numeric'} autocomplete="off"
            value=${text} onInput=${event => setText(event.target.value)} />
        </label>
      </div>
      <label class="check"><input type="checkbox" checked=${unlessUnacked} onChange=${event => setUnlessUnacked(event.target.checked)} />
        Keep what a subscription has not acked</label>
      ${done && html`<p class="hint" role="status">${plural(done.trimmed, 'message')} trimmed so far.</p>`}
      <${PreviewBox} look=${look} waits=${oldest ? 'Looking' : text ? 'This is not understood.' : 'What would go is shown here first.'}>
        ${preview => html`<${Preview} preview=${preview} unlessUnacked=${unlessUnacked} />`}<//>
    <//>`
}

function Preview({ preview: { summary, wanted, goes, first, holders, isPartial }, unlessUnacked }) {
  const now = useNow()
  const isEstimate = holders.some(holder => holder.isEstimate)
  return html`
    <dl class="facts">
      <dt>Go</dt><dd>${goes > 0
        ? html`<b>${isEstimate ? 'at least ' : ''}${plural(goes, 'message')}</b>, positions ${count(summary.first_position)} to ${count(summary.first_position + goes - 1)}`
        : html`<b>${isEstimate ? 'maybe none' : 'None'}</b>`}</dd>
      <dt>First to stay</dt><dd>${first ? html`position ${count(first.position)}, ${first.type}, ${clock(first.time)} <span class="muted">${ago(first.time, now)}</span>` : '–'}</dd>
      ${wanted > goes && html`<dt>Kept</dt><dd>${plural(wanted - goes, 'more message')} would go, but ${holders.map(({ name, from, isEstimate }, at) => html`${at > 0 ? '; ' : ''}<b>${name}</b> ${isEstimate ? 'may not have' : 'has not'} acked position ${count(from)} and later`)}</dd>`}
    </dl>
    ${isPartial && html`<p class="hint">There are more subscriptions than were asked: they may keep more.</p>`}
    ${!unlessUnacked && html`<p class="hint tone-warn">Subscriptions will never get what goes.</p>`}
    <p class="hint">Computed from what can be read now. Positions stay as they are; the newest message always stays; nothing brings back what goes.</p>`
}

const Result = ({ done: { trimmed, first_position, kept_unacked } }) => html`
  <p>${trimmed === 0 ? 'No message has gone.' : trimmed === 1 ? '1 message has gone.' : `${count(trimmed)} messages have gone.`} The first is now at position ${count(first_position)}.${kept_unacked ? ' What a subscription has not acked has stayed.' : ''}</p>`
