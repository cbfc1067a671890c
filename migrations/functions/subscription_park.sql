-- Puts a message among the dead letters. One without a global position was trimmed: nothing is left of it to be looked at.
CREATE OR REPLACE FUNCTION headwater.subscription_park(
  _subscription bigint,
  _partition integer,
  _position bigint,
  _global_position bigint,
  _cause text,
  _last_error text,
  _consumer text,
  _delivery_count integer
)
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  INSERT INTO headwater.subscription_parked AS k
    (subscription_id, partition, position, global_position, cause, last_error, consumer, delivery_count)
  SELECT _subscription, _partition, _position, _global_position, _cause, _last_error, _consumer, _delivery_count
  WHERE _global_position IS NOT NULL
  ON CONFLICT (subscription_id, partition, position) DO UPDATE
  SET
    cause = excluded.cause,
    last_error = excluded.last_error,
    consumer = excluded.consumer,
    delivery_count = excluded.delivery_count,
    parked_at = excluded.parked_at
$$;
