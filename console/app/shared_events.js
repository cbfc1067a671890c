// Event streams, of which all tabs of a browser with the same rights have one connection.
import { SharedEventSource } from '/headwater.js'
import { Problem, send } from './api.js'
import { session } from './session.js'

/** Follows a path of the API with the rights of who is signed in. See `SharedEventSource`. */
export function sharedEvents(path) {
  const { state, caller } = session.value
  if (state !== 'in') return new SharedEventSource(path)
  return new SharedEventSource(path, { group: JSON.stringify([caller.credential, caller.scopes]), ticket: () => ticketFor(caller) })
}

/** A ticket for all that the caller may read; `null` where the service gives none. */
async function ticketFor({ scopes }) {
  const mayRead = scopes.includes('admin') ? ['read:*'] : scopes.filter(scope => scope.startsWith('read:'))
  try {
    return await send('POST', '/v1/tickets', { scopes: mayRead })
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 429 || error.status >= 500) throw error
    return null
  }
}
