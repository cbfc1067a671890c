-- Which member of a consumer group of this size a stream belongs to: Message DB's rule, |hash_64(cardinal_id)| mod size.
-- NULL for a stream without an id, which belongs to no member. The rule is written out, because Message DB's own
-- cardinal_id works only for a role whose search path has message_store.
CREATE OR REPLACE FUNCTION headwater.group_member(stream_name text, group_size bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT CASE WHEN strpos(stream_name, '-') > 0 THEN
    mod(
      abs(
        message_store.hash_64(split_part(substr(stream_name, strpos(stream_name, '-') + 1), '+', 1)::varchar)
      ),
      group_size
    )
  END
$$;
