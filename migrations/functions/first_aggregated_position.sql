-- The position in a partition of its first message at or after a global position; the next free position if there is
-- none. Both ascend together, and a partition's positions have no holes, so some twenty look-ups find the place.
CREATE OR REPLACE FUNCTION headwater.first_aggregated_position(
  _projection_id bigint,
  _partition integer,
  _message_count bigint,
  _global_position bigint
)
RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  low bigint := 0;
  high bigint := _message_count;
  middle bigint;
  seen record;
BEGIN
  WHILE low < high LOOP
    middle := (low + high) / 2;

    -- There are holes where messages were trimmed.
    SELECT a.position, a.global_position INTO seen
    FROM headwater.aggregated_messages AS a
    WHERE a.projection_id = _projection_id AND a.partition = _partition AND a.position >= middle
    ORDER BY a.position
    LIMIT 1;

    IF seen.global_position IS NULL OR seen.global_position >= _global_position THEN
      high := middle;
    ELSE
      low := seen.position + 1;
    END IF;
  END LOOP;

  RETURN coalesce(
    (
      SELECT a.position
      FROM headwater.aggregated_messages AS a
      WHERE a.projection_id = _projection_id AND a.partition = _partition AND a.position >= low
      ORDER BY a.position
      LIMIT 1
    ),
    _message_count
  );
END;
$$;
