// The choice between the system's colours, light and dark.
import { kept } from './store.js'

export const THEMES = ['system', 'light', 'dark']
export const theme = kept('theme', 'system')

const apply = choice => {
  if (choice === 'system') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = choice
}
apply(theme.value)
theme.watch(apply)

export const nextTheme = () => theme.set(THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length])
