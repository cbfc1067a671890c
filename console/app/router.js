// Routes are in the hash, `#/streams/account-1?at=4`: every view has a link that leads back to it.
import { Store, useStore } from './store.js'

function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?')
  const decode = part => { try { return decodeURIComponent(part) } catch { return part } }
  return { parts: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) }
}

const route = new Store(parse(location.hash))
addEventListener('hashchange', () => route.set(parse(location.hash)))

export const useRoute = () => useStore(route)

/** A link to a view: `to('streams', name, { at: 4 })`. */
export function to(...parts) {
  const query = typeof parts.at(-1) === 'object' ? parts.pop() : {}
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '')
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()
  return `#/${parts.map(encodeURIComponent).join('/')}${text && `?${text}`}`
}

export const go = (...parts) => { location.hash = to(...parts) }

/** Changes the query of the view that is shown, without a new entry in the history. */
export function amend(changes) {
  const { parts, query } = route.value
  const merged = { ...Object.fromEntries(query), ...changes }
  history.replaceState(null, '', to(...parts, merged))
  route.set(parse(location.hash))
}
