-- Sets cursors: what comes next is what stands after them. Acks of what was delivered before are fenced.
CREATE OR REPLACE FUNCTION headwater.subscription_seek(_subscription bigint, _partitions integer[], _cursors bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  PERFORM FROM headwater.subscriptions AS s WHERE s.id = _subscription FOR UPDATE;

  PERFORM FROM headwater.subscription_partitions AS p
  WHERE p.subscription_id = _subscription AND p.partition = ANY (_partitions)
  ORDER BY p.partition
  FOR UPDATE;

  UPDATE headwater.subscription_partitions AS p
  SET
    committed = n.cursor,
    delivered = n.cursor,
    read_upto = n.cursor,
    last_id = NULL,
    rewinds = p.rewinds + 1,
    known_positions = '{}',
    known_counts = '{}',
    known_failures = '{}',
    known_times = '{}',
    done_positions = '{}',
    last_error = NULL,
    ack_due_at = NULL,
    retry_at = NULL,
    consumer = coalesce(p.wanted_by, p.consumer),
    wanted_by = NULL,
    revoke_at = NULL,
    epoch = p.epoch + 1
  FROM unnest(_partitions, _cursors) AS n (partition, cursor)
  WHERE p.subscription_id = _subscription AND p.partition = n.partition;

  PERFORM headwater.subscription_lock_deliveries(_subscription, NULL);
  DELETE FROM headwater.subscription_deliveries AS d
  WHERE d.subscription_id = _subscription AND d.partition = ANY (_partitions);

  PERFORM headwater.subscription_changed(_subscription);
END;
$$;
