-- When and why a message was erased, as JSON text; NULL: it was not. Asked only for messages that have no data.
CREATE OR REPLACE FUNCTION headwater.erasure(_id uuid)
RETURNS text
LANGUAGE sql STABLE
AS $$
  SELECT jsonb_build_object(
    'at', to_char(e.erased_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'reason', e.reason
  )::text
  FROM headwater.erased_messages AS e
  WHERE e.id = _id
$$;
