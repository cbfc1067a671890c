-- Counts some more of the messages that a subscription has yet to deliver, at most `_messages_max`: writes down their
-- positions, and deletes those of messages that are acked by now. Answers whether there is more to count. Sessions that
-- count for the same subscription take turns. A partition whose cursor went back to before what was counted begins anew.
CREATE OR REPLACE FUNCTION headwater.subscription_count(_subscription bigint, _settled bigint, _messages_max bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  -- Rows that one call deletes, and positions in a row.
  _rows_max CONSTANT bigint := 1000;
  _positions_max CONSTANT integer := 500;
  _projection bigint;
  _lost integer[];
  _partitions integer[];
  _lows bigint[];
  _starts bigint[];
  _deleted bigint;
  _is_all boolean;
BEGIN
  SELECT j.id INTO _projection
  FROM headwater.subscriptions AS s
  JOIN headwater.projections AS j ON j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
  WHERE s.id = _subscription;

  INSERT INTO headwater.subscription_counts (subscription_id, partition, projection_id, counted_from, counted_up_to)
  SELECT p.subscription_id, p.partition, _projection, l.low, l.low
  FROM headwater.subscription_partitions AS p
  CROSS JOIN LATERAL (SELECT headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to) AS low) AS l
  WHERE p.subscription_id = _subscription
  ORDER BY p.partition
  ON CONFLICT (subscription_id, partition) DO NOTHING;

  PERFORM FROM headwater.subscription_counts AS c
  WHERE c.subscription_id = _subscription
  ORDER BY c.partition
  FOR UPDATE;

  SELECT array_agg(p.partition)
  INTO _lost
  FROM headwater.subscription_partitions AS p
  JOIN headwater.subscription_counts AS c ON c.subscription_id = p.subscription_id AND c.partition = p.partition
  WHERE p.subscription_id = _subscription
    AND (
      headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to) < c.counted_from
      OR c.projection_id IS DISTINCT FROM _projection
    );

  IF _lost IS NOT NULL THEN
    -- Such a partition counts as not counted while its rows are deleted, which may take several calls.
    UPDATE headwater.subscription_counts AS c
    SET counted_from = c.counted_up_to
    WHERE c.subscription_id = _subscription AND c.partition = ANY (_lost) AND c.counted_from < c.counted_up_to;

    DELETE FROM headwater.subscription_backlog AS b
    WHERE b.ctid = ANY (ARRAY(
      SELECT b.ctid
      FROM headwater.subscription_backlog AS b
      WHERE b.subscription_id = _subscription AND b.partition = ANY (_lost)
      LIMIT _rows_max
    ));
    GET DIAGNOSTICS _deleted = ROW_COUNT;

    IF _deleted = _rows_max THEN
      RETURN true;
    END IF;

    UPDATE headwater.subscription_counts AS c
    SET projection_id = _projection, counted_from = l.low, counted_up_to = l.low
    FROM headwater.subscription_partitions AS p
    CROSS JOIN LATERAL (SELECT headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to) AS low) AS l
    WHERE c.subscription_id = _subscription AND c.partition = ANY (_lost)
      AND p.subscription_id = _subscription AND p.partition = c.partition;
  END IF;

  SELECT array_agg(p.partition), array_agg(l.low), array_agg(greatest(l.low, c.counted_up_to))
  INTO _partitions, _lows, _starts
  FROM headwater.subscription_partitions AS p
  CROSS JOIN LATERAL (SELECT headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to) AS low) AS l
  JOIN headwater.subscription_counts AS c ON c.subscription_id = p.subscription_id AND c.partition = p.partition
  WHERE p.subscription_id = _subscription;

  IF _partitions IS NULL THEN
    -- The subscription was deleted meanwhile.
    PERFORM headwater.subscription_forget_counts(ARRAY[_subscription]);
    RETURN false;
  END IF;

  WITH seen AS MATERIALIZED (
    SELECT w.partition, w.positions, w.reach, w.is_all
    FROM headwater.subscription_window(_subscription, _settled, _partitions, _starts, _messages_max) AS w
  ),
  written AS (
    INSERT INTO headwater.subscription_backlog (subscription_id, partition, last_position, first_number, positions)
    SELECT
      _subscription, w.partition, r.positions[cardinality(r.positions)], e.number + g.first, r.positions
    FROM seen AS w
    CROSS JOIN LATERAL generate_series(0, cardinality(w.positions) - 1, _positions_max) AS g (first)
    CROSS JOIN LATERAL (SELECT w.positions[g.first + 1 : g.first + _positions_max] AS positions) AS r
    CROSS JOIN LATERAL (
      SELECT headwater.subscription_number(_subscription, w.partition, 9223372036854775807) AS number
    ) AS e
  ),
  moved AS (
    UPDATE headwater.subscription_counts AS c
    SET counted_up_to = w.reach, counted_from = greatest(c.counted_from, n.low)
    FROM seen AS w
    JOIN unnest(_partitions, _lows) AS n (partition, low) ON n.partition = w.partition
    WHERE c.subscription_id = _subscription AND c.partition = w.partition
      AND (c.counted_up_to, c.counted_from) <> (w.reach, greatest(c.counted_from, n.low))
  )
  SELECT bool_and(w.is_all) INTO _is_all FROM seen AS w;

  DELETE FROM headwater.subscription_backlog AS b
  WHERE b.ctid = ANY (ARRAY(
    SELECT b.ctid
    FROM unnest(_partitions, _lows) AS n (partition, low)
    JOIN headwater.subscription_backlog AS b
      ON b.subscription_id = _subscription AND b.partition = n.partition AND b.last_position <= n.low
    LIMIT _rows_max
  ));

  RETURN NOT _is_all;
END;
$$;
