-- The highest position of exactly this stream; NULL if it has no message.
CREATE OR REPLACE FUNCTION message_store.stream_version(stream_name varchar)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _stream_version bigint;
BEGIN
  SELECT max(messages.position)
  INTO _stream_version
  FROM message_store.messages
  WHERE messages.stream_name = stream_version.stream_name;

  RETURN _stream_version;
END;
$$;
