// JSON as text: a message's data is shown as it was stored, because parsing would lose digits of large numbers.

/** The index after a string that begins at `at`. */
function afterString(text, at) {
  for (let end = text.indexOf('"', at + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let slashes = 0
    while (text[end - 1 - slashes] === '\\') slashes++
    if (slashes % 2 === 0) return end + 1
  }
  return text.length
}

/** The index after a value that begins at `at`. */
function afterValue(text, at) {
  const first = text[at]
  if (first === '"') return afterString(text, at)
  if (first !== '{' && first !== '[') {
    let end = at
    while (end < text.length && !',]} \n\r\t'.includes(text[end])) end++
    return end
  }
  let depth = 0
  for (let end = at; end < text.length; end++) {
    const character = text[end]
    if (character === '"') end = afterString(text, end) - 1
    else if (character === '{' || character === '[') depth++
    else if (character === '}' || character === ']') {
      depth--
      if (depth === 0) return end + 1
    }
  }
  return text.length
}

const skipBlank = (text, at) => {
  while (' \n\r\t,:'.includes(text[at]) && at < text.length) at++
  return at
}

/** What a JSON text is: object, array, string, number, boolean, null. */
export function kindOf(text) {
  const first = text[0]
  return { '{': 'object', '[': 'array', '"': 'string', t: 'boolean', f: 'boolean', n: 'null' }[first] ?? 'number'
}

/** The entries of an object or array, as [key, text] each; the text is untouched. At most `max`. */
export function entries(text, max = Infinity) {
  const isObject = text[0] === '{'
  const found = []
  let at = skipBlank(text, 1)
  while (at < text.length - 1 && found.length < max) {
    let key = found.length
    if (isObject) {
      const end = afterString(text, at)
      key = JSON.parse(text.slice(at, end))
      at = skipBlank(text, end)
    }
    const end = afterValue(text, at)
    found.push([key, text.slice(at, end)])
    at = skipBlank(text, end)
  }
  return found
}

/** A message with `data` and `metadata` as texts. */
export function messageOf(text) {
  const message = Object.fromEntries(entries(text))
  for (const name of Object.keys(message)) {
    if (name !== 'data' && name !== 'metadata') message[name] = JSON.parse(message[name])
  }
  return message
}

/** A page with its list's items read by `itemOf` from their texts. */
export function pageOf(text, list = 'messages', itemOf = messageOf) {
  const page = Object.fromEntries(entries(text))
  for (const name of Object.keys(page)) {
    page[name] = name === list ? entries(page[name]).map(([, item]) => itemOf(item)) : JSON.parse(page[name])
  }
  return page
}

/** An object whose field `message` is a message: what partitions and subscriptions deliver. */
export function deliveryOf(text) {
  const delivery = Object.fromEntries(entries(text))
  for (const name of Object.keys(delivery)) {
    delivery[name] = name === 'message' && delivery[name] !== 'null' ? messageOf(delivery[name]) : JSON.parse(delivery[name])
  }
  return delivery
}
