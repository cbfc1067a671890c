// The colours: the system's unless another choice is kept. Runs before the first paint.
;(() => {
  const kept = (() => { try { return localStorage.getItem('headwater.theme') } catch { return null } })()
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept
})()
