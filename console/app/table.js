// Tables: on a narrow screen each row becomes a block, in which every value has its label.
import { classes, html } from './dom.js'

/**
 * `columns`: { label, cell, kind, tone } each, with `cell(row)` what is shown and `kind` 'name' (the row's own), 'num', 'tick', 'actions'
 * or nothing; what is not given is left out. `head` gives what stands in place of a label.
 */
export function Table({ label, columns, rows, keyOf, isSelected }) {
  const shown = columns.filter(Boolean)
  return html`
    <div class="scroll"><table class="table" aria-label=${label}>
      <thead><tr>${shown.map(({ label, kind, head }) => html`<th key=${label} class=${kind ?? ''}>${head ?? label}</th>`)}</tr></thead>
      <tbody>${rows.map(row => html`
        <tr key=${keyOf(row)} aria-selected=${isSelected?.(row)}>
          ${shown.map(({ label, cell, kind, tone }) => html`<td key=${label} class=${classes(kind, tone)} data-label=${label}>${cell(row)}</td>`)}
        </tr>`)}
      </tbody>
    </table></div>`
}
