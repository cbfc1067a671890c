// What a subscription's status says, in the terms of the views.
import { valueOf } from './metrics.js'

/** The lags of a list's subscriptions, which the metrics have for the first hundred by name. */
export const measured = (reading, name) => ({
  lag: valueOf(reading, 'headwater_subscription_committed_lag', { subscription: name }),
  consumers: valueOf(reading, 'headwater_subscription_consumers', { subscription: name }),
  oldest: valueOf(reading, 'headwater_subscription_oldest_unacked_age', { subscription: name }),
})

/** Why a subscription does not go on by itself; null if it does. */
export function reasonOf({ state, stopped }) {
  if (state === 'source_deleted') return 'The aggregated stream that it consumes has been deleted.'
  if (!stopped) return null
  if (stopped.position === null) return `It has stopped: ${stopped.reason}.`
  const cause = stopped.cause === 'exhausted' ? 'was delivered as often as allowed' : 'was refused by its consumer'
  return `It has stopped before position ${stopped.position} of partition ${stopped.partition}, which ${cause}${stopped.reason ? `: ${stopped.reason}` : '.'}`
}
