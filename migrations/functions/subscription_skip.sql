-- A message of a partition is done without an ack of its own: it is not delivered any more, also when the partition
-- goes back to before it.
CREATE OR REPLACE FUNCTION headwater.subscription_skip(_subscription bigint, _partition integer, _position bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  p headwater.subscription_partitions;
  _at integer;
  _low_water bigint;
BEGIN
  SELECT * INTO p
  FROM headwater.subscription_partitions AS s
  WHERE s.subscription_id = _subscription AND s.partition = _partition
  FOR UPDATE;
  _at := array_position(p.known_positions, _position);

  -- All before it was acked: this is the last that was committed.
  IF _at = 1 THEN
    p.committed := greatest(p.committed, _position);
  END IF;

  p.known_positions := p.known_positions[: _at - 1] || p.known_positions[_at + 1 :];
  p.known_counts := p.known_counts[: _at - 1] || p.known_counts[_at + 1 :];
  p.known_failures := p.known_failures[: _at - 1] || p.known_failures[_at + 1 :];
  p.known_times := p.known_times[: _at - 1] || p.known_times[_at + 1 :];
  _low_water := headwater.subscription_low_water(p.known_positions, p.read_upto);

  UPDATE headwater.subscription_partitions AS s
  SET
    committed = p.committed,
    known_positions = p.known_positions,
    known_counts = p.known_counts,
    known_failures = p.known_failures,
    known_times = p.known_times,
    done_positions = ARRAY(
      SELECT d.position
      FROM unnest(p.done_positions || _position) AS d (position)
      WHERE d.position > _low_water
      ORDER BY d.position
    ),
    ack_due_at = CASE WHEN p.known_positions[1] <= p.read_upto THEN s.ack_due_at END
  WHERE s.subscription_id = _subscription AND s.partition = _partition;

  IF p.wanted_by IS NOT NULL AND NOT coalesce(p.known_positions[1] <= p.read_upto, false) THEN
    PERFORM headwater.subscription_hand_over(_subscription, ARRAY[_partition], ARRAY[p.wanted_by]);
    PERFORM pg_notify('headwater', 'changed ' || _subscription);
  END IF;
END;
$$;
