-- Parked messages of a partitioned subscription that are replayed go to the consumer that holds their partition, as far
-- as it knows: of partitions, and under epochs, that it was told of.
-- `_bytes_max` and `has_more` are as in subscription_take.
CREATE OR REPLACE FUNCTION headwater.subscription_take_replays(
  _subscription bigint,
  _consumer text,
  _partitions integer[],
  _epochs bigint[],
  _limit bigint,
  _attempts_max integer,
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

  SELECT coalesce(array_agg(t.row_id), '{}'), coalesce(array_agg(t.global_position), '{}')
  INTO _rows, _found
  FROM (
    SELECT d.ctid AS row_id, d.global_position
    FROM headwater.subscription_deliveries AS d
    JOIN headwater.subscription_partitions AS p
      ON p.subscription_id = d.subscription_id AND p.partition = d.partition
    JOIN unnest(_partitions, _epochs) AS h (partition, epoch) ON h.partition = p.partition AND h.epoch = p.epoch
    WHERE d.subscription_id + 0 = _subscription AND d.due_at <= _now AND p.consumer = _consumer AND p.next_owner IS NULL
    ORDER BY d.due_at
    LIMIT _limit
    FOR UPDATE OF d SKIP LOCKED
  ) AS t;

  _fit := headwater.messages_that_fit(_found, _bytes_max);
  _has_more := _fit < cardinality(_rows) OR cardinality(_rows) >= _limit;
  _rows := _rows[1 : _fit];

  RETURN QUERY
  SELECT d.partition, d.position, d.global_position, d.epoch, d.delivery_count, d.attempts, true, _has_more
  FROM headwater.subscription_deliveries AS d
  WHERE d.ctid = ANY (_rows) AND d.attempts >= _attempts_max;

  RETURN QUERY
  UPDATE headwater.subscription_deliveries AS d
  SET
    consumer = _consumer,
    epoch = p.epoch,
    delivery_count = d.delivery_count + 1,
    attempts = d.attempts + 1,
    delivered_at = _now,
    due_at = _now + _timeout
  FROM headwater.subscription_partitions AS p
  -- It may have gone to another consumer meanwhile.
  JOIN unnest(_partitions, _epochs) AS h (partition, epoch) ON h.partition = p.partition AND h.epoch = p.epoch
  WHERE d.ctid = ANY (_rows) AND d.attempts < _attempts_max AND p.consumer = _consumer
    AND p.subscription_id = d.subscription_id AND p.partition = d.partition
  RETURNING d.partition, d.position, d.global_position, d.epoch, d.delivery_count, d.attempts, false, _has_more;
END;
$$;
