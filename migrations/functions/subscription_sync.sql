-- Does what has come due for a consumer of a partitioned subscription (partitions change hands, and what was not acked in
-- time goes back), and answers what it holds then: a row for each partition, one row without a partition if it has none;
-- no row if there is no such subscription.
CREATE OR REPLACE FUNCTION headwater.subscription_sync(
  _subscription bigint,
  _consumer text,
  _session uuid,
  _grace_ms bigint
)
RETURNS TABLE (
  generation bigint,
  state text,
  consumer_status text,
  next_ms bigint,
  has_replays boolean,
  replays_in_flight bigint,
  "partition" integer,
  epoch bigint,
  committed bigint,
  read_up_to bigint,
  rewind_generation bigint,
  in_flight bigint,
  is_revoked boolean,
  is_held_back boolean,
  failed_head bigint,
  failed_head_failures integer,
  failed_head_deliveries integer,
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
    SELECT s.partition, s.revoke_at, s.next_owner
    FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription
      AND (
        s.revoke_at <= _now AND (s.consumer = _consumer OR s.next_owner = _consumer)
        OR s.ack_due_at <= _now AND s.consumer = _consumer
      )
    ORDER BY s.partition
    FOR UPDATE
  LOOP
    IF p.revoke_at <= _now THEN
      PERFORM headwater.subscription_hand_over(_subscription, ARRAY[p.partition], ARRAY[p.next_owner]);
      PERFORM pg_notify('headwater', 'changed ' || _subscription);
    ELSE
      PERFORM headwater.subscription_record_failure(_subscription, ARRAY[p.partition]);
      UPDATE headwater.subscription_partitions AS s
      SET
        read_up_to = headwater.subscription_acked_up_to(s.unacked_positions, s.read_up_to),
        rewind_generation = s.rewind_generation + 1,
        ack_due_at = NULL
      WHERE s.subscription_id = _subscription AND s.partition = p.partition;
    END IF;
  END LOOP;

  RETURN QUERY
  WITH mine AS (
    SELECT
      s.*,
      CASE
        WHEN cardinality(s.unacked_positions) = 0 THEN 0
        WHEN s.unacked_positions[cardinality(s.unacked_positions)] <= s.read_up_to THEN cardinality(s.unacked_positions)
        ELSE (SELECT count(*) FROM unnest(s.unacked_positions) AS k (position) WHERE k.position <= s.read_up_to)
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
        WHERE w.subscription_id = _subscription AND (w.consumer = _consumer OR w.next_owner = _consumer)
      ) AS t
    ),
    EXISTS (
      SELECT
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id + 0 = _subscription AND d.due_at <= _now
    ),
    (
      SELECT count(*)
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription AND d.consumer = _consumer AND d.due_at - _now > interval '0'
    ),
    m.partition,
    m.epoch,
    m.committed,
    m.read_up_to,
    m.rewind_generation,
    m.flying,
    m.next_owner IS NOT NULL,
    coalesce(m.retry_at > _now, false)
      -- A message that has failed before is in flight alone.
      OR m.flying > 0 AND 0 < ANY (m.unacked_failures[1:m.flying]),
    f.position,
    f.failures,
    f.deliveries,
    m.done_positions
  FROM headwater.subscriptions AS b
  LEFT JOIN headwater.subscription_consumers AS c ON c.subscription_id = b.id AND c.name = _consumer
  LEFT JOIN mine AS m ON true
  -- The next message that has failed before is delivered alone.
  LEFT JOIN LATERAL (
    SELECT k.position, k.failures, k.deliveries
    FROM unnest(m.unacked_positions, m.unacked_failures, m.unacked_counts) AS k (position, failures, deliveries)
    WHERE k.position > m.read_up_to AND k.failures > 0
    ORDER BY k.position
    LIMIT 1
  ) AS f ON cardinality(m.unacked_positions) > m.flying
  WHERE b.id = _subscription;
END;
$$;
