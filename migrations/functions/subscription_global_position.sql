-- The global position of the message that a subscription delivers at a position of a partition.
CREATE OR REPLACE FUNCTION headwater.subscription_global_position(
  _subscription bigint,
  _partition integer,
  _position bigint
)
RETURNS bigint
-- In PL/pgSQL, which keeps the plan for as long as a session lasts: a function in SQL that cannot be inlined is planned anew
-- by every call.
LANGUAGE plpgsql STABLE
AS $$
BEGIN
  RETURN (
    SELECT CASE
      WHEN s.aggregated_stream_id IS NOT NULL THEN (
        SELECT a.global_position
        FROM headwater.projections AS j
        JOIN headwater.aggregated_messages AS a ON a.projection_id = j.id
        WHERE j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
          AND a.partition = _partition AND a.position = _position
      )
      WHEN s.definition -> 'source' ? 'stream_name' THEN (
        SELECT m.global_position
        FROM message_store.messages AS m
        WHERE m.stream_name = s.definition -> 'source' ->> 'stream_name' AND m.position = _position
      )
      ELSE _position
    END
    FROM headwater.subscriptions AS s
    WHERE s.id = _subscription
  );
END;
$$;
