// Who is signed in: an API key or a JWT, kept for this tab only, and what it may do.
import { useMemo } from './dom.js'
import { Store, useStore } from './store.js'

const KEPT = 'headwater.credential'
const AGAIN_MS = 1_000

let credential = null
try { credential = sessionStorage.getItem(KEPT) } catch { /* no storage: it lasts as long as the page */ }

/**
 * `state`: 'unknown' until the service has answered, 'open' where it asks for no credential, 'in', or 'out'; `caller` is what
 * the service says of the credential, `refusal` why it was not taken.
 */
export const session = new Store({ state: 'unknown', caller: null, refusal: null })

/** The headers that go with every request. */
export const authorization = () => (credential ? { authorization: `Bearer ${credential}` } : {})

function keep(next) {
  credential = next
  try {
    if (next) sessionStorage.setItem(KEPT, next)
    else sessionStorage.removeItem(KEPT)
  } catch { /* as above */ }
}

/** Asks the service whose credential it is. */
async function look() {
  const asked = credential
  let response, document
  try {
    response = await fetch('/v1/caller', { headers: authorization(), cache: 'no-store' })
    document = await response.json()
  } catch {
    throw new Error('The service cannot be reached.')
  }
  if (asked !== credential) return
  if (response.ok) return session.set({ state: document.credential === null ? 'open' : 'in', caller: document, refusal: null })
  if (response.status !== 401) throw new Error(document.detail)
  keep(null)
  session.set({ state: 'out', caller: null, refusal: asked && document.detail })
}

/** Looks until the service has answered. */
export async function startSession() {
  try {
    await look()
  } catch {
    if (session.value.state === 'unknown') setTimeout(startSession, AGAIN_MS)
  }
}

/** Signs in; throws if the service cannot say whose credential it is. */
export async function signIn(text) {
  const key = text.trim()
  if (!/^[!-~]+$/.test(key)) throw new Error('A key has letters, digits and signs of ASCII only: this has others.')
  keep(key)
  try {
    await look()
  } catch (error) {
    keep(null)
    throw error
  }
}

export function signOut(refusal = null) {
  keep(null)
  session.set({ state: 'out', caller: null, refusal })
}

/** A request was refused for want of a credential: it has expired, or was revoked. */
export function noteRefused() {
  if (session.value.state === 'in') signOut('The credential has expired, or was revoked.')
  else if (session.value.state === 'open') startSession()
}

const escaped = text => text.replace(/[.+?^${}()|[\]\\]/g, '\\$&')
const fits = (pattern, name) => new RegExp(`^${pattern.split('*').map(escaped).join('.*')}$`, 's').test(name)

/** What scopes allow, as far as a view has to know before it asks. */
export function rightsOf(scopes) {
  const patterns = verb => scopes.filter(scope => scope.startsWith(`${verb}:`)).map(scope => scope.slice(verb.length + 1))
  const admin = scopes.includes('admin')
  const [read, append, subscribe] = [patterns('read'), patterns('append'), patterns('subscribe')]
  return {
    admin,
    /** Reports and metrics are of all streams. */
    readEverything: admin || read.includes('*'),
    readSomething: admin || read.length > 0,
    append: stream => admin || append.some(pattern => fits(pattern, stream)),
    appendSomething: admin || append.length > 0,
    subscribeSomething: admin || subscribe.length > 0,
    subscribe: name => admin || subscribe.some(pattern => fits(pattern, name)),
  }
}

export function useRights() {
  const { caller } = useStore(session)
  return useMemo(() => rightsOf(caller?.scopes ?? []), [caller])
}
