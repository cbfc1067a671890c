-- Changes the settings or the state of a subscription, as far as they are given; resuming forgets why it had stopped, also
-- if it was paused since.
-- `_read`: the definition that `_definition` was made of; a subscription that has another one by now stays as it is.
-- Answers its id; NULL if there is none, or it has another definition.
CREATE OR REPLACE FUNCTION headwater.subscription_update(
  _name text,
  _read jsonb,
  _definition jsonb,
  _ack_timeout_ms bigint,
  _consumer_timeout_ms bigint,
  _state text
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
  _has_stopped boolean;
  _deliveries_max bigint;
BEGIN
  SELECT s.id, s.stopped IS NOT NULL, (s.definition ->> 'max_deliveries')::bigint
  INTO _id, _has_stopped, _deliveries_max
  FROM headwater.subscriptions AS s
  WHERE s.name = _name AND (_read IS NULL OR s.definition = _read)
  FOR UPDATE;

  UPDATE headwater.subscriptions AS s
  SET
    definition = coalesce(_definition, s.definition),
    ack_timeout = coalesce(_ack_timeout_ms * interval '1 millisecond', s.ack_timeout),
    consumer_timeout = coalesce(_consumer_timeout_ms * interval '1 millisecond', s.consumer_timeout),
    state = coalesce(_state, s.state),
    stopped = CASE WHEN _state = 'running' THEN NULL ELSE s.stopped END,
    generation = s.generation + 1
  WHERE s.id = _id;

  -- The message that stopped the subscription is tried again as often as any other: its deliveries are counted anew, as
  -- those of a replayed one. It may not have failed before it did: each delivery behind one that had failed counts.
  IF _state = 'running' AND _has_stopped THEN
    PERFORM FROM headwater.subscription_partitions AS p WHERE p.subscription_id = _id ORDER BY p.partition FOR UPDATE;
    UPDATE headwater.subscription_partitions AS p
    SET
      unacked_counts = ARRAY(
        SELECT CASE WHEN greatest(k.failures, k.count) >= _deliveries_max THEN 0 ELSE k.count END
        FROM unnest(p.unacked_positions, p.unacked_counts, p.unacked_failures) AS k (position, count, failures)
        ORDER BY k.position
      ),
      unacked_failures = array_fill(0, ARRAY[cardinality(p.unacked_failures)]),
      retry_at = NULL
    WHERE p.subscription_id = _id AND cardinality(p.unacked_failures) > 0;
    PERFORM headwater.subscription_lock_deliveries(_id, NULL);
    UPDATE headwater.subscription_deliveries AS d
    SET attempts = 0, delivery_count = 0
    WHERE d.subscription_id = _id AND d.attempts >= _deliveries_max;
  END IF;

  RETURN _id;
END;
$$;
