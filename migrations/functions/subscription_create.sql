-- Makes a subscription with a cursor for each partition. Answers its id; NULL if there is one of that name, if there are
-- `_subscriptions_max` already, or `_max_of_credential` (0: any number) that were made with the same credential.
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
  _subscriptions_max bigint,
  _created_by text DEFAULT NULL,
  _max_of_credential bigint DEFAULT 0
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

  IF _created_by IS NOT NULL AND _max_of_credential > 0 THEN
    -- Those that one credential makes at the same time are counted one after the other.
    PERFORM pg_advisory_xact_lock(hashtext('headwater.subscription_create'), hashtext(_created_by));
    IF (SELECT count(*) FROM headwater.subscriptions WHERE created_by = _created_by) >= _max_of_credential THEN
      RETURN NULL;
    END IF;
  END IF;

  INSERT INTO headwater.subscriptions
    (
      name, definition, is_partitioned, aggregated_stream_id, keyed_stream_id, ack_timeout, consumer_timeout,
      first_position, created_by
    )
  VALUES (
    _name, _definition, _is_partitioned,
    CASE WHEN NOT _definition -> 'source' ? 'keyed_stream' THEN _aggregated_stream_id END,
    CASE WHEN _definition -> 'source' ? 'keyed_stream' THEN _aggregated_stream_id END,
    _ack_timeout_ms * interval '1 millisecond', _consumer_timeout_ms * interval '1 millisecond', _first_position,
    _created_by
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
