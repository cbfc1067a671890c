// Appending a message by hand.
import { html, useState } from './dom.js'
import { api, getJson, Problem } from './api.js'
import { Dialog, PreviewBox, usePreview } from './dialog.js'
import { Json, jsonFault, Text, Tick } from './fields.js'
import { count } from './format.js'

/** The version of a stream: -1 while it is empty. */
async function versionOf(stream, signal) {
  try {
    return (await getJson(api`/v1/streams/${stream}`, { signal })).version
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return -1
    throw error
  }
}

/** `onDone` gets the stream's name and the answer. */
export function AppendDialog({ stream = '', type: firstType = '', onDone, onClose }) {
  const [name, setName] = useState(stream)
  const [type, setType] = useState(firstType)
  const [data, setData] = useState('{\n  \n}')
  const [metadata, setMetadata] = useState('')
  const [isExpected, setIsExpected] = useState(true)
  const look = usePreview(name && (signal => versionOf(name, signal)), [name])
  const fault = jsonFault(data) ?? (metadata.trim() && jsonFault(metadata))
  const version = look.preview
  const isReady = Boolean(name && type.trim() && !fault && version !== undefined)
  // As text: the digits of what is typed are kept.
  const expected = isExpected && version !== undefined ? `"expected_version":${version},` : ''
  const text = `{${expected}"messages":[{"type":${JSON.stringify(type.trim())},"data":${data.trim()}${metadata.trim() ? `,"metadata":${metadata.trim()}` : ''}}]}`
  return html`
    <${Dialog} title="Append a message" action="Append" isReady=${isReady} request=${{ method: 'POST', path: api`/v1/streams/${name}/messages`, text }}
      onDone=${answer => { onDone(name, answer); onClose() }} onClose=${onClose}>
      <${Text} label="Stream" value=${name} onChange=${setName} placeholder="order-1" isDisabled=${Boolean(stream)} isCode=${true} />
      <${Text} label="Type" value=${type} onChange=${setType} placeholder="OrderPlaced" isCode=${true} />
      <${Json} label="Data" value=${data} onChange=${setData} />
      <${Json} label="Metadata" value=${metadata} onChange=${setMetadata} rows=${2} />
      <${Tick} label="Only if nobody has appended to the stream meanwhile" value=${isExpected} onChange=${setIsExpected} />
      <${PreviewBox} look=${look} waits=${name ? 'Looking' : 'Where it goes is shown here first.'}>${version => html`
        <p>${fault ? html`<span class="tone-bad">This is no JSON: ${fault}</span>` : html`It will be at position <b>${count(version + 1)}</b> of <span class="name">${name}</span>${version < 0 ? ', which is empty' : `, whose version is ${count(version)}`}${isExpected ? ', or it is refused' : ' or a later one'}.`}</p>
        <p class="hint">Computed from what can be read now. A message stays as it is; it can only be erased.</p>`}<//>
    <//>`
}
