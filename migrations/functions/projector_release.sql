-- Gives the right to project back, so that another instance need not wait for the lease to end.
CREATE OR REPLACE FUNCTION headwater.projector_release(_epoch bigint)
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.projector SET expires_at = '-infinity', holder = NULL WHERE epoch = _epoch;
$$;
