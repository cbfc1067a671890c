-- What a consumer of a partitioned subscription holds at this moment, after everything that has come due for it was
-- done: partitions change hands, and what was not acked in time goes back. One row at least, while the subscription is
-- there.
CREATE OR REPLACE FUNCTION headwater.subscription_sync(
  _subscription bigint,
  _consumer text,
  _session uuid,
  _grace_ms bigint
)
RETURNS TABLE (
  generation bigint,
  state text,
  standing text,
  next_ms bigint,
  has_replays boolean,
  replays_in_flight bigint,
  "partition" integer,
  epoch bigint,
  committed bigint,
  read_upto bigint,
  rewinds bigint,
  in_flight bigint,
  is_revoked boolean,
  is_held_back boolean,
  suspect bigint,
  suspect_failures integer,
  suspect_deliveries integer,
  done_positions bigint[]
)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz := clock_timestamp();
  p record;
BEGIN
  PERFORM headwater.subscription_find_partitions(_subscription, _grace_ms);

  FOR p IN
    SELECT s.partition, s.revoke_at, s.wanted_by
    FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription
      AND (
        s.revoke_at <= _now AND (s.consumer = _consumer OR s.wanted_by = _consumer)
        OR s.ack_due_at <= _now AND s.consumer = _consumer
      )
    ORDER BY s.partition
    FOR UPDATE
  LOOP
    IF p.revoke_at <= _now THEN
      PERFORM headwater.subscription_hand_over(_subscription, ARRAY[p.partition], ARRAY[p.wanted_by]);
      PERFORM pg_notify('headwater', 'changed ' || _subscription);
    ELSE
      PERFORM headwater.subscription_record_failure(_subscription, ARRAY[p.partition]);
      UPDATE headwater.subscription_partitions AS s
      SET
        read_upto = headwater.subscription_low_water(s.known_positions, s.read_upto),
        rewinds = s.rewinds + 1,
        ack_due_at = NULL
      WHERE s.subscription_id = _subscription AND s.partition = p.partition;
    END IF;
  END LOOP;

  RETURN QUERY
  WITH mine AS (
    SELECT
      s.*,
      CASE
        WHEN cardinality(s.known_positions) = 0 THEN 0
        WHEN s.known_positions[cardinality(s.known_positions)] <= s.read_upto THEN cardinality(s.known_positions)
        ELSE (SELECT count(*) FROM unnest(s.known_positions) AS k (position) WHERE k.position <= s.read_upto)
      END AS flying
    FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription AND s.consumer = _consumer
  )
  SELECT
    b.generation,
    b.state,
    CASE WHEN c.name IS NULL THEN 'unknown' WHEN c.session <> _session THEN 'replaced' ELSE 'member' END,
    (
      SELECT ceil(extract(epoch FROM min(least(t.revoke_at, t.due_at)) - _now) * 1000)::bigint
      FROM (
        SELECT
          w.revoke_at,
          CASE WHEN w.consumer = _consumer THEN least(w.ack_due_at, CASE WHEN w.retry_at > _now THEN w.retry_at END) END
            AS due_at
        FROM headwater.subscription_partitions AS w
        WHERE w.subscription_id = _subscription AND (w.consumer = _consumer OR w.wanted_by = _consumer)
      ) AS t
    ),
    EXISTS (
      SELECT
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription AND d.due_at <= _now
    ),
    (
      SELECT count(*)
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription AND d.consumer = _consumer AND d.due_at > _now
    ),
    m.partition,
    m.epoch,
    m.committed,
    m.read_upto,
    m.rewinds,
    m.flying,
    m.wanted_by IS NOT NULL,
    coalesce(m.retry_at > _now, false)
      -- What has failed before is alone on its way.
      OR m.flying > 0 AND 0 < ANY (m.known_failures[1:m.flying]),
    f.position,
    f.failures,
    f.deliveries,
    m.done_positions
  FROM headwater.subscriptions AS b
  LEFT JOIN headwater.subscription_consumers AS c ON c.subscription_id = b.id AND c.name = _consumer
  LEFT JOIN mine AS m ON true
  -- The next message that has failed before: it is delivered alone.
  LEFT JOIN LATERAL (
    SELECT k.position, k.failures, k.deliveries
    FROM unnest(m.known_positions, m.known_failures, m.known_counts) AS k (position, failures, deliveries)
    WHERE k.position > m.read_upto AND k.failures > 0
    ORDER BY k.position
    LIMIT 1
  ) AS f ON cardinality(m.known_positions) > m.flying
  WHERE b.id = _subscription;
END;
$$;
