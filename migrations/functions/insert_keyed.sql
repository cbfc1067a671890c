-- For insert_aggregated: writes the links of keyed projections, one for each message and key, given in the order of the
-- log. Keys that are new get the next numbers in that order. Answers each link's partition and position, as they were
-- given.
CREATE OR REPLACE FUNCTION headwater.insert_keyed(
  link_projections bigint[],
  link_keys text[],
  link_global_positions bigint[],
  OUT link_partitions integer[],
  OUT link_positions bigint[]
)
RETURNS record
LANGUAGE plpgsql VOLATILE
-- Each key and each partition's end is looked up in its index, also with a plan that was made when the tables were empty.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
BEGIN
  WITH given AS (
    SELECT r.projection_id, r.key, min(r.number) AS first
    FROM unnest(link_projections, link_keys) WITH ORDINALITY AS r (projection_id, key, number)
    GROUP BY r.projection_id, r.key
  ),
  new AS (
    INSERT INTO headwater.aggregated_keys (projection_id, key, partition)
    SELECT g.projection_id, g.key, p.key_count + row_number() OVER (PARTITION BY g.projection_id ORDER BY g.first) - 1
    FROM given AS g
    JOIN headwater.projections AS p ON p.id = g.projection_id
    WHERE NOT EXISTS (
      SELECT FROM headwater.aggregated_keys AS k WHERE k.projection_id = g.projection_id AND k.key = g.key
    )
    RETURNING aggregated_keys.projection_id
  )
  UPDATE headwater.projections AS p
  SET key_count = p.key_count + n.count
  FROM (SELECT new.projection_id, count(*) AS count FROM new GROUP BY new.projection_id) AS n
  WHERE p.id = n.projection_id;

  WITH placed AS MATERIALIZED (
    SELECT
      r.number,
      r.projection_id,
      k.partition,
      coalesce(l.position, -1) + row_number() OVER (PARTITION BY r.projection_id, k.partition ORDER BY r.number)
        AS position,
      r.global_position
    FROM unnest(link_projections, link_keys, link_global_positions) WITH ORDINALITY
      AS r (projection_id, key, global_position, number)
    JOIN headwater.aggregated_keys AS k ON k.projection_id = r.projection_id AND k.key = r.key
    LEFT JOIN LATERAL (
      SELECT a.position
      FROM headwater.aggregated_messages AS a
      WHERE a.projection_id = r.projection_id AND a.partition = k.partition
      ORDER BY a.position DESC
      LIMIT 1
    ) AS l ON true
  ),
  written AS (
    INSERT INTO headwater.aggregated_messages (projection_id, partition, position, global_position)
    SELECT p.projection_id, p.partition, p.position, p.global_position FROM placed AS p
  )
  SELECT array_agg(p.partition ORDER BY p.number), array_agg(p.position ORDER BY p.number)
  INTO link_partitions, link_positions
  FROM placed AS p;
END;
$$;
