// Routes are in the hash, `#/streams/order-1?at=4`: every view has a link that leads back to it.
import { Store, useStore } from './store.js'

function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?')
  const decode = part => { try { return decodeURIComponent(part) } catch { return part } }
  return { parts: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) }
}

/** `visit` counts the links that were followed, back and forth as well; what `amend` changes is the same visit. */
const route = new Store({ ...parse(location.hash), visit: 0 })
addEventListener('hashchange', () => route.set({ ...parse(location.hash), visit: route.value.visit + 1 }))

export const useRoute = () => useStore(route)

/** A link to a view: `to('streams', name, { at: 4 })`. */
export function to(...parts) {
  const query = typeof parts.at(-1) === 'object' ? parts.pop() : {}
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '')
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()
  return `#/${parts.map(encodeURIComponent).join('/')}${text && `?${text}`}`
}

/** A link to the view that is shown, with changes of its query. */
export function here(changes) {
  const { parts, query } = route.value
  return to(...parts, { ...Object.fromEntries(query), ...changes })
}

export const go = (...parts) => { location.hash = to(...parts) }

/** Changes the query of the view that is shown, without a new entry in the history. */
export function amend(changes) {
  history.replaceState(null, '', here(changes))
  route.set({ ...parse(location.hash), visit: route.value.visit })
}
