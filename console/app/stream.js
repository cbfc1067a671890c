// One stream, and the log of everything.
import { html, useEffect, useMemo, useState } from './dom.js'
import { getJson, query } from './api.js'
import { count } from './format.js'
import { LogView, placeOf } from './log_view.js'
import { allLog, streamLog } from './logs.js'
import { FirstMessage } from './overview.js'
import { useLook } from './poll.js'
import { go, to } from './router.js'
import { Failure, Heading, Loading, Search } from './widgets.js'

const categoryOf = name => name.split('-', 1)[0]

export function Stream({ name }) {
  const log = useMemo(() => streamLog(name), [name])
  const [version, setVersion] = useState()
  const { value } = useLook(signal => getJson(query('/v1/reports/streams', { prefix: name, from: name, limit: 1 }), { signal }), [name])
  const line = value?.streams.find(line => line.stream_name === name)
  const category = categoryOf(name)
  return html`
    <${Heading} trail=${[['Streams', to('streams')], [category, to('categories', category)]]} title=${name}>
      ${version !== undefined && html`<span class="muted">${version < 0 ? 'empty' : `version ${count(version)}`}${line?.first_position > 0 ? ` · begins at ${count(line.first_position)}` : ''}</span>`}
    <//>
    <${LogView} key=${name} log=${log} onVersion=${setVersion}><${FirstMessage} stream=${name} /><//>`
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

