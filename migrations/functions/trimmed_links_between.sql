-- How many messages of an aggregated stream, or of some of its partitions, were trimmed between two global positions; as
-- trimmed_between counts them.
CREATE OR REPLACE FUNCTION headwater.trimmed_links_between(
  _projection bigint,
  _partitions integer[],
  _after bigint,
  _up_to bigint,
  OUT message_count bigint,
  OUT first_position bigint
)
LANGUAGE sql STABLE
AS $$
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
  FROM (
    SELECT
      t.first_global_position AS first, t.last_global_position AS last, t.last_position - t.first_position + 1 AS messages
    FROM headwater.trimmed_links AS t
    WHERE t.projection_id = _projection AND (_partitions IS NULL OR t.partition = ANY (_partitions))
      AND t.last_global_position > _after AND t.first_global_position <= _up_to
  ) AS r
$$;
