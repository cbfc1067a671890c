-- How many messages of an aggregated stream, or of some of its partitions, were trimmed between two global positions; as
-- trimmed_between counts them. The last link of a partition stays when its message goes, and is no trimmed link: of some
-- partitions it is looked at, too.
CREATE OR REPLACE FUNCTION headwater.trimmed_links_between(
  _projection bigint,
  _partitions integer[],
  _after bigint,
  _up_to bigint,
  OUT message_count bigint,
  OUT first_position bigint
)
-- In PL/pgSQL, which keeps the plan for as long as a session lasts: every page asks.
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
BEGIN
  -- So it is nearly always.
  IF coalesce(cardinality(_partitions), 0) = 0 AND NOT EXISTS (
    SELECT FROM headwater.trimmed_links AS t WHERE t.projection_id = _projection AND t.last_global_position > _after
  ) THEN
    message_count := 0;
    RETURN;
  END IF;

  SELECT
    coalesce(sum(
      CASE
        WHEN _up_to >= r.last THEN r.messages
        ELSE r.messages * (_up_to - r.first + 1)::numeric / (r.last - r.first + 1)
      END::bigint
      - CASE
        WHEN _after < r.first THEN 0
        ELSE r.messages * (_after - r.first + 1)::numeric / (r.last - r.first + 1)
      END::bigint
    ), 0)::bigint,
    max(least(r.last, _up_to)) + 1
  INTO message_count, first_position
  FROM (
    SELECT
      t.first_global_position AS first, t.last_global_position AS last, t.last_position - t.first_position + 1 AS messages
    FROM headwater.trimmed_links AS t
    WHERE t.projection_id = _projection AND (_partitions IS NULL OR t.partition = ANY (_partitions))
      AND t.last_global_position > _after AND t.first_global_position <= _up_to
    UNION ALL
    SELECT l.global_position, l.global_position, 1
    FROM unnest(_partitions) AS p (partition)
    CROSS JOIN LATERAL (
      SELECT a.global_position
      FROM headwater.aggregated_messages AS a
      WHERE a.projection_id = _projection AND a.partition = p.partition
      ORDER BY a.position DESC
      LIMIT 1
    ) AS l
    WHERE l.global_position > _after AND l.global_position <= _up_to
      AND NOT EXISTS (SELECT FROM message_store.messages AS m WHERE m.global_position = l.global_position)
  ) AS r;
END;
$$;
