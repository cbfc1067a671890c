-- Deletes those of the messages at these global positions that are the oldest of their streams. All of them are in one
-- category. The newest message of a stream always stays, because a stream's version is its position; what a subscription
-- has not acked stays with `_unless_unacked`; and so does what comes after a message that stays.
--
-- trimmed: how many were deleted. kept_unacked: the first global position that stays because it is not acked; NULL: none.
CREATE OR REPLACE FUNCTION headwater.trim_messages(
  _category text,
  _global_positions bigint[],
  _unless_unacked boolean,
  OUT trimmed bigint,
  OUT kept_unacked bigint
)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _unacked_subscriptions bigint[];
  _unacked_positions bigint[];
  _kept bigint[] := '{}';
  _globals bigint[];
  _streams text[];
  _positions bigint[];
  _types text[];
  _erased uuid[];
BEGIN
  -- One trim at a time: its messages are taken from what was counted, and a retention counts before it trims. Appends take
  -- other locks.
  PERFORM FROM headwater.counted_position FOR UPDATE;

  SELECT array_agg(u.subscription_id), array_agg(u.global_position), min(u.global_position)
  INTO _unacked_subscriptions, _unacked_positions, kept_unacked
  FROM (
    SELECT DISTINCT u.subscription_id, u.global_position FROM headwater.unacked_messages(_global_positions) AS u
  ) AS u;

  IF _unless_unacked THEN
    _kept := coalesce(_unacked_positions, '{}');
  ELSE
    kept_unacked := NULL;
  END IF;

  WITH candidate AS MATERIALIZED (
    SELECT m.global_position, m.stream_name, m.position
    FROM message_store.messages AS m
    WHERE m.global_position = ANY (_global_positions)
      AND NOT EXISTS (SELECT FROM unnest(_kept) AS k (global_position) WHERE k.global_position = m.global_position)
  ),
  stream AS MATERIALIZED (
    SELECT c.stream_name, least(s.position, n.position) AS stop
    FROM (
      SELECT c.stream_name, array_agg(c.global_position) AS global_positions FROM candidate AS c GROUP BY c.stream_name
    ) AS c
    LEFT JOIN headwater.trimmed_streams AS t ON t.stream_name = c.stream_name
    LEFT JOIN LATERAL (
      SELECT m.position
      FROM message_store.messages AS m
      WHERE m.stream_name = c.stream_name AND m.position >= coalesce(t.first_position, 0)
        AND m.global_position <> ALL (c.global_positions)
      ORDER BY m.position
      LIMIT 1
    ) AS s ON true
    CROSS JOIN LATERAL (
      SELECT m.position
      FROM message_store.messages AS m
      WHERE m.stream_name = c.stream_name
      ORDER BY m.position DESC
      LIMIT 1
    ) AS n
  ),
  deleted AS (
    DELETE FROM message_store.messages AS m
    USING candidate AS c
    JOIN stream AS s ON s.stream_name = c.stream_name AND c.position < s.stop
    WHERE m.global_position = c.global_position
    RETURNING m.global_position, m.stream_name, m.position, m.type, CASE WHEN m.data IS NULL THEN m.id END AS erased
  )
  SELECT
    array_agg(d.global_position), array_agg(d.stream_name), array_agg(d.position), array_agg(d.type),
    array_agg(d.erased) FILTER (WHERE d.erased IS NOT NULL)
  INTO _globals, _streams, _positions, _types, _erased
  FROM deleted AS d;

  trimmed := coalesce(cardinality(_globals), 0);

  IF trimmed = 0 THEN
    RETURN;
  END IF;

  INSERT INTO headwater.trimmed_streams AS t
    (stream_name, first_position, first_global_position, last_global_position)
  SELECT d.stream_name, max(d.position) + 1, min(d.global_position), max(d.global_position)
  FROM unnest(_streams, _positions, _globals) AS d (stream_name, position, global_position)
  GROUP BY d.stream_name
  ON CONFLICT (stream_name) DO UPDATE SET
    first_position = greatest(t.first_position, excluded.first_position),
    first_global_position = least(t.first_global_position, excluded.first_global_position),
    last_global_position = greatest(t.last_global_position, excluded.last_global_position);

  PERFORM headwater.trimmed_in_category(_category, _globals);
  PERFORM headwater.trimmed_in_projections(_globals);
  PERFORM headwater.trimmed_in_counts(_category, _types, _positions, _globals);

  UPDATE headwater.erased_messages AS e SET trimmed_at = clock_timestamp() WHERE e.id = ANY (_erased);
  -- By then every instance has looked for erasures, or has begun anew.
  DELETE FROM headwater.erased_messages AS e
  WHERE e.id = ANY (ARRAY(
    SELECT o.id
    FROM headwater.erased_messages AS o
    WHERE o.trimmed_at < clock_timestamp() - interval '1 day'
    LIMIT 1000
  ));

  IF _unacked_subscriptions IS NOT NULL AND NOT _unless_unacked THEN
    -- In their order, as everywhere.
    PERFORM FROM headwater.subscriptions AS s WHERE s.id = ANY (_unacked_subscriptions) ORDER BY s.id FOR UPDATE;
    UPDATE headwater.subscriptions AS s
    SET trimmed = s.trimmed + u.messages
    FROM (
      SELECT u.subscription_id, count(*) AS messages
      FROM unnest(_unacked_subscriptions, _unacked_positions) AS u (subscription_id, global_position)
      WHERE u.global_position = ANY (_globals)
      GROUP BY u.subscription_id
    ) AS u
    WHERE s.id = u.subscription_id;
    PERFORM headwater.subscription_forget_counts(_unacked_subscriptions);
  END IF;

  -- Last, because all trims wait for it until the commit: what comes after this sees all that were before it.
  UPDATE headwater.trims AS n SET number = n.number + 1;
END;
$$;
