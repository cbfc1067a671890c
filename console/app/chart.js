// Charts over time (uPlot) and small lines in tables, in the page's own colours.
import uPlot from '../vendor/uplot/uPlot.js'
import { html, useEffect, useLayoutEffect, useRef, useState } from './dom.js'
import { theme } from './theme_choice.js'
import { kept, useStore } from './store.js'

/** How much of the past charts show, in seconds. */
const SPANS = [['600', '10 min'], ['3600', '1 h'], ['21600', '6 h']]
const span = kept('span', '21600')

export function Spans() {
  const chosen = useStore(span)
  return html`<span class="spans" role="group" aria-label="How much the charts show">${SPANS.map(([value, text]) => html`
    <button key=${value} aria-pressed=${chosen === value} onClick=${() => span.set(value)}>${text}</button>`)}</span>`
}

/** The colours in use, as the browser computes them from the style sheet. */
export function colours(element) {
  const probe = document.createElement('span')
  element.append(probe)
  const found = {}
  for (const name of ['accent', 'muted', 'faint', 'line', 'warn']) {
    probe.className = `ink-${name}`
    found[name] = getComputedStyle(probe).color
  }
  probe.remove()
  return found
}

const withAlpha = (colour, alpha) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`)

/** Raised when the colours change: by choice or by the system. */
function useThemeChange() {
  const choice = useStore(theme)
  const [system, setSystem] = useState(0)
  useEffect(() => {
    const dark = matchMedia('(prefers-color-scheme: dark)')
    const onChange = () => setSystem(value => value + 1)
    dark.addEventListener('change', onChange)
    return () => dark.removeEventListener('change', onChange)
  }, [])
  return `${choice} ${system}`
}

function optionsOf({ series, format, floor }, ink, size, setAt) {
  const axis = { stroke: ink.muted, font: '11px system-ui, sans-serif', ticks: { show: false }, grid: { stroke: ink.line, width: 1 } }
  return {
    ...size,
    padding: [6, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      // The present is at the right end; a young line grows from there.
      x: { time: true, range: (_, low, high) => [Math.max(high - Number(span.value), Math.min(low, high - 60)), high] },
      y: { range: (_, low, high) => [0, Math.max(high * 1.12, floor)] },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 80, size: 24, values: (_, ticks) => ticks.map(tick => new Date(tick * 1000).toTimeString().slice(0, tick % 60 ? 8 : 5)) },
      { ...axis, space: 26, size: 58, gap: 6, values: (_, ticks) => ticks.map(tick => (tick === 0 ? '0' : format(tick))) },
    ],
    series: [{}, ...series.map(one => ({
      label: one.label,
      stroke: ink[one.ink],
      width: one.width ?? 1.5,
      dash: one.dash,
      fill: one.fill ? withAlpha(ink[one.ink], 0.1) : undefined,
      points: { show: false },
      spanGaps: false,
    }))],
    hooks: { setCursor: [chart => setAt(chart.cursor.idx ?? null)] },
  }
}

/** `series`: [{ label, values, ink, fill, dash }]; `times` in seconds; `floor`: what the scale shows at least. The heading shows the value under the pointer. */
export function Chart({ title, times, series, format, floor = 0.001, height = 150, note }) {
  const holder = useRef(null)
  const chart = useRef(null)
  const [at, setAt] = useState(null)
  const colour = useThemeChange()
  const shape = `${series.map(one => one.label).join()} ${useStore(span)}`

  useLayoutEffect(() => {
    const element = holder.current
    const size = () => ({ width: Math.max(element.clientWidth, 120), height })
    chart.current = new uPlot(optionsOf({ series, format, floor }, colours(element), size(), setAt), [times, ...series.map(one => one.values)], element)
    const resized = new ResizeObserver(() => chart.current?.setSize(size()))
    resized.observe(element)
    return () => {
      resized.disconnect()
      chart.current.destroy()
      chart.current = null
    }
  }, [shape, colour, height])

  useEffect(() => { chart.current?.setData([times, ...series.map(one => one.values)]) }, [times])

  const shown = at !== null && at < times.length ? at : times.length - 1
  return html`
    <figure class="chart">
      <figcaption>
        <h3>${title}</h3>
        <span class="chart-keys">
          ${series.map(one => html`<span class="chart-key" key=${one.label}>
            <i class=${`swatch ink-${one.ink} ${one.dash ? 'dashed' : ''}`} />${one.label}
            <b>${valueText(one.values[shown], format)}</b></span>`)}
        </span>
      </figcaption>
      <div class="chart-body" ref=${holder} />
      ${note && html`<p class="chart-note">${note}</p>`}
    </figure>`
}

const valueText = (value, format) => (value === null || value === undefined ? '–' : format(value))

/** A small line of the last values, scaled to `max` or to its own highest. */
export function Spark({ values, max, width = 120, height = 22, label }) {
  const canvas = useRef(null)
  const colour = useThemeChange()
  useLayoutEffect(() => {
    const element = canvas.current
    const ratio = devicePixelRatio || 1
    element.width = width * ratio
    element.height = height * ratio
    const pen = element.getContext('2d')
    pen.scale(ratio, ratio)
    const ink = colours(element.parentElement)
    const top = Math.max(max ?? 0, ...values.filter(value => value !== null), 1)
    const x = index => width - 1 - (values.length - 1 - index) * ((width - 2) / Math.max(values.length - 1, 59))
    const y = value => height - 1.5 - (value / top) * (height - 4)
    pen.fillStyle = ink.line
    pen.fillRect(0, height - 1, width, 1)
    pen.beginPath()
    values.forEach((value, index) => { if (value !== null) pen.lineTo(x(index), y(value)) })
    pen.strokeStyle = ink.accent
    pen.lineWidth = 1.25
    pen.stroke()
    if (values.length > 1) {
      pen.lineTo(x(values.length - 1), height)
      pen.lineTo(x(0), height)
      pen.fillStyle = withAlpha(ink.accent, 0.12)
      pen.fill()
    }
  }, [values, max, width, height, colour])
  return html`<canvas class="spark" ref=${canvas} role="img" aria-label=${label} style=${`width:${width}px;height:${height}px`} />`
}
