-- Everything up to here is acked: the place before the first message in flight, else all that was read.
CREATE OR REPLACE FUNCTION headwater.subscription_low_water(_known_positions bigint[], _read_upto bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT CASE WHEN _known_positions[1] <= _read_upto THEN _known_positions[1] - 1 ELSE _read_upto END
$$;
