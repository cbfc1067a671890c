-- Messages that were delivered before go to a consumer: those that are due (`_own` false, `_min_idle_ms` NULL), the
-- consumer's own, or those that their consumers have had for `_min_idle_ms`. Those that were tried too often stay where
-- they are, and are answered as exhausted. `_epoch` was drawn before the call, so that these deliveries can be found
-- should its answer be lost. `_bytes_max` bounds their messages together, though the first is always taken; `has_more`
-- says whether that, or `_limit`, has left some.
CREATE OR REPLACE FUNCTION headwater.subscription_take(
  _subscription bigint,
  _consumer text,
  _limit bigint,
  _attempts_max integer,
  _own boolean,
  _min_idle_ms bigint,
  _partitions integer[],
  _positions bigint[],
  _after_partition integer,
  _after_position bigint,
  _epoch bigint,
  _bytes_max bigint
)
RETURNS TABLE (
  "partition" integer,
  "position" bigint,
  global_position bigint,
  epoch bigint,
  delivery_count integer,
  attempts integer,
  is_exhausted boolean,
  has_more boolean
)
LANGUAGE plpgsql VOLATILE
-- The table may be large, and its statistics old: an index has its rows in the order that is asked for.
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz := clock_timestamp();
  _timeout interval;
  _rows tid[];
  _found bigint[];
  _fit integer;
  _has_more boolean;
BEGIN
  SELECT s.ack_timeout INTO _timeout FROM headwater.subscriptions AS s WHERE s.id = _subscription AND s.state = 'running';

  IF NOT FOUND THEN
    RETURN;
  END IF;

  IF _own THEN
    SELECT coalesce(array_agg(t.row_id), '{}'), coalesce(array_agg(t.global_position), '{}')
    INTO _rows, _found
    FROM (
      SELECT d.ctid AS row_id, d.global_position
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription AND d.consumer = _consumer
        AND (d.partition, d.position) > (_after_partition, _after_position)
      ORDER BY d.partition, d.position
      LIMIT _limit
      FOR UPDATE SKIP LOCKED
    ) AS t;
  ELSIF _min_idle_ms IS NULL THEN
    SELECT coalesce(array_agg(t.row_id), '{}'), coalesce(array_agg(t.global_position), '{}')
    INTO _rows, _found
    FROM (
      SELECT d.ctid AS row_id, d.global_position
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id + 0 = _subscription AND d.due_at <= _now
      ORDER BY d.due_at
      LIMIT _limit
      FOR UPDATE SKIP LOCKED
    ) AS t;
  ELSIF _positions IS NOT NULL THEN
    SELECT coalesce(array_agg(t.row_id), '{}'), coalesce(array_agg(t.global_position), '{}')
    INTO _rows, _found
    FROM (
      SELECT d.ctid AS row_id, d.global_position
      FROM unnest(_partitions, _positions) AS l (partition, position)
      JOIN headwater.subscription_deliveries AS d
        ON d.subscription_id = _subscription AND d.partition = l.partition AND d.position = l.position
      WHERE (d.partition, d.position) > (_after_partition, _after_position)
        AND d.delivered_at <= _now - _min_idle_ms * interval '1 millisecond'
      ORDER BY d.partition, d.position
      LIMIT _limit
      FOR UPDATE OF d SKIP LOCKED
    ) AS t;
  ELSE
    SELECT coalesce(array_agg(t.row_id), '{}'), coalesce(array_agg(t.global_position), '{}')
    INTO _rows, _found
    FROM (
      SELECT d.ctid AS row_id, d.global_position
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription
        AND (d.partition, d.position) > (_after_partition, _after_position)
        AND d.delivered_at <= _now - _min_idle_ms * interval '1 millisecond'
      ORDER BY d.partition, d.position
      LIMIT _limit
      FOR UPDATE SKIP LOCKED
    ) AS t;
  END IF;

  _fit := headwater.messages_that_fit(_found, _bytes_max);
  _has_more := _fit < cardinality(_rows) OR cardinality(_rows) >= _limit;
  _rows := _rows[1 : _fit];

  -- A consumer that asks for its own deliveries has lost them: they have failed, though their time is not over.
  RETURN QUERY
  SELECT d.partition, d.position, d.global_position, d.epoch, d.delivery_count, d.attempts, true, _has_more
  FROM headwater.subscription_deliveries AS d
  WHERE d.ctid = ANY (_rows) AND d.attempts >= _attempts_max AND (_own OR d.due_at <= _now);

  RETURN QUERY
  UPDATE headwater.subscription_deliveries AS d
  SET
    consumer = _consumer,
    epoch = _epoch,
    delivery_count = d.delivery_count + 1,
    attempts = d.attempts + 1,
    delivered_at = _now,
    due_at = _now + _timeout
  WHERE d.ctid = ANY (_rows) AND NOT (d.attempts >= _attempts_max AND (_own OR d.due_at <= _now))
  RETURNING d.partition, d.position, d.global_position, d.epoch, d.delivery_count, d.attempts, false, _has_more;
END;
$$;
