-- The id up to its first '+', by which the streams of one entity stay together in a consumer group.
CREATE OR REPLACE FUNCTION message_store.cardinal_id(stream_name varchar)
RETURNS varchar
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT split_part(message_store.id(stream_name), '+', 1)::varchar
$$;
