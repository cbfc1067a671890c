-- Writes one message and returns its position in its stream.
CREATE OR REPLACE FUNCTION message_store.write_message(
  id varchar,
  stream_name varchar,
  type varchar,
  data jsonb,
  metadata jsonb DEFAULT NULL,
  expected_version bigint DEFAULT NULL
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id uuid;
  _stream_version bigint;
  _next_position bigint;
  _global_position bigint;
  _notify text := NULLIF(current_setting('message_store.notify', true), '');
BEGIN
  -- Locks in a statement of its own: the next one takes its snapshot after the wait, and sees what was committed meanwhile.
  PERFORM message_store.acquire_lock(write_message.stream_name);

  SELECT max(messages.position)
  INTO _stream_version
  FROM message_store.messages
  WHERE messages.stream_name = write_message.stream_name;

  _stream_version := COALESCE(_stream_version, -1);

  IF write_message.expected_version <> _stream_version THEN
    RAISE EXCEPTION 'Wrong expected version: % (Stream: %, Stream Version: %)',
      write_message.expected_version, write_message.stream_name, _stream_version;
  END IF;

  _next_position := _stream_version + 1;
  -- Cast before the INSERT, so that a text which is no uuid uses up no global position.
  _id := write_message.id::uuid;

  INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata)
  VALUES (
    _id,
    write_message.stream_name,
    _next_position,
    write_message.type,
    write_message.data,
    write_message.metadata
  )
  RETURNING messages.global_position INTO _global_position;

  IF current_setting('message_store.debug_write', true) = 'on'
    OR current_setting('message_store.debug', true) = 'on'
  THEN
    RAISE NOTICE '» write_message';
    RAISE NOTICE 'id ($1): %', write_message.id;
    RAISE NOTICE 'stream_name ($2): %', write_message.stream_name;
    RAISE NOTICE 'type ($3): %', write_message.type;
    RAISE NOTICE 'data ($4): %', write_message.data;
    RAISE NOTICE 'metadata ($5): %', write_message.metadata;
    RAISE NOTICE 'expected_version ($6): %', write_message.expected_version;
    RAISE NOTICE '_stream_version: %', _stream_version;
    RAISE NOTICE '_next_position: %', _next_position;
  END IF;

  -- A signal for followers. Commits that notify go one by one, so a bulk load may turn it off. PostgreSQL cannot prepare a
  -- transaction that has notified: where transactions may be prepared, only those notify that ask for it.
  IF _notify <> 'off' OR (_notify IS NULL AND current_setting('max_prepared_transactions') = '0') THEN
    PERFORM pg_notify('headwater', _global_position::text);
  END IF;

  RETURN _next_position;
END;
$$;
