-- Gives partitions to consumers, or (NULL) to none: what was in flight is delivered again, under a new epoch. A caller
-- that hands over several of them holds the locks on their rows.
--
-- Parked messages that are replayed and in flight there are due at once, and what their consumers say of them is fenced.
-- Those that another transaction holds stay as they are, and are due in their own time: acks lock them only after their
-- partition, so that it is one that makes them due or deletes them, and to wait for it here could be a deadlock.
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
  WHERE p.subscription_id = _subscription AND p.partition = n.partition;

  UPDATE headwater.subscription_deliveries AS d
  SET due_at = clock_timestamp(), epoch = nextval('headwater.subscription_epochs')
  WHERE d.ctid = ANY (ARRAY(
    SELECT f.ctid
    FROM headwater.subscription_deliveries AS f
    WHERE f.subscription_id = _subscription AND f.partition = ANY (_partitions) AND f.consumer IS NOT NULL
      AND f.due_at - clock_timestamp() > interval '0'
    FOR UPDATE SKIP LOCKED
  ))
$$;
