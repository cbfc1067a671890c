// What a subscription's status says, in the terms of the views.

/** A duration such as "1.5s", "500ms" or a number of seconds, in seconds. */
export function seconds(value) {
  if (value === null || value === undefined) return null
  if (typeof value === 'number') return value
  let sum = 0
  for (const [, number, unit] of value.matchAll(/([\d.]+)\s*(ns|us|µs|ms|s|m|h|d)/g)) {
    sum += Number(number) * { ns: 1e-9, us: 1e-6, µs: 1e-6, ms: 1e-3, s: 1, m: 60, h: 3_600, d: 86_400 }[unit]
  }
  return sum
}

const numberOf = value => (Array.isArray(value) ? value.length : value ?? null)

/** One partition: its consumer, positions, lags and the age of its oldest unacked message in seconds. */
export const partitionOf = one => ({
  partition: one.partition,
  consumer: one.consumer ?? null,
  epoch: one.epoch ?? null,
  committed: one.committed_position ?? null,
  delivered: one.delivered_position ?? null,
  lag: one.committed_lag ?? one.lag ?? null,
  deliveredLag: one.delivered_lag ?? null,
  oldest: seconds(one.oldest_unacked_age),
})

/** All partitions together. */
export function totals(status) {
  const partitions = (status?.partitions ?? []).map(partitionOf)
  const sum = field => partitions.reduce((sum, one) => sum + (one[field] ?? 0), 0)
  const ages = partitions.map(one => one.oldest).filter(age => age !== null)
  return {
    partitions,
    consumers: numberOf(status?.consumers),
    lag: status?.committed_lag ?? status?.lag ?? sum('lag'),
    deliveredLag: status?.delivered_lag ?? sum('deliveredLag'),
    oldest: ages.length ? Math.max(...ages) : null,
    parked: numberOf(status?.parked ?? status?.parked_count),
    pending: numberOf(status?.pending ?? status?.pending_count),
  }
}
