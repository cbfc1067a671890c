-- Whole messages at global positions, in the order in which these are given, up to the first that does not fit into
-- `_bytes_max`. `data` and `metadata` are printed once, and nothing after that message is unpacked: a text may be a
-- hundred times as long as its compressed row. A message that is gone takes no bytes, and is a row of NULLs.
CREATE OR REPLACE FUNCTION headwater.messages_at(_global_positions bigint[], _bytes_max bigint)
RETURNS TABLE (
  id uuid,
  stream_name text,
  type text,
  "position" bigint,
  global_position bigint,
  data text,
  metadata text,
  "time" timestamp,
  erased text
)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
  place bigint;
  bytes bigint := 0;
  found_one record;
BEGIN
  FOREACH place IN ARRAY _global_positions LOOP
    SELECT m.id, m.stream_name, m.type, m.position, m.global_position, m.data::text AS data,
      m.metadata::text AS metadata, m.time, CASE WHEN m.data IS NULL THEN headwater.erasure(m.id) END AS erased
    INTO found_one
    FROM message_store.messages AS m
    WHERE m.global_position = place;

    bytes := bytes + coalesce(octet_length(found_one.stream_name), 0) + coalesce(octet_length(found_one.type), 0)
      + coalesce(octet_length(found_one.data), 0) + coalesce(octet_length(found_one.metadata), 0);
    EXIT WHEN bytes > _bytes_max;

    id := found_one.id;
    stream_name := found_one.stream_name;
    type := found_one.type;
    "position" := found_one.position;
    global_position := found_one.global_position;
    data := found_one.data;
    metadata := found_one.metadata;
    "time" := found_one.time;
    erased := found_one.erased;
    RETURN NEXT;
  END LOOP;
END;
$$;
