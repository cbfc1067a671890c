-- Spreads the partitions evenly over the consumers. One that has messages in flight with a consumer that is alive goes
-- on when they are acked, or after a grace. Who calls this holds the row of the subscription.
CREATE OR REPLACE FUNCTION headwater.subscription_assign(_subscription bigint, _grace_ms bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _now timestamptz := clock_timestamp();
  _free integer[];
  _kept integer[];
  _wanted integer[];
  _wanted_by text[];
  _given integer[];
  _given_to text[];
  _homes integer[];
  _homes_of text[];
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
        -- Nobody is there. The epoch stays, so that the last acks of who has just left are still good.
        WHEN l.consumer IS NULL THEN CASE WHEN s.consumer IS NOT NULL OR s.wanted_by IS NOT NULL THEN 'free' END
        WHEN l.consumer = s.consumer THEN CASE WHEN s.wanted_by IS NOT NULL THEN 'kept' END
        WHEN c.name IS NOT NULL AND s.known_positions[1] <= s.read_upto THEN 'wanted'
        ELSE 'given'
      END AS fate,
      c.name IS NOT NULL AND s.home IS DISTINCT FROM l.consumer AS is_moved
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
  INTO _free, _kept, _wanted, _wanted_by, _given, _given_to, _homes, _homes_of
  FROM planned AS p;

  UPDATE headwater.subscription_partitions AS s
  SET consumer = NULL, wanted_by = NULL, revoke_at = NULL
  WHERE s.subscription_id = _subscription AND s.partition = ANY (_free);

  UPDATE headwater.subscription_partitions AS s
  SET wanted_by = NULL, revoke_at = NULL
  WHERE s.subscription_id = _subscription AND s.partition = ANY (_kept);

  UPDATE headwater.subscription_partitions AS s
  SET wanted_by = n.consumer, revoke_at = coalesce(s.revoke_at, _now + _grace_ms * interval '1 millisecond')
  FROM unnest(_wanted, _wanted_by) AS n (partition, consumer)
  WHERE s.subscription_id = _subscription AND s.partition = n.partition;

  PERFORM headwater.subscription_hand_over(_subscription, _given, _given_to);

  -- What was taken from somebody who is there is at home with who has it next.
  UPDATE headwater.subscription_partitions AS s
  SET home = n.home
  FROM unnest(_homes, _homes_of) AS n (partition, home)
  WHERE s.subscription_id = _subscription AND s.partition = n.partition;
END;
$$;
