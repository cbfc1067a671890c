-- Messages of one stream from a position on, in its order. A batch size of -1 is unlimited.
CREATE OR REPLACE FUNCTION message_store.get_stream_messages(
  stream_name varchar,
  "position" bigint DEFAULT 0,
  batch_size bigint DEFAULT 1000,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _position bigint := COALESCE(get_stream_messages.position, 0);
  -- LIMIT NULL is no limit; LIMIT itself refuses other negative numbers.
  _limit bigint := NULLIF(COALESCE(get_stream_messages.batch_size, 1000), -1);
BEGIN
  IF current_setting('message_store.debug', true) = 'on'
    OR current_setting('message_store.debug_get', true) = 'on'
  THEN
    RAISE NOTICE '» get_stream_messages';
    RAISE NOTICE 'stream_name: %', get_stream_messages.stream_name;
    RAISE NOTICE 'position: %', get_stream_messages.position;
    RAISE NOTICE 'batch_size: %', get_stream_messages.batch_size;
    RAISE NOTICE 'condition: %', get_stream_messages.condition;
  END IF;

  IF message_store.is_category(get_stream_messages.stream_name) THEN
    RAISE EXCEPTION 'Must be a stream name: %', get_stream_messages.stream_name;
  END IF;

  IF get_stream_messages.condition IS NULL THEN
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
    WHERE messages.stream_name = get_stream_messages.stream_name
      AND messages.position >= _position
    ORDER BY messages.position
    LIMIT _limit;
    RETURN;
  END IF;

  IF COALESCE(current_setting('message_store.sql_condition', true), 'off') = 'off' THEN
    RAISE EXCEPTION 'Retrieval with SQL condition is not activated';
  END IF;

  -- The condition is SQL of the caller's, put in as it is: only who may write SQL anyway reaches it.
  RETURN QUERY EXECUTE format(
    $query$
      SELECT
        id::varchar,
        stream_name::varchar,
        type::varchar,
        position,
        global_position,
        data::varchar,
        metadata::varchar,
        time
      FROM message_store.messages
      WHERE stream_name = $1
        AND position >= $2
        AND (%s)
      ORDER BY position
      LIMIT $3
    $query$,
    get_stream_messages.condition
  )
  USING get_stream_messages.stream_name, _position, _limit;
END;
$$;
