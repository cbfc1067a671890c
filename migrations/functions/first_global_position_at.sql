-- The global position of the first message whose time is at or after the given one; the next one after the last
-- message if there is none. There is no index on time, but times ascend with positions, up to the length of a
-- transaction: a binary search finds a place a minute earlier, and messages are read from there. A message whose writer
-- gave it a time that is out of order by more than that minute may be missed.
CREATE OR REPLACE FUNCTION headwater.first_global_position_at(_time timestamp)
RETURNS bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  low bigint := 1;
  high bigint;
  last bigint;
  middle bigint;
  found_at bigint;
  seen record;
BEGIN
  SELECT m.global_position
  INTO last
  FROM message_store.messages AS m
  ORDER BY m.global_position DESC
  LIMIT 1;

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
