-- Whether the metadata of a message that is sent again is that of the stored one. The trace of the request that brought a
-- message (`traceparent`, `tracestate`) does not count: who sends again does so in another span, or in none, and metadata
-- that had nothing else may have been NULL.
CREATE OR REPLACE FUNCTION headwater.is_same_metadata(_stored jsonb, _given jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $$
  SELECT _stored IS NOT DISTINCT FROM _given OR (
    (
      jsonb_typeof(_stored) = 'object' AND _stored ?| ARRAY['traceparent', 'tracestate']
      OR jsonb_typeof(_given) = 'object' AND _given ?| ARRAY['traceparent', 'tracestate']
    )
    AND jsonb_typeof(coalesce(_stored, '{}')) = 'object'
    AND jsonb_typeof(coalesce(_given, '{}')) = 'object'
    AND coalesce(_stored, '{}') - ARRAY['traceparent', 'tracestate']
      = coalesce(_given, '{}') - ARRAY['traceparent', 'tracestate']
  )
$$;
