-- How far each partition of a subscription is behind, exactly: messages of its source that were not delivered yet, those
-- in flight, and since when the oldest of them is. `types` count, an expression does not: who it leaves out is known
-- when it is looked at.
CREATE OR REPLACE FUNCTION headwater.subscription_lag(_subscription bigint, _settled bigint)
RETURNS TABLE (
  "partition" integer,
  committed bigint,
  delivered bigint,
  low_water bigint,
  consumer text,
  epoch bigint,
  is_held_back boolean,
  undelivered bigint,
  in_flight bigint,
  oldest_ms bigint
)
LANGUAGE plpgsql STABLE
-- A category's messages come from the index that has them in order, not from a walk over those of all others.
SET enable_sort = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
  s headwater.subscriptions;
  _source jsonb;
  _types text[];
  _partitions bigint;
  _behind jsonb;
  _from bigint;
BEGIN
  SELECT * INTO s FROM headwater.subscriptions AS b WHERE b.id = _subscription;
  _source := s.definition -> 'source';
  _types := nullif(ARRAY(SELECT jsonb_array_elements_text(s.definition -> 'types')), '{}');
  _partitions := CASE WHEN s.is_partitioned THEN (s.definition ->> 'partitions')::bigint ELSE 1 END;

  IF s.aggregated_stream_id IS NOT NULL THEN
    SELECT jsonb_object_agg(p.partition, CASE
      WHEN _types IS NULL THEN greatest(a.message_count - 1 - p.read_upto, 0)
      ELSE (
        SELECT count(*)
        FROM headwater.aggregated_messages AS l
        JOIN message_store.messages AS m ON m.global_position = l.global_position
        WHERE l.projection_id = j.id AND l.partition = p.partition AND l.position > p.read_upto
          AND m.type = ANY (_types)
      )
    END)
    INTO _behind
    FROM headwater.subscription_partitions AS p
    JOIN headwater.projections AS j ON j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
    JOIN headwater.aggregated_partitions AS a ON a.projection_id = j.id AND a.partition = p.partition
    WHERE p.subscription_id = _subscription;
  ELSIF _source ? 'stream_name' THEN
    SELECT jsonb_object_agg(p.partition, (
      SELECT count(*)
      FROM message_store.messages AS m
      WHERE m.stream_name = _source ->> 'stream_name' AND m.position > p.read_upto
        AND m.global_position <= _settled AND (_types IS NULL OR m.type = ANY (_types))
    ))
    INTO _behind
    FROM headwater.subscription_partitions AS p
    WHERE p.subscription_id = _subscription
      AND p.partition = headwater.subscription_partition(_source ->> 'stream_name', _partitions);
  ELSE
    SELECT min(p.read_upto) INTO _from FROM headwater.subscription_partitions AS p WHERE p.subscription_id = _subscription;

    SELECT jsonb_object_agg(b.partition, b.count)
    INTO _behind
    FROM (
      SELECT p.partition, count(*) AS count
      FROM (
        SELECT m.global_position, m.stream_name
        FROM jsonb_array_elements_text(_source -> 'categories') AS c (category)
        CROSS JOIN LATERAL (
          SELECT m.global_position, m.stream_name
          FROM message_store.messages AS m
          WHERE message_store.category(m.stream_name) BETWEEN c.category AND c.category
            AND m.global_position > _from AND m.global_position <= _settled
            AND (_types IS NULL OR m.type = ANY (_types))
          ORDER BY message_store.category(m.stream_name), m.global_position
        ) AS m
        UNION ALL
        SELECT m.global_position, m.stream_name
        FROM message_store.messages AS m
        WHERE _source ? 'all'
          AND m.global_position > _from
          AND m.global_position <= _settled AND (_types IS NULL OR m.type = ANY (_types))
      ) AS m
      JOIN headwater.subscription_partitions AS p
        ON p.subscription_id = _subscription
        AND p.partition = CASE
          WHEN _partitions = 1 THEN 0
          ELSE headwater.subscription_partition(m.stream_name, _partitions)
        END
        AND m.global_position > p.read_upto
      GROUP BY p.partition
    ) AS b;
  END IF;

  RETURN QUERY
  SELECT
    p.partition,
    CASE WHEN s.is_partitioned THEN p.committed ELSE least(d.first - 1, p.delivered) END,
    p.delivered,
    least(headwater.subscription_low_water(p.known_positions, p.read_upto), d.first - 1),
    p.consumer,
    p.epoch,
    coalesce(p.retry_at > clock_timestamp(), false),
    greatest(
      coalesce((_behind ->> p.partition::text)::bigint, 0)
        - (SELECT count(*) FROM unnest(p.done_positions) AS n (position) WHERE n.position > p.read_upto),
      0
    ),
    d.count + (SELECT count(*) FROM unnest(p.known_positions) AS k (position) WHERE k.position <= p.read_upto),
    (extract(epoch FROM clock_timestamp() - least(
      d.oldest,
      (
        SELECT min(k.time)
        FROM unnest(p.known_positions, p.known_times) AS k (position, time)
        WHERE k.position <= p.read_upto
      )
    )) * 1000)::bigint
  FROM headwater.subscription_partitions AS p
  CROSS JOIN LATERAL (
    SELECT
      count(*) AS count,
      min(d.delivered_at) AS oldest,
      CASE WHEN NOT s.is_partitioned THEN min(d.position) END AS first
    FROM headwater.subscription_deliveries AS d
    WHERE d.subscription_id = _subscription AND d.partition = p.partition
  ) AS d
  WHERE p.subscription_id = _subscription
  ORDER BY p.partition;
END;
$$;
