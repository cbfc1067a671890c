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
  _batch_size bigint := COALESCE(get_stream_messages.batch_size, 1000);
  _command text;
BEGIN
  IF message_store.is_category(get_stream_messages.stream_name) THEN
    RAISE EXCEPTION 'Must be a stream name: %', get_stream_messages.stream_name;
  END IF;

  _command := '
    SELECT
      id::varchar,
      stream_name::varchar,
      type::varchar,
      position::bigint,
      global_position::bigint,
      data::varchar,
      metadata::varchar,
      time::timestamp
    FROM
      message_store.messages
    WHERE
      stream_name = $1 AND
      position >= $2';

  IF get_stream_messages.condition IS NOT NULL THEN
    IF COALESCE(current_setting('message_store.sql_condition', true), 'off') = 'off' THEN
      RAISE EXCEPTION 'Retrieval with SQL condition is not activated';
    END IF;

    -- The condition is SQL of the caller's, put in as it is: only programs that may run any SQL can pass one.
    _command := _command || ' AND
      (' || get_stream_messages.condition || ')';
  END IF;

  _command := _command || '
    ORDER BY
      position ASC';

  IF _batch_size <> -1 THEN
    _command := _command || '
    LIMIT
      $3';
  END IF;

  IF current_setting('message_store.debug_get', true) = 'on'
    OR current_setting('message_store.debug', true) = 'on'
  THEN
    RAISE NOTICE '» get_stream_messages';
    RAISE NOTICE 'stream_name ($1): %', get_stream_messages.stream_name;
    RAISE NOTICE 'position ($2): %', _position;
    RAISE NOTICE 'batch_size ($3): %', _batch_size;
    RAISE NOTICE 'condition ($4): %', get_stream_messages.condition;
    RAISE NOTICE 'Generated Command: %', _command;
  END IF;

  RETURN QUERY EXECUTE _command USING get_stream_messages.stream_name, _position, _batch_size;
END;
$$;
