-- What a consumer of a competing subscription may have at this moment: a row for each cursor that may have something new
-- (of an aggregated stream: that has), and one row without a cursor if there is none; no row if there is no such
-- subscription. `epoch` is drawn for what is delivered because of this answer.
CREATE OR REPLACE FUNCTION headwater.subscription_claimable(
  _subscription bigint,
  _consumer text,
  _session uuid,
  _in_flight_max bigint,
  _grace_ms bigint
)
RETURNS TABLE (
  generation bigint,
  state text,
  consumer_status text,
  next_ms bigint,
  has_due boolean,
  in_flight bigint,
  epoch bigint,
  "partition" integer,
  rewind_generation bigint,
  read_up_to bigint
)
LANGUAGE plpgsql VOLATILE
-- Every round asks. PostgreSQL would plan it anew by every call, which takes longer than the rest.
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz := clock_timestamp();
  _epoch bigint := nextval('headwater.subscription_epochs');
BEGIN
  PERFORM headwater.subscription_find_partitions(_subscription, _grace_ms);

  RETURN QUERY
  SELECT
    b.generation,
    b.state,
    CASE WHEN c.name IS NULL THEN 'unknown' WHEN c.session <> _session THEN 'replaced' ELSE 'member' END,
    CASE WHEN n.due_at IS NOT NULL THEN greatest(0, ceil(extract(epoch FROM n.due_at - _now) * 1000))::bigint END,
    coalesce(n.due_at <= _now, false),
    f.count,
    _epoch,
    p.partition,
    p.rewind_generation,
    p.read_up_to
  FROM headwater.subscriptions AS b
  LEFT JOIN headwater.subscription_consumers AS c ON c.subscription_id = b.id AND c.name = _consumer
  LEFT JOIN LATERAL (
    SELECT d.due_at
    FROM headwater.subscription_deliveries AS d
    WHERE d.subscription_id + 0 = _subscription
    ORDER BY d.due_at
    LIMIT 1
  ) AS n ON true
  CROSS JOIN LATERAL (
    SELECT count(*) AS count
    FROM (
      SELECT
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription AND d.consumer = _consumer AND d.due_at - _now > interval '0'
      LIMIT _in_flight_max
    ) AS d
  ) AS f
  LEFT JOIN headwater.projections AS j ON j.aggregated_stream_id = b.aggregated_stream_id AND j.is_current
  LEFT JOIN headwater.subscription_partitions AS p
    ON p.subscription_id = b.id
    AND (
      b.aggregated_stream_id IS NULL
      OR EXISTS (
        SELECT
        FROM headwater.aggregated_partitions AS a
        WHERE a.projection_id = j.id AND a.partition = p.partition AND a.message_count - 1 > p.read_up_to
      )
    )
  WHERE b.id = _subscription;
END;
$$;
