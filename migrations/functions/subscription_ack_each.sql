-- Acks of competing subscriptions, from many requests at once: each is for one delivery, which its epoch names.
-- Outcomes: 'done', 'fenced', 'missing'.
CREATE OR REPLACE FUNCTION headwater.subscription_ack_each(
  _subscriptions bigint[],
  _partitions integer[],
  _positions bigint[],
  _epochs bigint[]
)
RETURNS TABLE (number bigint, outcome text, current_epoch bigint)
LANGUAGE plpgsql VOLATILE
-- Each entry takes one look-up in the primary key, however many rows the table has, dead ones included.
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH listed AS (
    SELECT l.number, l.subscription_id, l.partition, l.position, l.epoch
    FROM unnest(_subscriptions, _partitions, _positions, _epochs) WITH ORDINALITY
      AS l (subscription_id, partition, position, epoch, number)
  ),
  found AS MATERIALIZED (
    SELECT l.number, d.subscription_id, d.partition, d.position, l.epoch = d.epoch AS is_current, d.epoch
    FROM listed AS l
    JOIN headwater.subscription_deliveries AS d
      ON d.subscription_id = l.subscription_id AND d.partition = l.partition AND d.position = l.position
    ORDER BY d.subscription_id, d.partition, d.position
    FOR UPDATE OF d
  ),
  acked AS (
    DELETE FROM headwater.subscription_deliveries AS d
    USING found AS f
    WHERE f.is_current
      AND d.subscription_id = f.subscription_id AND d.partition = f.partition AND d.position = f.position
  )
  SELECT
    l.number,
    CASE WHEN f.is_current THEN 'done' WHEN f.number IS NOT NULL THEN 'fenced' ELSE 'missing' END,
    CASE WHEN NOT f.is_current THEN f.epoch END
  FROM listed AS l
  LEFT JOIN found AS f ON f.number = l.number;
END;
$$;
