-- Removes the consumers whose leases have run out, by PostgreSQL's clock, and answers which they were.
CREATE OR REPLACE FUNCTION headwater.subscription_expire(_grace_ms bigint)
RETURNS TABLE (subscription_id bigint, consumer text)
LANGUAGE sql VOLATILE
AS $$
  SELECT c.subscription_id, c.name
  FROM (
    SELECT c.subscription_id, c.name
    FROM headwater.subscription_consumers AS c
    WHERE c.expires_at <= clock_timestamp()
    ORDER BY c.subscription_id, c.name
    LIMIT 1000
  ) AS c
  WHERE headwater.subscription_remove(c.subscription_id, c.name, NULL, true, _grace_ms) = 'done'
$$;
