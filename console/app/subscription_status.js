// What a subscription's status says, in the terms of the views.
import { valueOf } from './metrics.js'

/** The lags of a list's subscriptions, which the metrics have for the first thousand by name. */
export const measured = (reading, name) => ({
  unacked: valueOf(reading, 'headwater_subscription_committed_lag', { subscription: name }),
  consumers: valueOf(reading, 'headwater_subscription_consumers', { subscription: name }),
  oldest: valueOf(reading, 'headwater_subscription_oldest_unacked_age', { subscription: name }),
})

/** Why a subscription does not go on by itself; null if it does. */
export function reasonOf({ state, stopped }) {
  if (state === 'source_deleted') return 'The aggregated stream that it consumes has been deleted.'
  if (!stopped) return null
  return stopped.position === null ? `It has stopped: ${stopped.reason}.` : `It has stopped ${stoppedAt({ stopped })}`
}

/** Where a subscription has stopped, and why. */
export function stoppedAt({ stopped }) {
  if (!stopped || stopped.position === null) return stopped?.reason
  const cause = stopped.cause === 'exhausted' ? 'was delivered as often as allowed' : 'was refused by its consumer'
  return `before position ${stopped.position} of partition ${stopped.partition}, which ${cause}${stopped.reason ? `: ${stopped.reason}` : '.'}`
}

/** What can be done about it. */
export const adviceOf = ({ state, stopped }) => (state === 'source_deleted'
  ? 'Define an aggregated stream of that name again, or delete this subscription and create another one.'
  : stopped?.position == null ? 'Correct what is wrong and resume it.'
    : 'Correct what is wrong and resume it, which delivers the message once more; or seek its partition behind that position, which passes over it.')
