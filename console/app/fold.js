// A stream's state at a version: its messages' data folded into one, and what the last of them changed.
import { html, useMemo } from './dom.js'
import { api, getText, query } from './api.js'
import { clock, count, plural } from './format.js'
import { entries, kindOf, pageOf } from './json_text.js'
import { JsonView } from './json_view.js'
import { useLook } from './poll.js'
import { amend, here, to, useRoute } from './router.js'
import { Badge, CopyCurl, Empty, Failure, Loading } from './widgets.js'

/** Messages that are folded at most, and read at once. */
const FOLDED_MAX = 10_000
const PAGE = 1_000
/** Changes that are listed. */
const CHANGES_MAX = 200

/** A JSON merge patch (RFC 7396) on texts, so that no digit is lost: objects are maps, everything else is its text. */
export function merged(state, text) {
  if (kindOf(text) !== 'object') return text
  const next = new Map(state instanceof Map ? state : [])
  for (const [key, value] of entries(text)) {
    if (value === 'null') next.delete(key)
    else next.set(key, merged(next.get(key), value))
  }
  return next
}

export const textOf = state => (state instanceof Map ? `{${[...state].map(([key, value]) => `${JSON.stringify(key)}: ${textOf(value)}`).join(', ')}}` : state)

/** What is different: [path, before, after] each; undefined where there is nothing. */
export function changesOf(before, after, path = '') {
  if (before instanceof Map && after instanceof Map) {
    const keys = new Set([...before.keys(), ...after.keys()])
    return [...keys].flatMap(key => changesOf(before.get(key), after.get(key), `${path}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`))
  }
  const [old, now] = [before, after].map(state => (state === undefined ? undefined : textOf(state)))
  return old === now ? [] : [[path || '/', old, now]]
}

/** The fold up to a version: `{ state, before, message, first, folded, erased, isPartial }`. */
async function foldOf(stream, version, signal) {
  let state, before, message, first, folded = 0, erased = 0, from
  for (;;) {
    const page = pageOf(await getText(query(api`/v1/streams/${stream}/messages`, { from, limit: PAGE }), { signal }))
    for (const one of page.messages) {
      if (one.position > version || folded === FOLDED_MAX) break
      first ??= one.position
      message = one
      before = state
      if (one.erased) erased++
      else if (one.data !== 'null') state = merged(state, one.data)
      folded++
    }
    if (page.at_end || page.next > version || folded === FOLDED_MAX) return { state, before, message, first, folded, erased, isPartial: message !== undefined && message.position < version && !page.at_end }
    from = page.next
  }
}

const MARKS = [['Added', 'good'], ['Changed', 'warn'], ['Removed', 'bad']]

/** `version` is the stream's own; the route may ask for an earlier one. */
export function StreamState({ stream, version: last }) {
  const { query: route } = useRoute()
  const asked = /^\d+$/.test(route.get('version') ?? '') ? Math.min(Number(route.get('version')), last) : last
  const { value, error, again } = useLook(signal => foldOf(stream, asked, signal), [stream, asked])
  const changes = useMemo(() => (value?.message ? changesOf(value.before, value.state) : []), [value])
  if (last < 0) return html`<${Empty} title="No message yet"><p>The state of a stream is its messages' data, one laid over the other.</p><//>`
  const link = version => here({ version })
  return html`
    <div class="toolbar">
      <a class="button" aria-disabled=${asked <= 0} href=${link(Math.max(asked - 1, 0))}>← Before</a>
      <label class="inline">Version <input inputmode="numeric" size="8" value=${asked} onChange=${event => amend({ version: event.target.value.replace(/\D/g, '') })} /> of ${count(last)}</label>
      <a class="button" aria-disabled=${asked >= last} href=${link(Math.min(asked + 1, last))}>After →</a>
      <span class="spacer" /><${CopyCurl} request=${{ path: query(api`/v1/streams/${stream}/messages`, { limit: PAGE }) }} />
    </div>
    <${Failure} error=${error} again=${again} />
    ${!value ? !error && html`<${Loading} />` : !value.message ? html`<${Empty} title="Nothing is left up to here"><p>These messages were trimmed.</p><//>` : html`
      ${value.isPartial && html`<p class="failure">Only the first ${plural(value.folded, 'message')} are folded: this is the state at ${count(value.message.position)}.</p>`}
      <div class="columns even">
        <section class="panel"><header><h2>State</h2></header>${value.state === undefined ? html`<p class="muted">No data</p>` : html`<${JsonView} key=${textOf(value.state)} text=${textOf(value.state)} />`}</section>
        <section class="panel" aria-label="Difference">
          <header><h2>By <a href=${to('streams', stream, { at: value.message.position })}>${value.message.type}</a> at ${count(value.message.position)}</h2><span class="muted">${clock(value.message.time)}</span></header>
          ${changes.length === 0 ? html`<p class="muted">Nothing is different from the version before.</p>` : html`
            <dl class="changes">${changes.slice(0, CHANGES_MAX).map(([path, old, now]) => {
              const [mark, tone] = MARKS[old === undefined ? 0 : now === undefined ? 2 : 1]
              return html`<dt key=${path}><${Badge} tone=${tone}>${mark}<//> <span class="code">${path}</span></dt><dd class="code">${old !== undefined && html`<del>${old}</del> `}${now !== undefined && html`<ins>${now}</ins>`}</dd>`
            })}</dl>`}
        </section>
      </div>
      <p class="hint">${plural(value.folded, 'message')} from ${count(value.first)} on${value.erased ? `, ${count(value.erased)} of them erased` : ''}: the data of each laid over what was before, as a JSON merge patch (RFC 7396). What your program makes of them may be something else.</p>`}`
}
