-- Lets writers of one category go one after the other: the lock is held until commit. NULL takes no lock
-- (pg_advisory_xact_lock is strict).
CREATE OR REPLACE FUNCTION message_store.acquire_lock(stream_name varchar)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _category varchar := message_store.category(acquire_lock.stream_name);
  _category_name_hash bigint := message_store.hash_64(_category);
BEGIN
  PERFORM pg_advisory_xact_lock(_category_name_hash);

  IF current_setting('message_store.debug_write', true) = 'on'
    OR current_setting('message_store.debug', true) = 'on'
  THEN
    RAISE NOTICE '» acquire_lock';
    RAISE NOTICE 'stream_name: %', acquire_lock.stream_name;
    RAISE NOTICE '_category: %', _category;
    RAISE NOTICE '_category_name_hash: %', _category_name_hash;
  END IF;

  RETURN _category_name_hash;
END;
$$;
