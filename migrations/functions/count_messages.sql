-- Counts messages that no earlier call has counted, at most `_messages_max` and up to a settled position. Returns the
-- position up to which all are counted then; NULL if another session is counting. Counts and position change in one
-- transaction, so a message is counted once; if a crash undoes the transaction, the next call counts the same messages.
CREATE OR REPLACE FUNCTION headwater.count_messages(_settled bigint, _messages_max bigint)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
  counted bigint;
  target bigint;
  seen bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);

  SELECT c.position
  INTO counted
  FROM headwater.counted_position AS c
  FOR UPDATE SKIP LOCKED;

  IF NOT FOUND OR counted >= _settled THEN
    RETURN counted;
  END IF;

  -- The limit is one of messages, not of positions: there may be large holes between them.
  SELECT max(m.global_position), count(*)
  INTO target, seen
  FROM (
    SELECT global_position
    FROM message_store.messages
    WHERE global_position > counted AND global_position <= _settled
    ORDER BY global_position
    LIMIT _messages_max
  ) AS m;

  IF seen < _messages_max THEN
    target := _settled;
  END IF;

  INSERT INTO headwater.message_counts AS c
    (pair, category, type, message_count, stream_count, last_global_position, last_time)
  SELECT
    sha256(sha256(convert_to(m.category, 'UTF8')) || sha256(convert_to(m.type, 'UTF8'))),
    m.category,
    m.type,
    count(*),
    count(*) FILTER (WHERE m.position = 0),
    max(m.global_position),
    max(m.time)
  FROM (
    SELECT message_store.category(stream_name) AS category, type, position, global_position, time
    FROM message_store.messages
    WHERE global_position > counted AND global_position <= target
  ) AS m
  GROUP BY m.category, m.type
  ON CONFLICT (pair) DO UPDATE SET
    message_count = c.message_count + excluded.message_count,
    stream_count = c.stream_count + excluded.stream_count,
    last_global_position = excluded.last_global_position,
    last_time = greatest(c.last_time, excluded.last_time);

  INSERT INTO headwater.time_ranges AS r (run, first_time, last_time)
  SELECT m.global_position / 10000, min(m.time), max(m.time)
  FROM message_store.messages AS m
  WHERE m.global_position > counted AND m.global_position <= target
  GROUP BY m.global_position / 10000
  ON CONFLICT (run) DO UPDATE SET
    first_time = least(r.first_time, excluded.first_time),
    last_time = greatest(r.last_time, excluded.last_time);

  UPDATE headwater.counted_position SET position = target;

  RETURN target;
END;
$$;
