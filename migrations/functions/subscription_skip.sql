-- A message of a partition is done without an ack of its own: it is not delivered any more, not even when the partition
-- goes back to a place before it.
CREATE OR REPLACE FUNCTION headwater.subscription_skip(_subscription bigint, _partition integer, _position bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  p headwater.subscription_partitions;
  _timeout interval;
  _at integer;
  _acked_up_to bigint;
BEGIN
  SELECT * INTO p
  FROM headwater.subscription_partitions AS s
  WHERE s.subscription_id = _subscription AND s.partition = _partition
  FOR UPDATE;
  _at := array_position(p.unacked_positions, _position);

  -- All messages before this one were acked, so it is the last that was committed, and the time to ack the next one begins
  -- now, as after an ack.
  IF _at = 1 THEN
    p.committed := greatest(p.committed, _position);
    SELECT s.ack_timeout INTO _timeout FROM headwater.subscriptions AS s WHERE s.id = _subscription;
  END IF;

  p.unacked_positions := p.unacked_positions[: _at - 1] || p.unacked_positions[_at + 1 :];
  p.unacked_counts := p.unacked_counts[: _at - 1] || p.unacked_counts[_at + 1 :];
  p.unacked_failures := p.unacked_failures[: _at - 1] || p.unacked_failures[_at + 1 :];
  p.unacked_times := p.unacked_times[: _at - 1] || p.unacked_times[_at + 1 :];
  _acked_up_to := headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to);

  UPDATE headwater.subscription_partitions AS s
  SET
    committed = p.committed,
    unacked_positions = p.unacked_positions,
    unacked_counts = p.unacked_counts,
    unacked_failures = p.unacked_failures,
    unacked_times = p.unacked_times,
    done_positions = ARRAY(
      SELECT d.position
      FROM unnest(p.done_positions || _position) AS d (position)
      WHERE d.position > _acked_up_to
      ORDER BY d.position
    ),
    ack_due_at = CASE
      WHEN p.unacked_positions[1] <= p.read_up_to THEN greatest(s.ack_due_at, clock_timestamp() + _timeout)
    END
  WHERE s.subscription_id = _subscription AND s.partition = _partition;

  IF p.next_owner IS NOT NULL AND NOT coalesce(p.unacked_positions[1] <= p.read_up_to, false) THEN
    PERFORM headwater.subscription_hand_over(_subscription, ARRAY[_partition], ARRAY[p.next_owner]);
    PERFORM pg_notify('headwater', 'changed ' || _subscription);
  END IF;
END;
$$;
