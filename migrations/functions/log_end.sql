-- The last position of the log that was ever given out.
CREATE OR REPLACE FUNCTION headwater.log_end()
RETURNS bigint
-- In PL/pgSQL, which keeps the plan for as long as a session lasts.
LANGUAGE plpgsql STABLE
AS $$
BEGIN
  RETURN greatest(
    (SELECT max(m.global_position) FROM message_store.messages AS m),
    pg_sequence_last_value(pg_get_serial_sequence('message_store.messages', 'global_position')::regclass),
    0
  );
END;
$$;
