-- Whether the log may still be the one that had this message at this position. One that is gone (trimmed, erased) proves
-- nothing, as long as its position was given out in this log.
CREATE OR REPLACE FUNCTION headwater.message_is_unchanged(_global_position bigint, _id uuid)
RETURNS boolean
-- In PL/pgSQL, which keeps the plan for as long as a session lasts: every page of an aggregated stream asks.
LANGUAGE plpgsql STABLE
AS $$
BEGIN
  RETURN _id IS NULL OR coalesce(
    (SELECT m.id = _id FROM message_store.messages AS m WHERE m.global_position = _global_position),
    _global_position <= headwater.log_end()
  );
END;
$$;
