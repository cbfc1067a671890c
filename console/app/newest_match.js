// The newest message that a definition would select: what a form can show before anything is made.
import { html } from './dom.js'
import { api, getText, Problem, query } from './api.js'
import { clock } from './format.js'
import { pageOf } from './json_text.js'
import { to } from './router.js'

/** Which log to look at for a source of a subscription; null if that cannot be said by one read. */
function logOf({ stream_name, category, all }) {
  if (stream_name) return api`/v1/streams/${stream_name}/messages`
  if (category) return api`/v1/categories/${category}/messages`
  return all ? '/v1/all/messages' : null
}

/** The newest message of each source that passes: at most one message each, and at most `SOURCES_MAX` sources. */
const SOURCES_MAX = 5

/** `sources` as subscriptions have them. Answers `{ message }`, null if none was found, or `{ isUnknown }`. */
export async function newestMatch(sources, { types = [], filter }, signal) {
  const paths = sources.slice(0, SOURCES_MAX).map(logOf)
  if (paths.length === 0 || paths.includes(null)) return { isUnknown: true }
  const found = await Promise.all(paths.map(async path => {
    try {
      return pageOf(await getText(query(path, { direction: 'backward', limit: 1, types: types.join(',') || undefined, filter: filter || undefined }), { signal })).messages[0]
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return undefined
      throw error
    }
  }))
  const message = found.filter(Boolean).sort((a, b) => b.global_position - a.global_position)[0]
  return { message: message ?? null }
}

export const Newest = ({ preview: { message, isUnknown } }) => html`
  ${isUnknown ? html`<p>What it would get cannot be shown here before it is made.</p>`
    : message ? html`<p>The newest message that it would get: <a href=${to('streams', message.stream_name, { at: message.position })} target="_blank" rel="noreferrer">${message.type} in ${message.stream_name}</a>, ${clock(message.time)}.</p>`
      : html`<p class="tone-warn">No message that was looked at would go into it: it would wait for the first.</p>`}
  <p class="hint">Computed from what can be read now.</p>`
