-- One ack in the transaction that writes what the acked messages have led to: {"subscription", "is_partitioned",
-- "consumer", "partition", "position", "epoch"}. It must make a difference: one that was done before would let the same
-- output be written twice.
--
-- Outcomes: 'done'; 'fenced'; 'missing': there is no such delivery, or it was acked already; 'locked': another transaction
-- is at it (only where it may not wait).
CREATE OR REPLACE FUNCTION headwater.subscription_ack_once(
  ack jsonb,
  may_wait boolean,
  OUT outcome text,
  OUT current_epoch bigint
)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  a record;
  p record;
  is_replay boolean;
BEGIN
  SELECT * INTO a FROM jsonb_to_record(ack) AS j (
    subscription bigint, is_partitioned boolean, consumer text, partition int, position bigint, epoch bigint
  );

  IF NOT a.is_partitioned THEN
    IF NOT may_wait
      AND EXISTS (
        SELECT FROM headwater.subscription_deliveries AS d
        WHERE d.subscription_id = a.subscription AND d.partition = a.partition AND d.position = a.position
      )
    THEN
      PERFORM FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = a.subscription AND d.partition = a.partition AND d.position = a.position
      FOR UPDATE SKIP LOCKED;
      IF NOT FOUND THEN
        outcome := 'locked';
        RETURN;
      END IF;
    END IF;
    SELECT e.outcome, e.current_epoch INTO outcome, current_epoch
    FROM headwater.subscription_ack_each(
      ARRAY[a.subscription], ARRAY[a.partition], ARRAY[a.position], ARRAY[a.epoch]
    ) AS e;
    RETURN;
  END IF;

  IF may_wait THEN
    SELECT s.* INTO p FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = a.subscription AND s.partition = a.partition
    FOR UPDATE;
  ELSE
    SELECT s.* INTO p FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = a.subscription AND s.partition = a.partition
    FOR UPDATE SKIP LOCKED;
  END IF;

  IF NOT FOUND THEN
    outcome := CASE
      WHEN NOT may_wait AND EXISTS (
        SELECT FROM headwater.subscription_partitions AS s
        WHERE s.subscription_id = a.subscription AND s.partition = a.partition
      )
      THEN 'locked'
      ELSE 'missing'
    END;
    RETURN;
  END IF;

  is_replay := EXISTS (
    SELECT FROM headwater.subscription_deliveries AS d
    WHERE d.subscription_id = a.subscription AND d.partition = a.partition AND d.position = a.position
      AND d.epoch = a.epoch
  );

  SELECT e.outcome, e.current_epoch INTO outcome, current_epoch
  FROM headwater.subscription_ack_up_to(
    ARRAY[a.subscription], ARRAY[a.consumer], ARRAY[a.partition], ARRAY[a.position], ARRAY[a.epoch]
  ) AS e;
  -- What was acked before is taken by that function, and changes nothing.
  IF outcome = 'done' AND NOT is_replay
    AND a.position <= headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to)
  THEN
    outcome := 'missing';
  END IF;
END;
$$;
