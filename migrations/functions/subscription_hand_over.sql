-- Gives partitions to consumers, or (NULL) to none: what was in flight is delivered again, under a new epoch. A caller
-- that hands over several of them holds the locks on their rows.
CREATE OR REPLACE FUNCTION headwater.subscription_hand_over(_subscription bigint, _partitions integer[], _to text[])
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.subscription_partitions AS p
  SET
    consumer = n.consumer,
    preferred_owner = coalesce(p.preferred_owner, n.consumer),
    epoch = p.epoch + 1,
    read_up_to = headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to),
    rewind_generation = p.rewind_generation + 1,
    ack_due_at = NULL,
    next_owner = NULL,
    revoke_at = NULL
  FROM unnest(_partitions, _to) AS n (partition, consumer)
  WHERE p.subscription_id = _subscription AND p.partition = n.partition
$$;
