-- The message at the highest position of exactly this stream, of this type if one is given.
CREATE OR REPLACE FUNCTION message_store.get_last_stream_message(stream_name varchar, type varchar DEFAULT NULL)
RETURNS SETOF message_store.message
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  IF current_setting('message_store.debug', true) = 'on'
    OR current_setting('message_store.debug_get', true) = 'on'
  THEN
    RAISE NOTICE '» get_last_stream_message';
    RAISE NOTICE 'stream_name: %', get_last_stream_message.stream_name;
    RAISE NOTICE 'type: %', get_last_stream_message.type;
  END IF;

  RETURN QUERY
  SELECT
    messages.id::varchar,
    messages.stream_name::varchar,
    messages.type::varchar,
    messages.position,
    messages.global_position,
    messages.data::varchar,
    messages.metadata::varchar,
    messages.time
  FROM message_store.messages
  WHERE messages.stream_name = get_last_stream_message.stream_name
    AND (get_last_stream_message.type IS NULL OR messages.type = get_last_stream_message.type)
  ORDER BY messages.position DESC
  LIMIT 1;
END;
$$;
