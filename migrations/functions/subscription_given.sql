-- What a consumer was given and has not acked, in order, as many as fit into `_bytes_max`: the same deliveries, to be
-- given once more. No row changes by that; the answered counts are one higher than those that are kept.
CREATE OR REPLACE FUNCTION headwater.subscription_given(
  _subscription bigint,
  _consumer text,
  _limit bigint,
  _bytes_max bigint
)
RETURNS TABLE (
  "partition" integer,
  "position" bigint,
  global_position bigint,
  epoch bigint,
  delivery_count integer
)
LANGUAGE sql STABLE
AS $$
  WITH given AS MATERIALIZED (
    SELECT
      g.partition,
      g.position,
      coalesce(
        g.global_position, headwater.subscription_global_position(_subscription, g.partition, g.position)
      ) AS global_position,
      g.epoch,
      g.count + 1 AS count
    FROM (
      SELECT p.partition, k.position, NULL::bigint AS global_position, p.epoch, k.count
      FROM headwater.subscription_partitions AS p
      CROSS JOIN LATERAL unnest(p.unacked_positions, p.unacked_counts) AS k (position, count)
      WHERE p.subscription_id = _subscription AND p.consumer = _consumer
        AND p.unacked_positions[1] <= p.read_up_to AND k.position <= p.read_up_to
      UNION ALL
      -- Competing deliveries, and parked messages that are replayed. Those that are due by now may go to any consumer.
      SELECT d.partition, d.position, d.global_position, d.epoch, d.delivery_count
      FROM headwater.subscription_deliveries AS d
      WHERE d.subscription_id = _subscription AND d.consumer = _consumer AND d.due_at - clock_timestamp() > interval '0'
        -- A replay under a lease that is over cannot be acked any more.
        AND EXISTS (
          SELECT
          FROM headwater.subscription_partitions AS s
          WHERE s.subscription_id = _subscription AND s.partition = d.partition
            AND (s.consumer IS NULL OR s.consumer = _consumer AND s.epoch = d.epoch)
        )
      ORDER BY partition, position
      LIMIT _limit
    ) AS g
  )
  SELECT g.partition, g.position, g.global_position, g.epoch, g.count
  FROM given AS g
  ORDER BY g.partition, g.position
  LIMIT headwater.messages_that_fit(
    ARRAY(SELECT o.global_position FROM given AS o ORDER BY o.partition, o.position), _bytes_max
  )
$$;
