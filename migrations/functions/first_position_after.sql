-- The position in a stream of its first message after a global position; the next free position if there is none.
-- There is no index on (stream_name, global_position), but both positions ascend together: some twenty look-ups in the
-- index messages_stream find the place, however long the stream is.
CREATE OR REPLACE FUNCTION headwater.first_position_after(_stream_name text, _global_position bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  low bigint := 0;
  high bigint;
  middle bigint;
  seen record;
BEGIN
  SELECT m.position + 1
  INTO high
  FROM message_store.messages AS m
  WHERE m.stream_name = _stream_name
  ORDER BY m.position DESC
  LIMIT 1;

  WHILE low < high LOOP
    middle := (low + high) / 2;

    SELECT m.position, m.global_position
    INTO seen
    FROM message_store.messages AS m
    WHERE m.stream_name = _stream_name AND m.position >= middle
    ORDER BY m.position
    LIMIT 1;

    IF seen.global_position > _global_position THEN
      high := middle;
    ELSE
      low := seen.position + 1;
    END IF;
  END LOOP;

  RETURN low;
END;
$$;
