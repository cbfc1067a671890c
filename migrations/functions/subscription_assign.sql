-- Spreads the partitions evenly over the consumers. A partition that has messages in flight with a consumer that is alive
-- changes hands when they are acked, or after a grace. The caller holds the lock on the row of the subscription.
CREATE OR REPLACE FUNCTION headwater.subscription_assign(_subscription bigint, _grace_ms bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _now timestamptz := clock_timestamp();
  _free integer[];
  _kept integer[];
  _wanted integer[];
  _next_owners text[];
  _given integer[];
  _given_to text[];
  _moved integer[];
  _preferred_owners text[];
BEGIN
  PERFORM FROM headwater.subscription_partitions AS s
  WHERE s.subscription_id = _subscription
  ORDER BY s.partition
  FOR UPDATE;

  WITH planned AS (
    SELECT
      s.partition,
      l.consumer AS target,
      CASE
        -- No consumer is left. The epoch stays, so that the last acks of one that has just left still count.
        WHEN l.consumer IS NULL THEN CASE WHEN s.consumer IS NOT NULL OR s.next_owner IS NOT NULL THEN 'free' END
        WHEN l.consumer = s.consumer THEN CASE WHEN s.next_owner IS NOT NULL THEN 'kept' END
        WHEN c.name IS NOT NULL AND s.unacked_positions[1] <= s.read_up_to THEN 'wanted'
        ELSE 'given'
      END AS fate,
      c.name IS NOT NULL AND s.preferred_owner IS DISTINCT FROM l.consumer AS is_moved
    FROM headwater.subscription_partitions AS s
    LEFT JOIN headwater.subscription_plan(_subscription) AS l ON l.partition = s.partition
    LEFT JOIN headwater.subscription_consumers AS c
      ON c.subscription_id = _subscription AND c.name = s.consumer AND c.expires_at > _now
    WHERE s.subscription_id = _subscription
  )
  SELECT
    array_agg(p.partition) FILTER (WHERE p.fate = 'free'),
    array_agg(p.partition) FILTER (WHERE p.fate = 'kept'),
    array_agg(p.partition) FILTER (WHERE p.fate = 'wanted'),
    array_agg(p.target) FILTER (WHERE p.fate = 'wanted'),
    array_agg(p.partition) FILTER (WHERE p.fate = 'given'),
    array_agg(p.target) FILTER (WHERE p.fate = 'given'),
    array_agg(p.partition) FILTER (WHERE p.fate IN ('wanted', 'given') AND p.is_moved),
    array_agg(p.target) FILTER (WHERE p.fate IN ('wanted', 'given') AND p.is_moved)
  INTO _free, _kept, _wanted, _next_owners, _given, _given_to, _moved, _preferred_owners
  FROM planned AS p;

  UPDATE headwater.subscription_partitions AS s
  SET consumer = NULL, next_owner = NULL, revoke_at = NULL
  WHERE s.subscription_id = _subscription AND s.partition = ANY (_free);

  UPDATE headwater.subscription_partitions AS s
  SET next_owner = NULL, revoke_at = NULL
  WHERE s.subscription_id = _subscription AND s.partition = ANY (_kept);

  UPDATE headwater.subscription_partitions AS s
  SET next_owner = n.consumer, revoke_at = coalesce(s.revoke_at, _now + _grace_ms * interval '1 millisecond')
  FROM unnest(_wanted, _next_owners) AS n (partition, consumer)
  WHERE s.subscription_id = _subscription AND s.partition = n.partition;

  PERFORM headwater.subscription_hand_over(_subscription, _given, _given_to);

  -- A partition that was taken from a consumer that is alive belongs with its next one from now on.
  UPDATE headwater.subscription_partitions AS s
  SET preferred_owner = n.preferred_owner
  FROM unnest(_moved, _preferred_owners) AS n (partition, preferred_owner)
  WHERE s.subscription_id = _subscription AND s.partition = n.partition;
END;
$$;
