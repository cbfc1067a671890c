// Values that several views watch, and what is kept from visit to visit.
import { useEffect, useState } from './dom.js'

/** A value with watchers. */
export class Store {
  #watchers = new Set()
  constructor(value) { this.value = value }
  set(value) {
    if (Object.is(value, this.value)) return
    this.value = value
    for (const watcher of [...this.#watchers]) watcher(value)
  }
  watch(watcher) {
    this.#watchers.add(watcher)
    return () => this.#watchers.delete(watcher)
  }
}

export function useStore(store) {
  const [value, setValue] = useState(store.value)
  useEffect(() => {
    setValue(() => store.value)
    return store.watch(value => setValue(() => value))
  }, [store])
  return value
}

/** A choice that is kept in this browser. A browser that keeps nothing forgets it with the page. */
export function kept(name, fallback) {
  const key = `headwater.${name}`
  let first = fallback
  try { first = localStorage.getItem(key) ?? fallback } catch { /* no storage: the choice lasts as long as the page */ }
  const store = new Store(first)
  store.watch(value => {
    try {
      if (value === fallback) localStorage.removeItem(key)
      else localStorage.setItem(key, value)
    } catch { /* as above */ }
  })
  return store
}
