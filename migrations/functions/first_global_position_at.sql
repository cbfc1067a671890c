-- The global position of the first message whose time is at or after the given one; the next one after the last message
-- if there is none. Among counted messages the ranges of time find it, in whatever order the times are. What was not
-- counted yet is searched as if times ascended with positions, up to the length of a transaction: a binary search finds a
-- place a minute earlier, and messages are read from there. There, a message whose writer gave it a time that is out of
-- order by more than that minute may be missed.
CREATE OR REPLACE FUNCTION headwater.first_global_position_at(_time timestamp)
RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  counted bigint;
  low bigint;
  high bigint;
  last bigint;
  middle bigint;
  found_at bigint;
  seen record;
BEGIN
  SELECT w.counted_position INTO counted FROM headwater.time_window(NULL, NULL) AS w;

  IF counted > 0 THEN
    -- A range holds one such message at least, unless it was trimmed.
    SELECT m.global_position
    INTO found_at
    FROM (
      SELECT r.run FROM headwater.time_ranges AS r WHERE r.last_time >= _time ORDER BY r.run
    ) AS r
    CROSS JOIN LATERAL (
      SELECT m.global_position
      FROM message_store.messages AS m
      WHERE m.global_position BETWEEN r.run * 10000 AND r.run * 10000 + 9999
        AND m.global_position <= counted
        AND m.time >= _time
      ORDER BY m.global_position
      LIMIT 1
    ) AS m
    LIMIT 1;

    IF FOUND THEN
      RETURN found_at;
    END IF;
  END IF;

  SELECT m.global_position
  INTO last
  FROM message_store.messages AS m
  ORDER BY m.global_position DESC
  LIMIT 1;

  low := counted + 1;
  high := coalesce(last, 0) + 1;

  WHILE low < high LOOP
    middle := (low + high) / 2;

    SELECT m.global_position, m.time
    INTO seen
    FROM message_store.messages AS m
    WHERE m.global_position >= middle
    ORDER BY m.global_position
    LIMIT 1;

    IF seen.time >= _time - interval '1 minute' THEN
      high := middle;
    ELSE
      low := seen.global_position + 1;
    END IF;
  END LOOP;

  SELECT m.global_position
  INTO found_at
  FROM message_store.messages AS m
  WHERE m.global_position >= low AND m.time >= _time
  ORDER BY m.global_position
  LIMIT 1;

  RETURN coalesce(found_at, last + 1, 1);
END;
$$;
