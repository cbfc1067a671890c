// A TCP proxy between the browser and the service: it cuts connections, loses answers, says nothing, and keeps what was asked over each.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'

/** Passes everything on to the service at `url`. `requests` holds the beginnings of what clients have sent. */
export async function startProxy(url) {
  const { hostname, port } = new URL(url)
  const open = new Set()
  const requests = []
  const silent = new Set()
  let losing, isSilent = false
  const server = createServer(client => {
    if (isSilent) return silent.add(client.on('error', () => {}))
    const upstream = connect({ host: hostname, port: Number(port) })
    const ends = [client, upstream]
    const close = () => {
      for (const end of ends) end.destroy()
      open.delete(ends)
    }
    open.add(ends)
    client.on('data', data => {
      const text = data.toString('latin1').slice(0, 4_096)
      requests.push(text)
      if (!losing || !text.includes(losing)) return
      losing = undefined
      upstream.unpipe(client).once('data', () => client.resetAndDestroy()).resume()
    })
    for (const end of ends) end.on('error', close).on('close', close)
    client.pipe(upstream).pipe(client)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    /** Of the next request that has this text, the service's answer is lost, and the connection with it. */
    loseAnswerTo(text) {
      losing = text
    },
    /** Whether connections are taken and nothing is said on them. */
    setSilent(is) {
      isSilent = is
    },
    /** Cuts what is open, in the middle of whatever is under way. */
    cut() {
      for (const ends of open) for (const end of ends) end.resetAndDestroy()
    },
    async stop() {
      this.cut()
      for (const client of silent) client.destroy()
      await new Promise(resolve => server.close(resolve))
    },
  }
}
