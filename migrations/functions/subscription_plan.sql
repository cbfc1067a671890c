-- Which consumer should hold each partition: an even spread over the consumers that are alive, with as few moves as
-- possible. A partition goes back to the consumer it was taken from, when that one comes back.
CREATE OR REPLACE FUNCTION headwater.subscription_plan(_subscription bigint)
RETURNS TABLE (partition integer, consumer text)
LANGUAGE sql VOLATILE
AS $$
  WITH alive AS (
    SELECT c.name
    FROM headwater.subscription_consumers AS c
    WHERE c.subscription_id = _subscription AND c.expires_at > clock_timestamp()
  ),
  spread AS (
    SELECT p.partition, p.preferred_owner, h.name IS NOT NULL AS is_preferred_alive, coalesce(w.name, o.name) AS owner
    FROM headwater.subscription_partitions AS p
    LEFT JOIN alive AS w ON w.name = p.next_owner
    LEFT JOIN alive AS o ON o.name = p.consumer
    LEFT JOIN alive AS h ON h.name = p.preferred_owner
    WHERE p.subscription_id = _subscription
  ),
  held AS (
    SELECT a.name, count(s.partition) AS held FROM alive AS a LEFT JOIN spread AS s ON s.owner = a.name GROUP BY a.name
  ),
  quotas AS (
    SELECT
      h.name,
      (SELECT count(*) FROM spread) / (SELECT count(*) FROM alive)
        -- If the partitions do not divide evenly, the consumers that hold most keep one more, so that none moves without
        -- need.
        + CASE
          WHEN row_number() OVER (ORDER BY h.held DESC, h.name)
            <= (SELECT count(*) FROM spread) % (SELECT count(*) FROM alive) THEN 1
          ELSE 0
        END AS quota
    FROM held AS h
  ),
  ranked AS (
    SELECT
      s.partition,
      s.owner,
      row_number() OVER (
        PARTITION BY s.owner
        ORDER BY s.preferred_owner IS NOT DISTINCT FROM s.owner DESC, s.is_preferred_alive, s.partition
      ) AS rank
    FROM spread AS s
    WHERE s.owner IS NOT NULL
  ),
  kept AS (
    SELECT r.partition, r.owner FROM ranked AS r JOIN quotas AS q ON q.name = r.owner WHERE r.rank <= q.quota
  ),
  free AS (
    SELECT s.partition, s.preferred_owner
    FROM spread AS s
    WHERE NOT EXISTS (SELECT FROM kept AS k WHERE k.partition = s.partition)
  ),
  room AS (
    SELECT q.name, q.quota - count(k.partition) AS room
    FROM quotas AS q LEFT JOIN kept AS k ON k.owner = q.name
    GROUP BY q.name, q.quota
  ),
  returned AS (
    SELECT f.partition, f.preferred_owner AS owner
    FROM (
      SELECT
        f.partition,
        f.preferred_owner,
        row_number() OVER (PARTITION BY f.preferred_owner ORDER BY f.partition) AS rank
      FROM free AS f
    ) AS f
    JOIN room AS r ON r.name = f.preferred_owner
    WHERE f.rank <= r.room
  ),
  rest AS (
    SELECT f.partition, row_number() OVER (ORDER BY f.partition) AS number
    FROM free AS f
    WHERE NOT EXISTS (SELECT FROM returned AS h WHERE h.partition = f.partition)
  ),
  slots AS (
    SELECT r.name, row_number() OVER (ORDER BY n.turn, r.name) AS number
    FROM room AS r
    LEFT JOIN LATERAL (SELECT count(*) AS taken FROM returned AS h WHERE h.owner = r.name) AS t ON true
    CROSS JOIN LATERAL generate_series(1, r.room - t.taken) AS n (turn)
  )
  SELECT k.partition, k.owner FROM kept AS k
  UNION ALL
  SELECT h.partition, h.owner FROM returned AS h
  UNION ALL
  SELECT r.partition, s.name FROM rest AS r JOIN slots AS s ON s.number = r.number
$$;
