-- For trim_messages, which holds the lock on the counted position: the counts of reports are those of what is left. Streams
-- stay: each has a message still.
CREATE OR REPLACE FUNCTION headwater.trimmed_in_counts(
  _category text,
  _types text[],
  _positions bigint[],
  _global_positions bigint[]
)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _counted bigint;
BEGIN
  SELECT c.position INTO _counted FROM headwater.counted_position AS c;

  INSERT INTO headwater.message_counts AS c
    (pair, category, type, message_count, stream_count, last_global_position, last_time)
  SELECT
    sha256(sha256(convert_to(_category, 'UTF8')) || sha256(convert_to(d.type, 'UTF8'))),
    _category, d.type,
    -count(*) FILTER (WHERE d.global_position <= _counted),
    -- A stream that has not been counted yet has lost the message by which it would be.
    count(*) FILTER (WHERE d.global_position > _counted AND d.position = 0),
    max(d.global_position), '-infinity'
  FROM unnest(_types, _positions, _global_positions) AS d (type, position, global_position)
  WHERE d.global_position <= _counted OR d.position = 0
  GROUP BY d.type
  ON CONFLICT (pair) DO UPDATE SET
    message_count = greatest(c.message_count + excluded.message_count, 0),
    stream_count = c.stream_count + excluded.stream_count;
END;
$$;
