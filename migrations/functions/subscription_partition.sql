-- Which partition of a subscription a stream belongs to: as in Message DB's consumer groups, by the hash of its cardinal
-- id; a stream without an id by the hash of its whole name.
CREATE OR REPLACE FUNCTION headwater.subscription_partition(stream_name text, partitions bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT mod(
    abs(
      message_store.hash_64(
        CASE
          WHEN strpos(stream_name, '-') > 0
            THEN split_part(substr(stream_name, strpos(stream_name, '-') + 1), '+', 1)
          ELSE stream_name
        END::varchar
      )
    ),
    partitions
  )
$$;
