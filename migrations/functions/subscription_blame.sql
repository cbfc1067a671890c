-- Counts a failure of the first message in flight of a partition: its consumer is gone, or has not acked it in time.
CREATE OR REPLACE FUNCTION headwater.subscription_blame(_subscription bigint, _partition integer)
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.subscription_partitions AS p
  SET known_failures[1] = p.known_failures[1] + 1
  WHERE p.subscription_id = _subscription AND p.partition = _partition AND p.known_positions[1] <= p.read_upto
$$;
