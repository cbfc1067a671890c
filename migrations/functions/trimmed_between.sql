-- How many messages of a log were trimmed between two global positions (exclusive and inclusive), and the first position
-- after them. `_categories`: NULL for all. A place within a range has a share of it: so the number is exact from before a
-- range, and the numbers of pages that follow each other add up.
CREATE OR REPLACE FUNCTION headwater.trimmed_between(
  _categories text[],
  _streams text[],
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
  -- So it is nearly always. The statement below is planned anew by every call: PostgreSQL thinks that this pays.
  IF coalesce(cardinality(_streams), 0) = 0
    AND NOT EXISTS (SELECT FROM headwater.trimmed_ranges AS t WHERE t.last_global_position > _after)
  THEN
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
    SELECT t.first_global_position AS first, t.last_global_position AS last, t.message_count AS messages
    FROM headwater.trimmed_ranges AS t
    WHERE (_categories IS NULL OR t.category = ANY (_categories))
      AND t.last_global_position > _after AND t.first_global_position <= _up_to
    UNION ALL
    SELECT t.first_global_position, t.last_global_position, t.first_position
    FROM headwater.trimmed_streams AS t
    WHERE t.stream_name = ANY (_streams)
      AND t.last_global_position > _after AND t.first_global_position <= _up_to
  ) AS r;
END;
$$;
