-- Makes a subscription with a cursor for each partition. Answers its id; NULL if there is one of that name, or if there
-- are `_subscriptions_max` already.
CREATE OR REPLACE FUNCTION headwater.subscription_create(
  _name text,
  _definition jsonb,
  _is_partitioned boolean,
  _aggregated_stream_id bigint,
  _ack_timeout_ms bigint,
  _consumer_timeout_ms bigint,
  _first_position bigint,
  _partitions integer[],
  _cursors bigint[],
  _subscriptions_max bigint
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  IF (SELECT count(*) FROM (SELECT FROM headwater.subscriptions LIMIT _subscriptions_max) AS s) >= _subscriptions_max THEN
    RETURN NULL;
  END IF;

  INSERT INTO headwater.subscriptions
    (
      name, definition, is_partitioned, aggregated_stream_id, keyed_stream_id, ack_timeout, consumer_timeout,
      first_position
    )
  VALUES (
    _name, _definition, _is_partitioned,
    CASE WHEN NOT _definition -> 'source' ? 'keyed_stream' THEN _aggregated_stream_id END,
    CASE WHEN _definition -> 'source' ? 'keyed_stream' THEN _aggregated_stream_id END,
    _ack_timeout_ms * interval '1 millisecond', _consumer_timeout_ms * interval '1 millisecond', _first_position
  )
  ON CONFLICT (name) DO NOTHING
  RETURNING id INTO _id;

  INSERT INTO headwater.subscription_partitions (subscription_id, partition, committed, delivered, read_up_to)
  SELECT _id, p.partition, p.cursor, p.cursor, p.cursor
  FROM unnest(_partitions, _cursors) AS p (partition, cursor)
  WHERE _id IS NOT NULL;

  RETURN _id;
END;
$$;
