-- How many of the messages at these global positions fit into `_bytes_max`, in the order in which these are given; the
-- first in any case.
CREATE OR REPLACE FUNCTION headwater.messages_that_fit(_global_positions bigint[], _bytes_max bigint)
RETURNS integer
LANGUAGE sql STABLE
AS $$
  SELECT greatest(count(*), 1)::integer FROM headwater.messages_at(_global_positions, _bytes_max)
$$;
