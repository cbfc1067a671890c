-- For the consumers that wait on an instance, all at once: the generations of their subscriptions, and whether anything
-- has come due in them.
CREATE OR REPLACE FUNCTION headwater.subscription_poll(_subscriptions bigint[])
RETURNS TABLE (number bigint, generation bigint, has_due boolean)
LANGUAGE sql STABLE
AS $$
  SELECT
    l.number,
    s.generation,
    EXISTS (
      SELECT
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id + 0 = l.id AND d.due_at <= clock_timestamp()
    )
  FROM unnest(_subscriptions) WITH ORDINALITY AS l (id, number)
  LEFT JOIN headwater.subscriptions AS s ON s.id = l.id
$$;
