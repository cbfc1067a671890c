-- Parked messages are delivered again, some or all, with a count that begins anew. Answers how many. In a partitioned
-- subscription one whose partition has not come to it yet comes in its turn; the others out of turn.
CREATE OR REPLACE FUNCTION headwater.subscription_replay(
  _subscription bigint,
  _partitions integer[],
  _positions bigint[]
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _is_partitioned boolean;
  _count bigint := 0;
  k headwater.subscription_parked;
BEGIN
  SELECT s.is_partitioned INTO _is_partitioned FROM headwater.subscriptions AS s WHERE s.id = _subscription FOR UPDATE;

  FOR k IN
    DELETE FROM headwater.subscription_parked AS d
    WHERE d.subscription_id = _subscription
      AND (
        _positions IS NULL
        OR (d.partition, d.position) IN (SELECT * FROM unnest(_partitions, _positions) AS l (partition, position))
      )
    RETURNING *
  LOOP
    _count := _count + 1;

    IF _is_partitioned THEN
      UPDATE headwater.subscription_partitions AS p
      SET done_positions = array_remove(p.done_positions, k.position)
      WHERE p.subscription_id = _subscription AND p.partition = k.partition AND p.read_upto < k.position;
      CONTINUE WHEN FOUND;
    END IF;

    INSERT INTO headwater.subscription_deliveries AS d
      (subscription_id, partition, position, global_position, epoch, delivery_count, attempts, due_at, last_error)
    VALUES (
      _subscription, k.partition, k.position, k.global_position, nextval('headwater.subscription_epochs'), 0, 0,
      clock_timestamp(), k.last_error
    )
    ON CONFLICT (subscription_id, partition, position) DO NOTHING;
  END LOOP;

  IF _count > 0 THEN
    PERFORM headwater.subscription_changed(_subscription);
  END IF;

  RETURN _count;
END;
$$;
