// Taking over what consumers of a competing subscription have left.
import { html, useState } from './dom.js'
import { getJson, query } from './api.js'
import { Dialog, PreviewBox, usePreview } from './dialog.js'
import { given, Text, wholeOf } from './fields.js'
import { plural } from './format.js'

/** Messages that are looked at, and taken over at once. */
const CLAIM_MAX = 100

const isDuration = text => /^(0|\d{1,9}(ms|s|m|h|d))$/.test(text)

export function ClaimDialog({ name, path, onDone, onClose }) {
  const [consumer, setConsumer] = useState('')
  const [idle, setIdle] = useState('60s')
  const [limit, setLimit] = useState(String(CLAIM_MAX))
  const isUnderstood = isDuration(idle) && wholeOf(limit) > 0
  const look = usePreview(isUnderstood && (signal => getJson(query(`${path}/pending`, { min_idle: idle, limit: Math.min(wholeOf(limit), CLAIM_MAX) }), { signal })), [idle, limit])
  const body = given({ consumer: consumer.trim(), min_idle: idle, limit: wholeOf(limit) })
  return html`
    <${Dialog} title=${`Claim messages of ${name}?`} action="Claim" isReady=${Boolean(consumer.trim() && look.preview?.pending.length)} request=${{ method: 'POST', path: `${path}/claims`, body }}
      onDone=${() => { onDone(); onClose() }} onClose=${onClose}>
      <${Text} label="For consumer" value=${consumer} onChange=${setConsumer} placeholder="w1" isCode=${true} />
      <${Text} label="Pending for" value=${idle} onChange=${setIdle} placeholder="60s" isCode=${true} />
      <${Text} label="At most" value=${limit} onChange=${setLimit} isNumber=${true} />
      <${PreviewBox} look=${look} waits=${isUnderstood ? 'Looking' : 'Such as 60s or 5m.'}>${({ pending, next }) => html`
        <p>${pending.length === 0 ? 'No message has been pending for so long.' : html`<b>${next ? 'At least ' : ''}${plural(pending.length, 'message')}</b> of ${[...new Set(pending.map(one => one.consumer ?? 'nobody'))].join(', ')} would be delivered to ${consumer || 'it'}, with new epochs.`}</p>
        <p class="hint">Computed from what is pending now. That consumer gets them as the answer of this claim, so it has to fetch what it was given: acks of the consumers before count no more.</p>`}<//>
    <//>`
}
