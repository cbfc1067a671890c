-- Adds the partitions of its aggregated stream that a subscription does not have yet. They begin at its first_position.
CREATE OR REPLACE FUNCTION headwater.subscription_find_partitions(_subscription bigint, _grace_ms bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _subscribed headwater.subscriptions;
BEGIN
  IF NOT EXISTS (
    SELECT
    FROM headwater.subscriptions AS s
    JOIN headwater.projections AS j ON j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
    JOIN headwater.aggregated_partitions AS a ON a.projection_id = j.id
    WHERE s.id = _subscription
      AND NOT EXISTS (
        SELECT FROM headwater.subscription_partitions AS p
        WHERE p.subscription_id = _subscription AND p.partition = a.partition
      )
  ) THEN
    RETURN;
  END IF;

  SELECT * INTO _subscribed FROM headwater.subscriptions AS s WHERE s.id = _subscription FOR UPDATE;

  INSERT INTO headwater.subscription_partitions (subscription_id, partition, committed, delivered, read_up_to)
  SELECT
    _subscription, a.partition, _subscribed.first_position - 1, _subscribed.first_position - 1,
    _subscribed.first_position - 1
  FROM headwater.projections AS j
  JOIN headwater.aggregated_partitions AS a ON a.projection_id = j.id
  WHERE j.aggregated_stream_id = _subscribed.aggregated_stream_id AND j.is_current
  ON CONFLICT (subscription_id, partition) DO NOTHING;

  IF FOUND THEN
    IF _subscribed.is_partitioned THEN
      PERFORM headwater.subscription_assign(_subscription, _grace_ms);
    END IF;
    PERFORM headwater.subscription_changed(_subscription);
  END IF;
END;
$$;
