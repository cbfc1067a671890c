// One stream, and the log of everything.
import { html, useEffect, useMemo, useState } from './dom.js'
import { api, getJson, Problem } from './api.js'
import { AppendDialog } from './append.js'
import { StreamState } from './fold.js'
import { count } from './format.js'
import { LogView, placeOf } from './log_view.js'
import { allLog, streamLog } from './logs.js'
import { FirstMessage } from './overview.js'
import { useLook } from './poll.js'
import { go, to, useRoute } from './router.js'
import { useRights } from './session.js'
import { TrimDialog } from './trim.js'
import { Failure, Heading, Loading, Search, Tabs } from './widgets.js'

const categoryOf = name => name.split('-', 1)[0]

/** A stream's summary; an empty one has version -1. */
async function summaryOf(name, signal) {
  try {
    return await getJson(api`/v1/streams/${name}`, { signal })
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return { version: -1, first_position: 0 }
    throw error
  }
}

export function Stream({ name }) {
  const log = useMemo(() => streamLog(name), [name])
  const [version, setVersion] = useState()
  const [isTrimming, setIsTrimming] = useState(false)
  const [isAppending, setIsAppending] = useState(false)
  const [trims, setTrims] = useState(0)
  const rights = useRights()
  const tab = useRoute().query.get('tab') ?? 'messages'
  const summary = useLook(signal => summaryOf(name, signal), [name], 5_000)
  const { value, again } = summary
  const shown = tab === 'state' ? value?.version : version
  const hasMessages = shown >= 0
  const category = categoryOf(name)
  const trimmed = value?.first_position ?? 0
  return html`
    <${Heading} trail=${[['Streams', to('streams')], [category, to('categories', category)]]} title=${name}>
      ${shown !== undefined && html`<span class="muted">${shown < 0 ? 'empty' : `version ${count(shown)}`}${trimmed > 0 ? ` · begins at ${count(trimmed)}` : ''}</span>`}
      ${rights.append(name) && html`<button onClick=${() => setIsAppending(true)}>Append…</button>`}
      ${hasMessages && rights.admin && html`<button onClick=${() => setIsTrimming(true)}>Trim…</button>`}
    <//>
    <${Tabs} label="Parts of the stream" current=${tab} tabs=${[['messages', 'Messages', to('streams', name)], ['state', 'State', to('streams', name, { tab: 'state' })]]} />
    ${tab === 'state' ? summary.value && html`<${StreamState} stream=${name} version=${summary.value.version} />` : html`<${LogView} key=${`${name} ${trims}`} log=${log} onVersion=${setVersion} trimmed=${trimmed}><${FirstMessage} stream=${name} /><//>`}
    ${isAppending && html`<${AppendDialog} stream=${name} onDone=${() => {}} onClose=${() => setIsAppending(false)} />`}
    ${isTrimming && html`<${TrimDialog} stream=${name} onDone=${() => { setTrims(trims + 1); again() }} onClose=${() => setIsTrimming(false)} />`}`
}

export function Log() {
  const log = useMemo(allLog, [])
  const rights = useRights()
  const [isAppending, setIsAppending] = useState(false)
  return html`
    <${Heading} title="Log">
      ${rights.appendSomething && html`<button onClick=${() => setIsAppending(true)}>Append…</button>`}
      <${Search} label="Find by id" placeholder="Message id" value="" onChange=${id => id.trim() && go('messages', id.trim())} isCode=${true} delay=${600} />
    <//>
    ${isAppending && html`<${AppendDialog} onDone=${name => go('streams', name)} onClose=${() => setIsAppending(false)} />`}
    <${LogView} log=${log} withStream=${true}><${FirstMessage} /><//>`
}

/** A message by its id: goes on to its place in its stream. */
export function MessageById({ id }) {
  const { value, error, again } = useLook(signal => placeOf(id, signal), [id])
  useEffect(() => { if (value) location.replace(to('streams', value.stream_name, { at: value.position })) }, [value])
  return html`
    <${Heading} trail=${[['Log', to('log')]]} title="Message" />
    ${error ? html`<${Failure} error=${error} again=${again} />` : html`<${Loading} />`}`
}

