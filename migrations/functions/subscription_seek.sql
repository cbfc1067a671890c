-- Sets cursors: what is delivered next is the message after each. Acks of what was delivered before are fenced.
-- `_first_position`: where partitions begin that appear later; NULL: as before.
CREATE OR REPLACE FUNCTION headwater.subscription_seek(
  _subscription bigint,
  _partitions integer[],
  _cursors bigint[],
  _first_position bigint
)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  UPDATE headwater.subscriptions AS s
  SET first_position = coalesce(_first_position, s.first_position)
  WHERE s.id = _subscription;

  PERFORM FROM headwater.subscription_partitions AS p
  WHERE p.subscription_id = _subscription AND p.partition = ANY (_partitions)
  ORDER BY p.partition
  FOR UPDATE;

  UPDATE headwater.subscription_partitions AS p
  SET
    committed = n.cursor,
    delivered = n.cursor,
    read_up_to = n.cursor,
    last_id = NULL,
    rewind_generation = p.rewind_generation + 1,
    unacked_positions = '{}',
    unacked_counts = '{}',
    unacked_failures = '{}',
    unacked_times = '{}',
    done_positions = '{}',
    last_error = NULL,
    ack_due_at = NULL,
    retry_at = NULL,
    consumer = coalesce(p.next_owner, p.consumer),
    next_owner = NULL,
    revoke_at = NULL,
    epoch = p.epoch + 1
  FROM unnest(_partitions, _cursors) AS n (partition, cursor)
  WHERE p.subscription_id = _subscription AND p.partition = n.partition;

  PERFORM FROM headwater.subscription_deliveries AS d
  WHERE d.subscription_id = _subscription AND d.partition = ANY (_partitions)
  ORDER BY d.partition, d.position
  FOR UPDATE;
  DELETE FROM headwater.subscription_deliveries AS d
  WHERE d.subscription_id = _subscription AND d.partition = ANY (_partitions);

  PERFORM headwater.subscription_changed(_subscription);
END;
$$;
