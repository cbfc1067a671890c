// The shell: navigation, connection, keys, and which view is shown.
import { classes, html, render, useEffect, useLayoutEffect, useMemo, useState } from './dom.js'
import { Aggregated, AggregatedList } from './aggregated.js'
import { connection } from './api.js'
import { attention, startAttention } from './attention.js'
import { Browse } from './browse.js'
import { duration } from './format.js'
import { Health } from './health.js'
import { HelpDialog } from './help.js'
import { Key } from './keys.js'
import { startMetrics } from './metrics.js'
import { Overview } from './overview.js'
import { Partition } from './partition_log.js'
import { useNow } from './poll.js'
import { go, to, useRoute } from './router.js'
import { session, startSession, useRights } from './session.js'
import { Access, SignIn } from './sign_in.js'
import { useStore } from './store.js'
import { Log, MessageById, Stream } from './stream.js'
import { Subscription } from './subscription.js'
import { SubscriptionList } from './subscriptions.js'
import { nextTheme, theme } from './theme_choice.js'
import { Empty, Heading, Loading } from './widgets.js'

/** Route, name, key after `g`, the first parts that belong to it, and the right that it takes. */
const SECTIONS = [
  { path: [], text: 'Overview', key: 'o', of: [undefined], right: 'readEverything' },
  { path: ['streams'], text: 'Streams', key: 's', of: ['streams', 'categories'], right: 'readSomething' },
  { path: ['log'], text: 'Log', key: 'l', of: ['log', 'messages'], right: 'readSomething' },
  { path: ['aggregated'], text: 'Aggregated', key: 'a', of: ['aggregated'] },
  { path: ['subscriptions'], text: 'Subscriptions', key: 'u', of: ['subscriptions'] },
  { path: ['health'], text: 'Health', key: 'h', of: ['health'], right: 'readEverything' },
  { path: ['access'], text: 'Access', key: 'c', of: ['access'] },
]

function View() {
  const { parts: [section, name, part, text = ''] } = useRoute()
  const rights = useRights()
  const { right, text: title } = SECTIONS.find(({ of }) => of.includes(section)) ?? {}
  if (section !== undefined && right && !rights[right]) {
    return html`<${Heading} title=${title} /><${Empty} title="This credential does not show this"><p><a href=${to('access')}>What it may do</a></p><//>`
  }
  switch (section) {
    case undefined: return html`<${Overview} />`
    case 'streams': return name === undefined ? html`<${Browse} />` : html`<${Stream} key=${name} name=${name} />`
    case 'categories': return html`<${Browse} category=${name} />`
    case 'log': return html`<${Log} />`
    case 'messages': return html`<${MessageById} id=${name ?? ''} />`
    case 'aggregated':
      if (part === 'partitions') return html`<${Partition} name=${name} number=${text} />`
      if (part === 'keys') return html`<${Key} name=${name} text=${text} />`
      return name === undefined ? html`<${AggregatedList} />` : html`<${Aggregated} key=${name} name=${name} />`
    case 'subscriptions': return name === undefined ? html`<${SubscriptionList} />` : html`<${Subscription} key=${name} name=${name} />`
    case 'health': return html`<${Health} />`
    case 'access': return html`<${Access} />`
    default: return html`<${Heading} title="Not here" /><${Empty} title="There is no such view"><p><a href="#/">To the overview</a></p><//>`
  }
}

function Navigation({ sections, onHelp }) {
  const { parts } = useRoute()
  const choice = useStore(theme)
  const waiting = useStore(attention)?.length
  return html`
    <nav class="navigation" aria-label="Sections">
      <a class="brand" href="#/"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 2.5v5.5" /><path d="M3.5 12.5c2.8-2.6 5.7-2.6 8.5 0s5.7 2.6 8.5 0" /><path d="M3.5 19c2.8-2.6 5.7-2.6 8.5 0s5.7 2.6 8.5 0" /></svg>Headwater</a>
      <ul>
        ${sections.map(({ path, text, of }) => html`
          <li key=${text}><a href=${to(...path)} aria-current=${of.includes(parts[0]) ? 'page' : undefined}>${text}${path[0] === 'health' && waiting > 0 && html` <span class="count" title="Needs attention">${waiting}</span>`}</a></li>`)}
      </ul>
      <div class="navigation-end">
        <${Connection} />
        <button class="quiet" onClick=${nextTheme} title="Colours: system, light, dark">${{ system: 'System', light: 'Light', dark: 'Dark' }[choice]} colours</button>
        <button class="quiet" onClick=${onHelp} title="Keys (?)">Keys</button>
      </div>
    </nav>`
}

const CONNECTION_TEXT = { connecting: 'Connecting', online: 'Connected', unready: 'Not ready', offline: 'Reconnecting' }

const Connection = () => {
  const { state } = useStore(connection)
  return html`<span class=${classes('connection', `is-${state}`)} role="status"><i class="dot" />${CONNECTION_TEXT[state]}</span>`
}

/** A line across the page while nothing that is shown can be new. */
function Banner() {
  const { state, heard } = useStore(connection)
  const now = useNow()
  if (state !== 'offline') return null
  return html`
    <div class="banner">
      <span role="alert">Reconnecting to the service.</span> ${heard ? `It was last heard ${duration(Math.max(Math.floor((now - heard) / 1000), 1))} ago; what is shown is from then.` : 'It has not answered yet.'}
    </div>`
}

/** Whether a key belongs to what is being typed. */
const isTyping = target => target.closest?.('input, textarea, select, dialog')

function useKeys(sections, setHelp) {
  useLayoutEffect(() => {
    let isGoing = false, timer
    const onKey = event => {
      if (event.metaKey || event.ctrlKey || event.altKey || isTyping(event.target)) return
      if (isGoing) {
        isGoing = false
        clearTimeout(timer)
        const section = sections.find(section => section.key === event.key)
        if (section) { event.preventDefault(); go(...section.path) }
        return
      }
      if (event.key === 'g') {
        isGoing = true
        timer = setTimeout(() => { isGoing = false }, 1_500)
      } else if (event.key === '/') {
        const field = document.querySelector('main [data-search]')
        if (field) { event.preventDefault(); field.focus(); field.select() }
      } else if (event.key === '?') {
        setHelp(true)
      } else {
        document.querySelector(`main [data-key="${CSS.escape(event.key)}"]`)?.click()
      }
    }
    addEventListener('keydown', onKey)
    return () => { removeEventListener('keydown', onKey); clearTimeout(timer) }
  }, [sections])
}

/** Signs in first, where the service asks for that. */
function Console() {
  const { state, caller } = useStore(session)
  useEffect(() => { startSession() }, [])
  if (state === 'out') return html`<${SignIn} />`
  // Another credential begins with nothing of what the one before has seen.
  return state === 'unknown' ? html`<main id="main"><${Banner} /><${Loading} /></main>` : html`<${SignedIn} key=${caller.credential} />`
}

function SignedIn() {
  const [help, setHelp] = useState(false)
  const { parts } = useRoute()
  const rights = useRights()
  const sections = useMemo(() => SECTIONS.filter(({ right }) => !right || rights[right]), [rights])
  useKeys(sections, setHelp)
  useEffect(() => startMetrics(rights.readEverything), [rights])
  useEffect(() => startAttention(rights), [rights])
  useEffect(() => {
    // The overview is of all streams: without it, the log, or what there is to consume, comes first.
    if (parts.length === 0 && !rights.readEverything) location.replace(to(rights.readSomething ? 'log' : 'subscriptions'))
  }, [parts.length, rights])
  useEffect(() => { scrollTo(0, 0) }, [parts.join('/')])
  return html`
    <a class="skip" href="#main" onClick=${event => { event.preventDefault(); document.querySelector('main').focus() }}>Skip to the content</a>
    <${Navigation} sections=${sections} onHelp=${() => setHelp(true)} />
    <main id="main" tabindex="-1">
      <${Banner} />
      <${View} />
    </main>
    <${HelpDialog} isOpen=${help} onClose=${() => setHelp(false)} sections=${sections} />`
}

render(html`<${Console} />`, document.querySelector('#app'))
