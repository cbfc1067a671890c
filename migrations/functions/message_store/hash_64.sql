-- The first 8 bytes of md5, big-endian, signed. Locks and consumer groups depend on the results: they must never change.
CREATE OR REPLACE FUNCTION message_store.hash_64(value varchar)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT ('x' || left(md5(value), 16))::bit(64)::bigint
$$;
