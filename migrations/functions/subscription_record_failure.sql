-- Counts a failure of the first message in flight of each of these partitions: its consumer is gone, or has not acked it
-- in time. Who calls this holds their rows.
CREATE OR REPLACE FUNCTION headwater.subscription_record_failure(_subscription bigint, _partitions integer[])
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.subscription_partitions AS p
  SET known_failures[1] = p.known_failures[1] + 1
  WHERE p.subscription_id = _subscription AND p.partition = ANY (_partitions) AND p.known_positions[1] <= p.read_upto
$$;
