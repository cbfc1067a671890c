-- Counts a failure of the first message in flight of each of these partitions: its consumer is gone, or has not acked
-- that message in time. The caller holds the locks on their rows.
CREATE OR REPLACE FUNCTION headwater.subscription_record_failure(_subscription bigint, _partitions integer[])
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.subscription_partitions AS p
  SET unacked_failures[1] = p.unacked_failures[1] + 1
  WHERE p.subscription_id = _subscription AND p.partition = ANY (_partitions) AND p.unacked_positions[1] <= p.read_up_to
$$;
