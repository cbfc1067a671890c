-- Where messages can be whose time is at or after `_from` (NULL: any) and before `_to` (NULL: any), among those that were
-- counted: at global positions from `first_position` to `last_position`. After `counted_position` they can be anywhere.
CREATE OR REPLACE FUNCTION headwater.time_window(
  _from timestamp,
  _to timestamp,
  OUT first_position bigint,
  OUT last_position bigint,
  OUT counted_position bigint
)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  head bigint;
BEGIN
  SELECT c.position INTO counted_position FROM headwater.counted_position AS c;

  SELECT m.global_position
  INTO head
  FROM message_store.messages AS m
  ORDER BY m.global_position DESC
  LIMIT 1;

  -- Nothing was counted; or the log went back, nobody has noticed yet, and what was counted was another one.
  IF counted_position = 0 OR counted_position > coalesce(head, 0) THEN
    counted_position := 0;
    first_position := 1;
    last_position := 0;
    RETURN;
  END IF;

  first_position := coalesce(
    (
      SELECT r.run * 10000
      FROM headwater.time_ranges AS r
      WHERE _from IS NULL OR r.last_time >= _from
      ORDER BY r.run
      LIMIT 1
    ),
    counted_position + 1
  );

  last_position := least(
    coalesce(
      (
        SELECT r.run * 10000 + 9999
        FROM headwater.time_ranges AS r
        WHERE _to IS NULL OR r.first_time < _to
        ORDER BY r.run DESC
        LIMIT 1
      ),
      0
    ),
    counted_position
  );
END;
$$;
