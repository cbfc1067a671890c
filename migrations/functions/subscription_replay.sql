-- Parked messages are delivered again, some or all, and their deliveries are counted anew. Answers how many there were.
-- One that the cursor is yet to come to, and will deliver, is delivered in its turn; the others are delivered out of turn.
-- To those belong the ones that were parked before their turn: the cursor passes over what is in done_positions, and does so
-- after this too, since a consumer may be reading on by what it knew of them before.
CREATE OR REPLACE FUNCTION headwater.subscription_replay(
  _subscription bigint,
  _partitions integer[],
  _positions bigint[]
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _count bigint := 0;
  k headwater.subscription_parked;
BEGIN
  PERFORM FROM headwater.subscriptions AS s WHERE s.id = _subscription FOR UPDATE;
  -- Partitions are locked in their order, and before what is in them, as everywhere.
  PERFORM FROM headwater.subscription_partitions AS p
  WHERE p.subscription_id = _subscription AND (_partitions IS NULL OR p.partition = ANY (_partitions))
  ORDER BY p.partition
  FOR UPDATE;

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

    CONTINUE WHEN EXISTS (
      SELECT
      FROM headwater.subscription_partitions AS p
      WHERE p.subscription_id = _subscription AND p.partition = k.partition AND p.read_up_to < k.position
        AND NOT k.position = ANY (p.done_positions)
    );

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
