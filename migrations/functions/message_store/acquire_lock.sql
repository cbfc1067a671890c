-- Writers of one category go one after the other, until commit. NULL takes no lock (pg_advisory_xact_lock is strict).
CREATE OR REPLACE FUNCTION message_store.acquire_lock(stream_name varchar)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _lock_key bigint := message_store.hash_64(message_store.category(acquire_lock.stream_name));
BEGIN
  PERFORM pg_advisory_xact_lock(_lock_key);

  IF current_setting('message_store.debug', true) = 'on'
    OR current_setting('message_store.debug_write', true) = 'on'
  THEN
    RAISE NOTICE '» acquire_lock';
    RAISE NOTICE 'stream_name: %', acquire_lock.stream_name;
  END IF;

  RETURN _lock_key;
END;
$$;
