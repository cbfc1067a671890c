-- True without a '-', so for '' and NULL too. The argument is used once, so that the planner can inline the function.
CREATE OR REPLACE FUNCTION message_store.is_category(stream_name varchar)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT (strpos(stream_name, '-') > 0) IS NOT TRUE
$$;
