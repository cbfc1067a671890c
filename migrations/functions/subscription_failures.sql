-- How often each of these deliveries has failed, the present time counted: what decides what becomes of it. In a
-- partition, a message that rode along behind one that failed has used up that delivery, should it fail itself. NULL where there is no such delivery under that epoch.
CREATE OR REPLACE FUNCTION headwater.subscription_failures(
  _subscriptions bigint[],
  _partitions integer[],
  _positions bigint[],
  _epochs bigint[]
)
RETURNS TABLE (number bigint, failures integer)
LANGUAGE sql STABLE
AS $$
  SELECT
    l.number,
    coalesce(
      d.attempts,
      (
        SELECT greatest(k.failures + 1, k.count)
        FROM unnest(p.known_positions, p.known_failures, p.known_counts) AS k (position, failures, count)
        WHERE k.position = l.position AND k.position <= p.read_upto
      )
    )
  FROM unnest(_subscriptions, _partitions, _positions, _epochs) WITH ORDINALITY
    AS l (subscription_id, partition, position, epoch, number)
  LEFT JOIN headwater.subscription_deliveries AS d
    ON d.subscription_id = l.subscription_id AND d.partition = l.partition AND d.position = l.position
    AND d.epoch = l.epoch
  LEFT JOIN headwater.subscription_partitions AS p
    ON p.subscription_id = l.subscription_id AND p.partition = l.partition AND p.epoch = l.epoch
$$;
