// Preact, its hooks and htm under one name, so that views import from one place.
import { h, render, Fragment } from '../vendor/preact/preact.js'
import htm from '../vendor/htm/htm.js'

export { render, Fragment }
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../vendor/preact/hooks.js'
export const html = htm.bind(h)

/** Class names of which some are conditional. */
export const classes = (...names) => names.filter(Boolean).join(' ')
