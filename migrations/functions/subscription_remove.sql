-- A consumer leaves by itself (`_session`), because its lease ran out (`_only_expired`), or because somebody removes it.
-- What it had in flight goes to the others. Outcomes: 'done', 'missing'.
CREATE OR REPLACE FUNCTION headwater.subscription_remove(
  _subscription bigint,
  _consumer text,
  _session uuid,
  _only_expired boolean,
  _grace_ms bigint
)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _is_partitioned boolean;
  _gone headwater.subscription_consumers;
BEGIN
  SELECT s.is_partitioned INTO _is_partitioned FROM headwater.subscriptions AS s WHERE s.id = _subscription FOR UPDATE;

  DELETE FROM headwater.subscription_consumers AS c
  WHERE c.subscription_id = _subscription
    AND c.name = _consumer
    AND (_session IS NULL OR c.session = _session)
    AND (NOT _only_expired OR c.expires_at <= clock_timestamp())
  RETURNING * INTO _gone;

  IF NOT FOUND THEN
    RETURN 'missing';
  END IF;

  IF _is_partitioned THEN
    -- All of them, because they are assigned below: partitions are locked in their order, as acks lock them.
    PERFORM FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription
    ORDER BY s.partition
    FOR UPDATE;
    PERFORM headwater.subscription_record_failure(
      _subscription,
      ARRAY(
        SELECT s.partition
        FROM headwater.subscription_partitions AS s
        WHERE s.subscription_id = _subscription AND s.consumer = _consumer
      )
    );
    PERFORM headwater.subscription_assign(_subscription, _grace_ms);
  END IF;

  -- A consumer that fetches may still be at work on its messages when its lease runs out: they are due in their own time.
  IF _gone.is_connected OR NOT _only_expired THEN
    PERFORM headwater.subscription_lock_deliveries(_subscription, _consumer);
    UPDATE headwater.subscription_deliveries AS d
    SET due_at = clock_timestamp()
    WHERE d.subscription_id = _subscription AND d.consumer = _consumer AND d.due_at - clock_timestamp() > interval '0';
  END IF;

  PERFORM headwater.subscription_changed(_subscription);

  RETURN 'done';
END;
$$;
