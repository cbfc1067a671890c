-- Renews the leases of all consumers that an instance speaks for, in one statement. Answers which of them are still
-- members, by their place in the list. `_sessions`: NULL for a consumer that holds no connection open. `_idle_ms`: how
-- long ago each was last active, from when on its lease counts.
CREATE OR REPLACE FUNCTION headwater.subscription_renew(
  _subscriptions bigint[],
  _consumers text[],
  _sessions uuid[],
  _idle_ms bigint[]
)
RETURNS TABLE (number bigint)
LANGUAGE sql VOLATILE
AS $$
  WITH listed AS (
    SELECT l.number, l.subscription_id, l.name, l.session, l.idle_ms
    FROM unnest(_subscriptions, _consumers, _sessions, _idle_ms) WITH ORDINALITY
      AS l (subscription_id, name, session, idle_ms, number)
  ),
  locked AS (
    SELECT
      l.number, c.subscription_id, c.name, s.consumer_timeout - l.idle_ms * interval '1 millisecond' AS remaining
    FROM listed AS l
    JOIN headwater.subscription_consumers AS c ON c.subscription_id = l.subscription_id AND c.name = l.name
    JOIN headwater.subscriptions AS s ON s.id = l.subscription_id
    WHERE (l.session IS NULL OR c.session = l.session)
      -- A lease that has run out is over: its partitions may be planned for others already.
      AND c.expires_at > clock_timestamp()
    ORDER BY c.subscription_id, c.name
    FOR UPDATE OF c
  )
  UPDATE headwater.subscription_consumers AS c
  SET expires_at = greatest(c.expires_at, clock_timestamp() + l.remaining)
  FROM locked AS l
  WHERE c.subscription_id = l.subscription_id AND c.name = l.name
  RETURNING l.number
$$;
