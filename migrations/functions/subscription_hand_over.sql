-- Gives partitions to consumers, or to nobody: what was in flight is delivered again, under a new epoch. Who calls this
-- for several of them holds their rows.
CREATE OR REPLACE FUNCTION headwater.subscription_hand_over(_subscription bigint, _partitions integer[], _to text[])
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.subscription_partitions AS p
  SET
    consumer = n.consumer,
    home = coalesce(p.home, n.consumer),
    epoch = p.epoch + 1,
    read_upto = headwater.subscription_low_water(p.known_positions, p.read_upto),
    rewinds = p.rewinds + 1,
    ack_due_at = NULL,
    wanted_by = NULL,
    revoke_at = NULL
  FROM unnest(_partitions, _to) AS n (partition, consumer)
  WHERE p.subscription_id = _subscription AND p.partition = n.partition
$$;
