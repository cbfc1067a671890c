-- The position up to which everything in a partition is acked: the one before the first message in flight, or where
-- reading has come to if nothing is in flight.
CREATE OR REPLACE FUNCTION headwater.subscription_acked_up_to(_unacked_positions bigint[], _read_up_to bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT CASE WHEN _unacked_positions[1] <= _read_up_to THEN _unacked_positions[1] - 1 ELSE _read_up_to END
$$;
