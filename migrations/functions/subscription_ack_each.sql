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
AS $$
#variable_conflict use_column
DECLARE
  _found bigint[];
  _found_epochs bigint[];
  _rows tid[];
BEGIN
  SELECT coalesce(array_agg(f.number), '{}'), array_agg(f.found_epoch),
    array_agg(f.row_id) FILTER (WHERE f.found_epoch = f.epoch)
  INTO _found, _found_epochs, _rows
  FROM (
    SELECT l.number, l.epoch, d.epoch AS found_epoch, d.row_id
    FROM (
      SELECT l.*
      FROM unnest(_subscriptions, _partitions, _positions, _epochs) WITH ORDINALITY
        AS l (subscription_id, partition, position, epoch, number)
      ORDER BY l.subscription_id, l.partition, l.position
    ) AS l
    -- OFFSET 0: one look-up in the primary key for each, in this order, however many rows the table has or is thought to
    -- have.
    CROSS JOIN LATERAL (
      SELECT t.ctid AS row_id, t.epoch
      FROM headwater.subscription_deliveries AS t
      WHERE t.subscription_id = l.subscription_id AND t.partition = l.partition AND t.position = l.position
      OFFSET 0
      FOR UPDATE
    ) AS d
  ) AS f;

  -- They are locked, so that these are their places.
  DELETE FROM headwater.subscription_deliveries AS d WHERE d.ctid = ANY (_rows);

  RETURN QUERY
  SELECT
    f.number,
    CASE WHEN f.epoch = _epochs[f.number] THEN 'done' ELSE 'fenced' END,
    nullif(f.epoch, _epochs[f.number])
  FROM unnest(_found, _found_epochs) AS f (number, epoch)
  UNION ALL
  SELECT n.number, 'missing', NULL
  FROM generate_series(1, cardinality(_positions)::bigint) AS n (number)
  WHERE n.number NOT IN (SELECT unnest(_found));
END;
$$;
