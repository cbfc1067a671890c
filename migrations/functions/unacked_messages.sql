-- Which of the messages at these global positions some subscription has not acked: for each, the subscription. Also those
-- that are parked, and those that an aggregated stream will have once it has been projected so far.
CREATE OR REPLACE FUNCTION headwater.unacked_messages(_global_positions bigint[])
RETURNS TABLE (subscription_id bigint, global_position bigint)
LANGUAGE sql STABLE
AS $$
  WITH candidate AS MATERIALIZED (
    SELECT m.global_position, m.position, m.stream_name, m.type
    FROM message_store.messages AS m
    WHERE m.global_position = ANY (_global_positions)
  ),
  stream AS MATERIALIZED (
    SELECT c.stream_name, message_store.category(c.stream_name)::text AS category
    FROM candidate AS c
    GROUP BY c.stream_name
  ),
  subscription AS MATERIALIZED (
    SELECT
      s.id,
      s.definition -> 'source' AS source,
      NULLIF(s.definition -> 'types', '[]') AS types,
      CASE WHEN s.is_partitioned THEN (s.definition ->> 'partitions')::bigint ELSE 1 END AS partitions,
      s.aggregated_stream_id,
      s.keyed_stream_id
    FROM headwater.subscriptions AS s
  ),
  -- Of a log: up to where the stream's messages are acked, counted as the source does.
  followed AS MATERIALIZED (
    SELECT
      w.id, w.types, w.stream_name, w.is_stream,
      headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to) AS acked
    FROM (
      SELECT s.id, s.types, s.partitions, t.stream_name, true AS is_stream
      FROM subscription AS s
      JOIN stream AS t ON t.stream_name = s.source ->> 'stream_name'
      UNION ALL
      SELECT s.id, s.types, s.partitions, t.stream_name, false
      FROM subscription AS s
      CROSS JOIN LATERAL jsonb_array_elements_text(s.source -> 'categories') AS c (category)
      JOIN stream AS t ON t.category = c.category
      UNION ALL
      SELECT s.id, s.types, s.partitions, t.stream_name, false
      FROM subscription AS s
      CROSS JOIN stream AS t
      WHERE s.source -> 'all' = 'true'
    ) AS w
    LEFT JOIN headwater.subscription_partitions AS p
      ON p.subscription_id = w.id AND p.partition = headwater.subscription_partition(w.stream_name, w.partitions)
  ),
  aggregated AS MATERIALIZED (
    SELECT
      s.id, s.types, j.id AS projection_id, d.definition, s.partitions, s.keyed_stream_id IS NOT NULL AS is_keyed,
      CASE WHEN j.is_live THEN r.live_position ELSE j.projected_position END AS projected
    FROM subscription AS s
    JOIN headwater.aggregated_streams AS d ON d.id IN (s.aggregated_stream_id, s.keyed_stream_id)
    JOIN headwater.projections AS j ON j.aggregated_stream_id = d.id AND j.is_current
    CROSS JOIN headwater.projector AS r
  )
  SELECT f.id, c.global_position
  FROM followed AS f
  JOIN candidate AS c ON c.stream_name = f.stream_name
  WHERE CASE WHEN f.is_stream THEN c.position ELSE c.global_position END > coalesce(f.acked, -1)
    AND (f.types IS NULL OR f.types ? c.type)
  UNION ALL
  SELECT g.id, c.global_position
  FROM aggregated AS g
  CROSS JOIN candidate AS c
  JOIN headwater.aggregated_messages AS a
    ON a.projection_id = g.projection_id AND a.global_position = c.global_position
  -- A keyed one is divided by the hash of the key, and counts as the log does.
  LEFT JOIN headwater.aggregated_keys AS k
    ON g.is_keyed AND k.projection_id = a.projection_id AND k.partition = a.partition
  LEFT JOIN headwater.subscription_partitions AS p
    ON p.subscription_id = g.id AND p.partition = CASE
      WHEN NOT g.is_keyed THEN a.partition
      WHEN g.partitions = 1 THEN 0
      ELSE mod(abs(message_store.hash_64(k.key::varchar)), g.partitions)
    END
  WHERE CASE WHEN g.is_keyed THEN c.global_position ELSE a.position END
      > coalesce(headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to), -1)
    AND (g.types IS NULL OR g.types ? c.type)
  UNION ALL
  SELECT g.id, c.global_position
  FROM aggregated AS g
  JOIN candidate AS c ON c.global_position > g.projected
  JOIN stream AS t ON t.stream_name = c.stream_name
  WHERE (g.types IS NULL OR g.types ? c.type)
    AND (coalesce(NULLIF(g.definition -> 'types', '[]') ? c.type, true))
    AND (
      coalesce(NULLIF(g.definition -> 'stream_wildcards', '[]'), NULLIF(g.definition -> 'categories', '[]')) IS NULL
      OR coalesce(g.definition -> 'categories' ? t.category, false)
      OR EXISTS (
        SELECT
        FROM jsonb_array_elements_text(coalesce(g.definition -> 'stream_wildcards', '[]')) AS w (wildcard)
        WHERE t.stream_name LIKE replace(replace(w.wildcard, '\', '\\'), '_', '\_')
      )
    )
  UNION ALL
  SELECT d.subscription_id, d.global_position
  FROM headwater.subscription_deliveries AS d
  WHERE d.global_position = ANY (_global_positions)
  UNION ALL
  SELECT k.subscription_id, k.global_position
  FROM headwater.subscription_parked AS k
  WHERE k.global_position = ANY (_global_positions)
$$;
