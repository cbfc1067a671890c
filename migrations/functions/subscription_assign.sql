-- Spreads the partitions evenly over the consumers. One that has messages in flight with a consumer that is alive goes
-- on when they are acked, or after a grace. Who calls this holds the row of the subscription.
CREATE OR REPLACE FUNCTION headwater.subscription_assign(_subscription bigint, _grace_ms bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _now timestamptz := clock_timestamp();
  p record;
BEGIN
  FOR p IN
    SELECT s.*, l.consumer AS target, c.name IS NOT NULL AS is_held
    FROM headwater.subscription_partitions AS s
    LEFT JOIN headwater.subscription_plan(_subscription) AS l ON l.partition = s.partition
    LEFT JOIN headwater.subscription_consumers AS c
      ON c.subscription_id = _subscription AND c.name = s.consumer AND c.expires_at > _now
    WHERE s.subscription_id = _subscription
    ORDER BY s.partition
    FOR UPDATE OF s
  LOOP
    IF p.target IS NULL THEN
      -- Nobody is there. The epoch stays, so that the last acks of who has just left are still good.
      IF p.consumer IS NOT NULL OR p.wanted_by IS NOT NULL THEN
        UPDATE headwater.subscription_partitions AS s
        SET consumer = NULL, wanted_by = NULL, revoke_at = NULL
        WHERE s.subscription_id = _subscription AND s.partition = p.partition;
      END IF;
    ELSIF p.target = p.consumer THEN
      IF p.wanted_by IS NOT NULL THEN
        UPDATE headwater.subscription_partitions AS s
        SET wanted_by = NULL, revoke_at = NULL
        WHERE s.subscription_id = _subscription AND s.partition = p.partition;
      END IF;
    ELSE
      IF p.is_held AND p.known_positions[1] <= p.read_upto THEN
        UPDATE headwater.subscription_partitions AS s
        SET
          wanted_by = p.target,
          revoke_at = coalesce(s.revoke_at, _now + _grace_ms * interval '1 millisecond')
        WHERE s.subscription_id = _subscription AND s.partition = p.partition;
      ELSE
        PERFORM headwater.subscription_hand_over(_subscription, p.partition, p.target);
      END IF;

      UPDATE headwater.subscription_partitions AS s
      SET home = CASE WHEN p.is_held THEN p.target ELSE coalesce(s.home, p.target) END
      WHERE s.subscription_id = _subscription AND s.partition = p.partition;
    END IF;
  END LOOP;
END;
$$;
