// One stream, and the log of everything.
import { html, useEffect, useMemo, useState } from './dom.js'
import { api, getJson } from './api.js'
import { count } from './format.js'
import { LogView, placeOf } from './log_view.js'
import { allLog, streamLog } from './logs.js'
import { FirstMessage } from './overview.js'
import { useLook } from './poll.js'
import { go, to } from './router.js'
import { useRights } from './session.js'
import { TrimDialog } from './trim.js'
import { Failure, Heading, Loading, Search } from './widgets.js'

const categoryOf = name => name.split('-', 1)[0]

export function Stream({ name }) {
  const log = useMemo(() => streamLog(name), [name])
  const [version, setVersion] = useState()
  const [isTrimming, setIsTrimming] = useState(false)
  const [trims, setTrims] = useState(0)
  const hasMessages = version >= 0
  const rights = useRights()
  const { value, again } = useLook(async signal => (hasMessages ? getJson(api`/v1/streams/${name}`, { signal }) : null), [name, hasMessages], 5_000)
  const category = categoryOf(name)
  const trimmed = value?.first_position ?? 0
  return html`
    <${Heading} trail=${[['Streams', to('streams')], [category, to('categories', category)]]} title=${name}>
      ${version !== undefined && html`<span class="muted">${version < 0 ? 'empty' : `version ${count(version)}`}${trimmed > 0 ? ` · begins at ${count(trimmed)}` : ''}</span>`}
      ${hasMessages && rights.admin && html`<button onClick=${() => setIsTrimming(true)}>Trim…</button>`}
    <//>
    <${LogView} key=${`${name} ${trims}`} log=${log} onVersion=${setVersion} trimmed=${trimmed}><${FirstMessage} stream=${name} /><//>
    ${isTrimming && html`<${TrimDialog} stream=${name} onDone=${() => { setTrims(trims + 1); again() }} onClose=${() => setIsTrimming(false)} />`}`
}

export function Log() {
  const log = useMemo(allLog, [])
  return html`
    <${Heading} title="Log">
      <${Search} label="Find by id" placeholder="Message id" value="" onChange=${id => id.trim() && go('messages', id.trim())} isCode=${true} delay=${600} />
    <//>
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

