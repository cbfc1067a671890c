-- How many of the messages at these global positions fit into `_bytes_max`, in the order in which these are given; the
-- first in any case. Nothing after the last that fits and the next is unpacked. A message that is gone takes no bytes.
CREATE OR REPLACE FUNCTION headwater.messages_that_fit(_global_positions bigint[], _bytes_max bigint)
RETURNS integer
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  _bytes bigint := 0;
BEGIN
  FOR i IN 1 .. cardinality(_global_positions) LOOP
    _bytes := _bytes + coalesce((
      SELECT octet_length(m.stream_name) + octet_length(m.type) + coalesce(octet_length(m.data::text), 0)
        + coalesce(octet_length(m.metadata::text), 0)
      FROM message_store.messages AS m
      WHERE m.global_position = _global_positions[i]
    ), 0);

    IF _bytes > _bytes_max THEN
      RETURN greatest(i - 1, 1);
    END IF;
  END LOOP;

  RETURN cardinality(_global_positions);
END;
$$;
