// Signing in, and who may do what.
import { html, useEffect, useRef, useState } from './dom.js'
import { getJson } from './api.js'
import { Confirm, Dialog } from './dialog.js'
import { ago } from './format.js'
import { useLook, useNow } from './poll.js'
import { session, signIn, signOut, useRights } from './session.js'
import { useStore } from './store.js'
import { Table } from './table.js'
import { Badge, Command, Copy, Empty, Failure, Heading, Loading } from './widgets.js'

export function SignIn() {
  const { refusal } = useStore(session)
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState(null)
  const field = useRef(null)
  useEffect(() => { document.title = 'Sign in · Headwater'; field.current.focus() }, [])
  const press = async event => {
    event.preventDefault()
    setBusy(true)
    setError(null)
    try {
      await signIn(field.current.value)
    } catch (error) {
      setError(error)
    }
    setBusy(false)
  }
  return html`
    <main class="sign-in" id="main" tabindex="-1">
      <h1>Headwater</h1>
      <form onSubmit=${press}>
        <label for="credential">API key or JWT</label>
        <input id="credential" ref=${field} type="password" class="code" autocomplete="off" spellcheck="false" required />
        <button class="primary" disabled=${busy}>Sign in</button>
      </form>
      ${refusal && html`<div class="failure" role="alert"><p>${refusal}</p></div>`}
      <${Failure} error=${error} />
      <p class="hint">It is kept for this tab only, and sent to this service only. The first key is made where the service runs:</p>
      <${Command} lines=${['headwater keys create --name me --scope admin']} />
    </main>`
}

const MEANINGS = [
  ['read', 'read and follow streams'], ['append', 'append to streams'],
  ['subscribe', 'use subscriptions and aggregated streams of these names, where all of their source may be read'],
]

/** Scopes in words. */
function Scopes({ scopes }) {
  if (scopes.includes('admin')) return html`<p>May do everything.</p>`
  return html`
    <dl class="facts">${MEANINGS.map(([verb, text]) => {
      const patterns = scopes.filter(scope => scope.startsWith(`${verb}:`)).map(scope => scope.slice(verb.length + 1))
      return html`<dt key=${verb}>May ${text}</dt><dd>${patterns.length ? patterns.map((pattern, n) => html`${n > 0 && ', '}<span class="code">${pattern}</span>`) : html`<span class="muted">none</span>`}</dd>`
    })}</dl>`
}

export function Access() {
  const { state, caller } = useStore(session)
  const rights = useRights()
  return html`
    <${Heading} title="Access" path="/v1/caller">${state === 'in' && html`<button onClick=${() => signOut()}>Sign out</button>`}<//>
    ${state === 'open'
      ? html`<div class="failure" role="alert"><p>Credentials are off: everybody who reaches this address may do everything.</p></div>`
      : html`
        <p>Signed in as <b>${caller.credential}</b>${caller.expires_at && html`, until ${new Date(caller.expires_at).toLocaleString()}`}.</p>
        <${Scopes} scopes=${caller.scopes} />`}
    ${rights.admin && html`<${ApiKeys} />`}`
}

const KEYS_SHOWN = 1_000
const TONES = { active: 'good', expired: 'plain', revoked: 'plain' }

function ApiKeys() {
  const { value, error, again } = useLook(signal => getJson(`/v1/keys?limit=${KEYS_SHOWN}`, { signal }), [], 5_000)
  const [ask, setAsk] = useState(null)
  const [isMaking, setIsMaking] = useState(false)
  const now = useNow(5_000)
  const revoke = ({ id, name }) => setAsk({
    title: `Revoke ${name}?`, action: 'Revoke', danger: true,
    text: 'For good. Whoever uses it is refused from now on; event streams that were opened with it end within five seconds.',
    request: { method: 'DELETE', path: `/v1/keys/${id}` }, done: again,
  })
  return html`
    <section class="part">
      <h3>API keys <button onClick=${() => setIsMaking(true)}>New key…</button></h3>
      <${Failure} error=${error} again=${again} />
      ${!value ? !error && html`<${Loading} lines=${3} />` : value.keys.length === 0 ? html`<${Empty} title="No API key yet" />` : html`
        <${Table} label="API keys" rows=${value.keys} keyOf=${key => key.id} columns=${[
          { label: 'Name', kind: 'name', cell: key => key.name },
          { label: 'State', cell: key => html`<${Badge} tone=${TONES[key.state]}>${key.state}<//>` },
          { label: 'Scopes', tone: 'code', cell: key => key.scopes.join(', ') },
          { label: 'Id', tone: 'code', cell: key => key.id },
          { label: 'Made', tone: 'muted', cell: key => ago(key.created_at, now) },
          { label: 'Last used', cell: key => (key.last_used_at ? ago(key.last_used_at, now) : html`<span class="muted">never</span>`) },
          { label: 'Expires', cell: key => (key.expires_at ? new Date(key.expires_at).toLocaleDateString() : html`<span class="muted">never</span>`) },
          { label: '', kind: 'actions', cell: key => key.state === 'active' && html`<button class="quiet" onClick=${() => revoke(key)}>Revoke…</button>` },
        ]} />
        ${value.next && html`<p class="hint">The first ${KEYS_SHOWN} are shown.</p>`}`}
      ${isMaking && html`<${NewKey} onClose=${() => { setIsMaking(false); again() }} />`}
      <${Confirm} ask=${ask} onClose=${() => setAsk(null)} />
    </section>`
}

/** Makes a key, and shows it this once. */
function NewKey({ onClose }) {
  const [name, setName] = useState('')
  const [scopes, setScopes] = useState('read:*')
  const [lasts, setLasts] = useState('')
  const [made, setMade] = useState(null)
  const list = scopes.split(/[\s,]+/).filter(Boolean)
  const request = made ? undefined : { method: 'POST', path: '/v1/keys', body: { name, scopes: list, ...(lasts && { expires_in: lasts }) } }
  return html`
    <${Dialog} title=${made ? `The key of ${made.name}` : 'New API key'} action=${made ? undefined : 'Make the key'} isReady=${name.trim() && list.length > 0} request=${request} onDone=${setMade} onClose=${onClose}>
      ${made ? html`
      <p>It is shown this once: the service keeps its hash only.</p>
      <div class="command"><pre class="code">${made.key}</pre><${Copy} text=${made.key} /></div>` : html`
      <p class="field"><label for="key-name">Name</label><input id="key-name" value=${name} onInput=${event => setName(event.target.value)} /></p>
      <p class="field"><label for="key-scopes">Scopes</label><input id="key-scopes" class="code" spellcheck="false" value=${scopes} onInput=${event => setScopes(event.target.value)} /></p>
      <p class="hint">Such as <span class="code">read:order-*</span>, <span class="code">append:order-*</span>, <span class="code">subscribe:billing</span>, <span class="code">admin</span>; several with blanks between them.</p>
      <p class="field"><label for="key-lasts">Expires in</label><input id="key-lasts" placeholder="never" value=${lasts} onInput=${event => setLasts(event.target.value)} /></p>
      <p class="hint">Such as <span class="code">30d</span> or <span class="code">12h</span>.</p>`}
    <//>`
}
