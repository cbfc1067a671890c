-- For trim_messages, which lets one session in at a time: notes how many messages of it were trimmed, and
-- where. Ranges that overlap, or that have no message of the category between them, are one. So are the two closest, if
-- there would be more than a thousand.
CREATE OR REPLACE FUNCTION headwater.trimmed_in_category(_category text, _global_positions bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _ranges_max CONSTANT bigint := 1000;
  _first bigint;
  _last bigint;
  _count bigint;
  _before bigint;
  _after bigint;
  _pair record;
BEGIN
  SELECT min(g.at), max(g.at), count(*)
  INTO _first, _last, _count
  FROM unnest(_global_positions) AS g (at);

  SELECT max(r.last_global_position) INTO _before
  FROM headwater.trimmed_ranges AS r
  WHERE r.category = _category AND r.last_global_position < _first;
  SELECT min(r.first_global_position) INTO _after
  FROM headwater.trimmed_ranges AS r
  WHERE r.category = _category AND r.first_global_position > _last;

  IF NOT EXISTS (
    SELECT FROM message_store.messages AS m
    WHERE message_store.category(m.stream_name) BETWEEN _category AND _category
      AND m.global_position > _before AND m.global_position < _first
  ) THEN
    _first := coalesce(_before, _first);
  END IF;
  IF NOT EXISTS (
    SELECT FROM message_store.messages AS m
    WHERE message_store.category(m.stream_name) BETWEEN _category AND _category
      AND m.global_position > _last AND m.global_position < _after
  ) THEN
    _last := coalesce(_after, _last);
  END IF;

  WITH merged AS (
    DELETE FROM headwater.trimmed_ranges AS r
    WHERE r.category = _category AND r.first_global_position <= _last AND r.last_global_position >= _first
    RETURNING r.first_global_position, r.last_global_position, r.message_count
  )
  SELECT
    least(_first, min(m.first_global_position)), greatest(_last, max(m.last_global_position)),
    _count + coalesce(sum(m.message_count), 0)
  INTO _first, _last, _count
  FROM merged AS m;

  INSERT INTO headwater.trimmed_ranges (category, first_global_position, last_global_position, message_count)
  VALUES (_category, _first, _last, _count);

  IF (SELECT count(*) FROM headwater.trimmed_ranges AS r WHERE r.category = _category) > _ranges_max THEN
    SELECT n.first_global_position, n.next_first, n.next_last, n.next_count
    INTO _pair
    FROM (
      SELECT
        t.first_global_position, t.last_global_position,
        lead(t.first_global_position) OVER w AS next_first,
        lead(t.last_global_position) OVER w AS next_last,
        lead(t.message_count) OVER w AS next_count
      FROM headwater.trimmed_ranges AS t
      WHERE t.category = _category
      WINDOW w AS (ORDER BY t.first_global_position)
    ) AS n
    ORDER BY n.next_first - n.last_global_position, n.first_global_position
    LIMIT 1;

    DELETE FROM headwater.trimmed_ranges AS t
    WHERE t.category = _category AND t.first_global_position = _pair.next_first;
    UPDATE headwater.trimmed_ranges AS t
    SET last_global_position = _pair.next_last, message_count = t.message_count + _pair.next_count
    WHERE t.category = _category AND t.first_global_position = _pair.first_global_position;
  END IF;
END;
$$;
