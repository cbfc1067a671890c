-- New messages go to a consumer of a competing subscription: the shared cursor moves on, unless another consumer has
-- moved it. The epoch of these deliveries was drawn before the call, so that they can be found should its answer be lost.
-- `_history`: the number of the log that the consumer reads; `_rewind_generation`: of the cursor, as the consumer found it;
-- `_last_id`: of the last of these messages, as the consumer read it.
-- Outcomes: 'done', 'stale': the cursor had moved, the last message is not in the log any more, or the subscription
-- is not running.
CREATE OR REPLACE FUNCTION headwater.subscription_claim(
  _subscription bigint,
  _consumer text,
  _history bigint,
  _partition integer,
  _rewind_generation bigint,
  _expected bigint,
  _read_up_to bigint,
  _positions bigint[],
  _global_positions bigint[],
  _is_auto boolean,
  _epoch bigint,
  _last_id uuid
)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _timeout interval;
  _now timestamptz;
BEGIN
  IF NOT headwater.subscription_message_is_there(
    _history, _subscription, _partition, _positions[cardinality(_positions)],
    _global_positions[cardinality(_positions)], _last_id
  ) THEN
    RETURN 'stale';
  END IF;

  UPDATE headwater.subscription_partitions AS p
  SET
    read_up_to = _read_up_to,
    last_id = coalesce(_last_id, p.last_id),
    delivered = coalesce(_positions[cardinality(_positions)], p.delivered),
    committed = CASE WHEN _is_auto THEN coalesce(_positions[cardinality(_positions)], p.committed) ELSE p.committed END
  FROM headwater.subscriptions AS s
  WHERE p.subscription_id = _subscription AND p.partition = _partition AND p.read_up_to = _expected
    AND p.rewind_generation = _rewind_generation
    AND s.id = _subscription AND s.state = 'running'
  RETURNING s.ack_timeout INTO _timeout;

  IF NOT FOUND THEN
    RETURN 'stale';
  END IF;

  IF NOT _is_auto THEN
    _now := clock_timestamp();
    INSERT INTO headwater.subscription_deliveries AS d (
      subscription_id, partition, position, global_position, consumer, epoch, delivery_count, attempts, delivered_at,
      due_at
    )
    SELECT _subscription, _partition, n.position, n.global_position, _consumer, _epoch, 1, 1, _now, _now + _timeout
    FROM unnest(_positions, _global_positions) AS n (position, global_position)
    -- A message that is being replayed has a row already.
    ON CONFLICT (subscription_id, partition, position) DO UPDATE
    SET
      consumer = excluded.consumer,
      epoch = excluded.epoch,
      delivery_count = d.delivery_count + 1,
      attempts = d.attempts + 1,
      delivered_at = excluded.delivered_at,
      due_at = excluded.due_at;
  END IF;

  RETURN 'done';
END;
$$;
