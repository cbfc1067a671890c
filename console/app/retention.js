// What is kept of a category: shown, set with a preview, ended.
import { html, useEffect, useState } from './dom.js'
import { api, getJson, Problem } from './api.js'
import { Confirm, Dialog, PreviewBox, usePreview } from './dialog.js'
import { ago, clock, count, duration, plural, seconds } from './format.js'
import { useLook, useNow } from './poll.js'
import { previewRetention } from './retention_preview.js'
import { Empty, Failure, Loading, Stat } from './widgets.js'

const UNITS = [['minutes', 60], ['hours', 3_600], ['days', 86_400]]

/** The retention of a category, or null. */
async function retentionOf(path, signal) {
  try {
    return await getJson(path, { signal })
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return null
    throw error
  }
}

export function Retention({ category }) {
  const path = api`/v1/categories/${category}/retention`
  const { value, error, again } = useLook(async signal => ({ retention: await retentionOf(path, signal) }), [category])
  const [isChanging, setIsChanging] = useState(false)
  if (!value) return error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} lines=${3} />`
  const change = () => setIsChanging(true)
  return html`
    ${value.retention ? html`<${Kept} key=${category} category=${category} path=${path} first=${value.retention} onChange=${change} onEnded=${again} />` : html`
      <${Empty} title="Everything is kept">
        <p>A retention deletes the oldest messages of a category by age, by count or by both, in small steps. Positions stay as they are, and the newest message of every stream stays.</p>
        <button onClick=${change}>Set retention…</button>
      <//>`}
    ${isChanging && html`<${RetentionDialog} category=${category} path=${path} retention=${value.retention} onDone=${again} onClose=${() => setIsChanging(false)} />`}`
}

/** A retention, and what it has done so far. */
function Kept({ category, path, first, onChange, onEnded }) {
  const look = useLook(signal => retentionOf(path, signal), [path, first], 2_000)
  const [ask, setAsk] = useState(null)
  const now = useNow()
  const retention = look.value ?? first
  // Somebody else has ended it.
  useEffect(() => { if (look.value === null) onEnded() }, [look.value])
  const end = () => setAsk({
    title: `End the retention of ${category}?`, text: 'From then on everything is kept. What was trimmed does not come back.', action: 'End retention',
    request: { method: 'DELETE', path }, done: onEnded,
  })
  return html`
    <${Failure} error=${look.error} again=${look.again} />
    <dl class="stats">
      <${Stat} label="Kept for" value=${retention.max_age ? duration(seconds(retention.max_age)) : 'any time'} />
      <${Stat} label="Kept at most" value=${retention.max_count ? plural(retention.max_count, 'message') : 'any number'} />
      <${Stat} label="Oldest message" value=${retention.oldest_time ? ago(retention.oldest_time, now) : '–'} title=${retention.oldest_time} />
      <${Stat} label="Trimmed so far" value=${count(retention.trimmed)} />
      <${Stat} label="Last trimmed" value=${retention.last_trimmed_at ? ago(retention.last_trimmed_at, now) : 'never'} title=${retention.last_trimmed_at} />
    </dl>
    <p class="hint">The oldest messages go, in small steps; the newest of every stream stays. ${retention.unless_unacked
      ? 'What a subscription has not acked stays, and what comes after it in its stream.' : 'Subscriptions never get what goes, acked or not.'}</p>
    <div class="toolbar">
      <button onClick=${onChange}>Change…</button>
      <button onClick=${end}>End…</button>
    </div>
    <${Confirm} ask=${ask} onClose=${() => setAsk(null)} />`
}

/** An age in the largest unit in which it is a whole number. */
function inUnits(age) {
  if (!age) return ['', 86_400]
  const whole = seconds(age)
  const [, unit] = UNITS.findLast(([, unit]) => whole % unit === 0) ?? UNITS[0]
  return [String(whole / unit), unit]
}

const wholeOf = text => (/^\d{1,15}$/.test(text.trim()) && Number(text) > 0 ? Number(text) : null)

function RetentionDialog({ category, path, retention, onDone, onClose }) {
  const [first, firstUnit] = inUnits(retention?.max_age)
  const [age, setAge] = useState(first)
  const [unit, setUnit] = useState(firstUnit)
  const [number, setNumber] = useState(retention?.max_count ? String(retention.max_count) : '')
  const [unlessUnacked, setUnlessUnacked] = useState(retention?.unless_unacked ?? true)
  const longest = wholeOf(age) && wholeOf(age) * unit
  const rule = { max_age: longest ? `${longest}s` : undefined, max_count: wholeOf(number) ?? undefined, unless_unacked: unlessUnacked }
  const isUnderstood = (age.trim() === '' || longest) && (number.trim() === '' || rule.max_count)
  const isRule = Boolean(isUnderstood && (longest || rule.max_count))
  const look = usePreview(isRule && (signal => previewRetention(category, longest, rule.max_count, signal)), [category, longest, rule.max_count, isRule])
  const done = () => { onDone(); onClose() }
  return html`
    <${Dialog} title=${`${retention ? 'Change the' : 'Set a'} retention of ${category}?`} action=${`Set retention of ${category}`} isDanger=${true} isReady=${isRule && Boolean(look.preview)} request=${{ method: 'PUT', path, body: rule }} onDone=${done} onClose=${onClose}>
      <div class="field-row">
        <label class="field">Keep for at most
          <input inputmode="numeric" autocomplete="off" placeholder="any time" value=${age} onInput=${event => setAge(event.target.value)} /></label>
        <label class="field">Unit
          <select value=${unit} onChange=${event => setUnit(Number(event.target.value))}>
            ${UNITS.map(([name, unit]) => html`<option key=${unit} value=${unit}>${name}</option>`)}
          </select></label>
      </div>
      <label class="field">Keep at most so many messages of the category
        <input inputmode="numeric" autocomplete="off" placeholder="any number" value=${number} onInput=${event => setNumber(event.target.value)} /></label>
      <label class="check"><input type="checkbox" checked=${unlessUnacked} onChange=${event => setUnlessUnacked(event.target.checked)} />
        Keep what a subscription has not acked</label>
      <${PreviewBox} look=${look} waits=${isRule ? 'Looking' : isUnderstood ? 'What would go now is shown here first.' : 'This is not understood.'}>
        ${preview => html`<${Preview} preview=${preview} unlessUnacked=${unlessUnacked} />`}<//>
    <//>`
}

const number = ({ goes, isAbout }) => (goes === 0 ? 'none' : `${isAbout ? 'about ' : ''}${plural(goes, 'message')}`)

function Preview({ preview: { byAge, byCount, total, first }, unlessUnacked }) {
  const now = useNow()
  return html`
    <dl class="facts">
      ${byAge && html`<dt>Too old now</dt><dd><b>${number(byAge)}</b></dd>`}
      ${byCount && html`<dt>Too many now</dt><dd><b>${number(byCount)}</b> of ${count(total)}</dd>`}
      ${first && html`<dt>Oldest message</dt><dd>${clock(first.time)} <span class="muted">${ago(first.time, now)}</span></dd>`}
    </dl>
    <p class="hint">Computed from what can be read now${unlessUnacked ? '; what a subscription has not acked stays, so it may be less' : ''}. The newest message of every stream stays; nothing brings back what goes. It goes in small steps, from now on.</p>`
}
