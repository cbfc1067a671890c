-- Deliveries whose answer was lost are due again at once, and do not count as attempts: those under `_epoch`, which was
-- drawn for them, or (NULL) all that the consumer has. `_positions` are those of a claim that acks as it delivers, and so
-- has left no rows of deliveries: they get rows here, if the cursor has passed them.
CREATE OR REPLACE FUNCTION headwater.subscription_give_back(
  _subscription bigint,
  _consumer text,
  _epoch bigint,
  _partition integer,
  _positions bigint[],
  _global_positions bigint[]
)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  IF cardinality(_positions) > 0 THEN
    PERFORM
    FROM headwater.subscription_partitions AS p
    WHERE p.subscription_id = _subscription AND p.partition = _partition
      AND p.read_up_to >= _positions[cardinality(_positions)]
    FOR UPDATE;

    INSERT INTO headwater.subscription_deliveries
      (subscription_id, partition, position, global_position, epoch, delivery_count, attempts, due_at)
    SELECT
      _subscription, _partition, n.position, n.global_position, nextval('headwater.subscription_epochs'), 0, 0,
      clock_timestamp()
    FROM unnest(_positions, _global_positions) AS n (position, global_position)
    WHERE FOUND
    ON CONFLICT (subscription_id, partition, position) DO NOTHING;
  END IF;

  PERFORM headwater.subscription_lock_deliveries(_subscription, _consumer);

  UPDATE headwater.subscription_deliveries AS d
  SET
    due_at = clock_timestamp(),
    attempts = greatest(d.attempts - 1, 0),
    delivery_count = greatest(d.delivery_count - 1, 0)
  WHERE d.subscription_id = _subscription AND d.consumer = _consumer AND d.due_at - clock_timestamp() > interval '0'
    AND (_epoch IS NULL OR d.epoch = _epoch);

  -- Any consumer that has room may have them.
  PERFORM pg_notify('headwater', 'room ' || _subscription);
END;
$$;
