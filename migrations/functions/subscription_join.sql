-- A consumer joins, or comes back. `_is_connected`: the consumer holds a connection open, whose end is noticed; what an
-- earlier connection of the same name had in flight is then delivered again. Outcomes: 'done'; 'full': there are
-- `_consumers_max` already; 'missing': there is no such subscription.
CREATE OR REPLACE FUNCTION headwater.subscription_join(
  _subscription bigint,
  _consumer text,
  _session uuid,
  _is_connected boolean,
  _consumers_max bigint,
  _grace_ms bigint
)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _subscribed headwater.subscriptions;
  _own integer[];
BEGIN
  -- Nearly always the consumer has a lease and comes for more messages.
  IF NOT _is_connected THEN
    UPDATE headwater.subscription_consumers AS c
    SET expires_at = greatest(c.expires_at, clock_timestamp() + s.consumer_timeout)
    FROM headwater.subscriptions AS s
    WHERE c.subscription_id = _subscription AND c.name = _consumer AND s.id = _subscription
      AND c.expires_at > clock_timestamp();

    IF FOUND THEN
      RETURN 'done';
    END IF;
  END IF;

  SELECT * INTO _subscribed FROM headwater.subscriptions AS s WHERE s.id = _subscription FOR UPDATE;

  IF NOT FOUND THEN
    RETURN 'missing';
  END IF;

  -- A lease that has run out is over, though its row is not deleted yet: others may have been planned its partitions.
  PERFORM headwater.subscription_remove(_subscription, _consumer, NULL, true, _grace_ms);

  UPDATE headwater.subscription_consumers AS c
  SET
    session = CASE WHEN _is_connected THEN _session ELSE c.session END,
    is_connected = c.is_connected OR _is_connected,
    expires_at = clock_timestamp() + _subscribed.consumer_timeout
  WHERE c.subscription_id = _subscription AND c.name = _consumer;

  IF FOUND THEN
    IF _is_connected AND _subscribed.is_partitioned THEN
      -- All of them, because they are assigned below: partitions are locked in their order, as acks lock them.
      PERFORM FROM headwater.subscription_partitions AS s
      WHERE s.subscription_id = _subscription
      ORDER BY s.partition
      FOR UPDATE;
      _own := ARRAY(
        SELECT s.partition
        FROM headwater.subscription_partitions AS s
        WHERE s.subscription_id = _subscription AND s.consumer = _consumer
      );
      PERFORM headwater.subscription_record_failure(_subscription, _own);
      PERFORM headwater.subscription_hand_over(_subscription, _own, array_fill(_consumer, ARRAY[cardinality(_own)]));
      PERFORM headwater.subscription_assign(_subscription, _grace_ms);
    END IF;

    IF _is_connected THEN
      PERFORM headwater.subscription_changed(_subscription);
    END IF;

    RETURN 'done';
  END IF;

  IF (SELECT count(*) FROM headwater.subscription_consumers AS c WHERE c.subscription_id = _subscription) >= _consumers_max THEN
    RETURN 'full';
  END IF;

  INSERT INTO headwater.subscription_consumers (subscription_id, name, session, is_connected, expires_at)
  VALUES (_subscription, _consumer, _session, _is_connected, clock_timestamp() + _subscribed.consumer_timeout);

  IF _subscribed.is_partitioned THEN
    PERFORM headwater.subscription_assign(_subscription, _grace_ms);
    PERFORM headwater.subscription_changed(_subscription);
  END IF;

  RETURN 'done';
END;
$$;
