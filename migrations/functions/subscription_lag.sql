-- How far each partition of a subscription is behind: how many messages of its source were not delivered yet, how many
-- are in flight, and for how long the oldest of those is. `types` are taken into account, an expression is not: which
-- messages it skips is known only once they have been read. Where a difference of positions is the number, that is
-- answered. Elsewhere it is what subscription_count has written down, and what came after that: of the latter at most
-- `_messages_max` are looked at, and if there are more, the lag is at least what is answered (is_exact is false).
CREATE OR REPLACE FUNCTION headwater.subscription_lag(
  _subscription bigint,
  _settled bigint,
  _messages_max bigint DEFAULT 1000
)
RETURNS TABLE (
  "partition" integer,
  committed bigint,
  delivered bigint,
  acked_up_to bigint,
  consumer text,
  epoch bigint,
  is_held_back boolean,
  undelivered bigint,
  in_flight bigint,
  oldest_ms bigint,
  is_exact boolean
)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
  s headwater.subscriptions;
  _stream_name text;
  _projection bigint;
  _has_types boolean;
  _partitions integer[];
  _starts bigint[];
  _counted bigint[];
  _behind jsonb;
  _is_exact boolean := true;
BEGIN
  SELECT * INTO s FROM headwater.subscriptions AS b WHERE b.id = _subscription;
  _stream_name := s.definition -> 'source' ->> 'stream_name';
  _has_types := s.definition -> 'types' <> '[]';
  SELECT j.id INTO _projection
  FROM headwater.projections AS j
  WHERE j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current;

  IF s.aggregated_stream_id IS NOT NULL AND NOT _has_types THEN
    SELECT jsonb_object_agg(p.partition, greatest(
      a.message_count - 1 - p.read_up_to - coalesce(
        (
          SELECT sum(t.last_position - greatest(t.first_position - 1, p.read_up_to))
          FROM headwater.trimmed_links AS t
          WHERE t.projection_id = _projection AND t.partition = p.partition AND t.last_position > p.read_up_to
        ),
        0
      ),
      0
    ))
    INTO _behind
    FROM headwater.subscription_partitions AS p
    JOIN headwater.aggregated_partitions AS a ON a.projection_id = _projection AND a.partition = p.partition
    WHERE p.subscription_id = _subscription;
  ELSIF _stream_name IS NOT NULL AND NOT _has_types THEN
    SELECT jsonb_object_agg(p.partition, greatest(e.last - greatest(p.read_up_to, e.first - 1), 0))
    INTO _behind
    FROM headwater.subscription_partitions AS p
    CROSS JOIN (
      SELECT
        (
          SELECT m.position
          FROM message_store.messages AS m
          WHERE m.stream_name = _stream_name
          ORDER BY m.position
          LIMIT 1
        ) AS first,
        (
          SELECT m.position
          FROM message_store.messages AS m
          WHERE m.stream_name = _stream_name AND m.global_position <= _settled
          ORDER BY m.position DESC
          LIMIT 1
        ) AS last
    ) AS e
    WHERE p.subscription_id = _subscription
      AND p.partition = headwater.subscription_partition(
        _stream_name, CASE WHEN s.is_partitioned THEN (s.definition ->> 'partitions')::bigint ELSE 1 END
      );
  ELSE
    SELECT
      array_agg(p.partition),
      array_agg(CASE WHEN c.partition IS NULL THEN p.read_up_to ELSE greatest(c.counted_up_to, p.read_up_to) END),
      array_agg(CASE
        WHEN p.read_up_to < least(c.counted_up_to, e.up_to)
          THEN headwater.subscription_number(_subscription, p.partition, least(c.counted_up_to, e.up_to))
            - headwater.subscription_number(_subscription, p.partition, p.read_up_to)
        ELSE 0
      END)
    INTO _partitions, _starts, _counted
    FROM headwater.subscription_partitions AS p
    -- An instance that counted may have seen more settled than the one that asks now. Global positions only are compared
    -- with the settled one.
    CROSS JOIN (
      SELECT CASE WHEN s.aggregated_stream_id IS NULL AND _stream_name IS NULL THEN _settled END AS up_to
    ) AS e
    LEFT JOIN headwater.subscription_counts AS c
      ON c.subscription_id = p.subscription_id AND c.partition = p.partition AND c.counted_from <= p.read_up_to
      AND c.projection_id IS NOT DISTINCT FROM _projection
    WHERE p.subscription_id = _subscription;

    SELECT jsonb_object_agg(n.partition, n.counted + cardinality(w.positions)), coalesce(bool_and(w.is_all), true)
    INTO _behind, _is_exact
    FROM headwater.subscription_window(_subscription, _settled, _partitions, _starts, _messages_max) AS w
    JOIN unnest(_partitions, _counted) AS n (partition, counted) ON n.partition = w.partition;
  END IF;

  RETURN QUERY
  SELECT
    p.partition,
    CASE WHEN s.is_partitioned THEN p.committed ELSE least(d.first - 1, p.delivered) END,
    p.delivered,
    least(headwater.subscription_acked_up_to(p.unacked_positions, p.read_up_to), d.first - 1),
    p.consumer,
    p.epoch,
    coalesce(p.retry_at > clock_timestamp(), false),
    greatest(
      coalesce((_behind ->> p.partition::text)::bigint, 0)
        - (SELECT count(*) FROM unnest(p.done_positions) AS n (position) WHERE n.position > p.read_up_to),
      0
    ),
    d.count + (SELECT count(*) FROM unnest(p.unacked_positions) AS k (position) WHERE k.position <= p.read_up_to),
    (extract(epoch FROM clock_timestamp() - least(
      d.oldest,
      (
        SELECT min(k.time)
        FROM unnest(p.unacked_positions, p.unacked_times) AS k (position, time)
        WHERE k.position <= p.read_up_to
      )
    )) * 1000)::bigint,
    _is_exact
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
