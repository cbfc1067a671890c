-- Whether a message still stands where it stood. One that is gone (trimmed, erased) says nothing, as long as its position
-- was given out in this log.
CREATE OR REPLACE FUNCTION headwater.is_standing(_global_position bigint, _id uuid)
RETURNS boolean
LANGUAGE sql STABLE
AS $$
  SELECT _id IS NULL OR coalesce(
    (SELECT m.id = _id FROM message_store.messages AS m WHERE m.global_position = _global_position),
    _global_position <= headwater.log_end()
  )
$$;
