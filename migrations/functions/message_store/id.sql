-- The text after the first '-': '' where nothing follows it, NULL where there is none.
CREATE OR REPLACE FUNCTION message_store.id(stream_name varchar)
RETURNS varchar
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT substr(stream_name, NULLIF(strpos(stream_name, '-'), 0) + 1)::varchar
$$;
