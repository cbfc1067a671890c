-- How often each of these deliveries has failed, and how often it was made: both decide what becomes of its message
-- (domain/delivery.rs). NULL where there is no such delivery under that epoch.
CREATE OR REPLACE FUNCTION headwater.subscription_attempts(
  _subscriptions bigint[],
  _partitions integer[],
  _positions bigint[],
  _epochs bigint[]
)
RETURNS TABLE (number bigint, failures integer, deliveries integer)
LANGUAGE sql STABLE
AS $$
  SELECT l.number, coalesce(d.attempts - 1, k.failures), coalesce(d.attempts, k.deliveries)
  FROM unnest(_subscriptions, _partitions, _positions, _epochs) WITH ORDINALITY
    AS l (subscription_id, partition, position, epoch, number)
  LEFT JOIN headwater.subscription_deliveries AS d
    ON d.subscription_id = l.subscription_id AND d.partition = l.partition AND d.position = l.position
    AND d.epoch = l.epoch
  LEFT JOIN headwater.subscription_partitions AS p
    ON p.subscription_id = l.subscription_id AND p.partition = l.partition AND p.epoch = l.epoch
  LEFT JOIN LATERAL unnest(p.unacked_positions, p.unacked_failures, p.unacked_counts)
    AS k (position, failures, deliveries)
    ON k.position = l.position AND k.position <= p.read_up_to
$$;
