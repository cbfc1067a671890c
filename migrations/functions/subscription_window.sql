-- The positions of messages of the subscription's types that follow a place in each of these partitions, up to a settled
-- position. At most `_messages_max` messages are looked at: `reach` says up to where, and `is_all` whether there is
-- nothing after that.
CREATE OR REPLACE FUNCTION headwater.subscription_window(
  _subscription bigint,
  _settled bigint,
  _partitions integer[],
  _afters bigint[],
  _messages_max bigint
)
RETURNS TABLE ("partition" integer, positions bigint[], reach bigint, is_all boolean)
LANGUAGE plpgsql STABLE
-- A category's messages come from the index that has them in order, not from a walk over those of all others.
SET enable_sort = off
SET enable_bitmapscan = off
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  s headwater.subscriptions;
  _source jsonb;
  _types text[];
  _count bigint;
  _categories text[];
  _after bigint;
  _first bigint;
  _reach bigint;
  _each bigint;
  _projection bigint;
BEGIN
  SELECT * INTO s FROM headwater.subscriptions AS b WHERE b.id = _subscription;
  _source := s.definition -> 'source';
  _types := nullif(ARRAY(SELECT jsonb_array_elements_text(s.definition -> 'types')), '{}');
  _count := CASE WHEN s.is_partitioned THEN (s.definition ->> 'partitions')::bigint ELSE 1 END;

  IF s.aggregated_stream_id IS NOT NULL THEN
    -- Each partition has positions of its own. Those that are behind share the number of messages that may be looked at.
    SELECT greatest(_messages_max / greatest(count(*), 1), least(16, _messages_max))
    INTO _each
    FROM unnest(_partitions, _afters) AS n (partition, after)
    JOIN headwater.projections AS j ON j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
    JOIN headwater.aggregated_partitions AS a
      ON a.projection_id = j.id AND a.partition = n.partition AND a.message_count - 1 > n.after;

    RETURN QUERY
    WITH listed AS MATERIALIZED (
      SELECT
        n.partition,
        n.after,
        j.id,
        coalesce(a.message_count - 1, n.after) AS last,
        count(*) FILTER (WHERE a.message_count - 1 > n.after) OVER (ORDER BY n.partition) AS turn
      FROM unnest(_partitions, _afters) AS n (partition, after)
      LEFT JOIN headwater.projections AS j ON j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
      LEFT JOIN headwater.aggregated_partitions AS a ON a.projection_id = j.id AND a.partition = n.partition
    )
    SELECT
      n.partition,
      coalesce(f.positions, '{}'),
      coalesce(f.reach, n.after),
      coalesce(f.reach, n.after) >= n.last
    FROM listed AS n
    LEFT JOIN LATERAL (
      SELECT
        array_agg(l.position ORDER BY l.position) FILTER (WHERE _types IS NULL OR m.type = ANY (_types)) AS positions,
        max(l.position) AS reach
      FROM (
        SELECT l.position, l.global_position
        FROM headwater.aggregated_messages AS l
        WHERE l.projection_id = n.id AND l.partition = n.partition AND l.position > n.after
        ORDER BY l.projection_id, l.partition, l.position
        LIMIT _each
      ) AS l
      LEFT JOIN message_store.messages AS m ON m.global_position = l.global_position
    ) AS f ON n.last > n.after AND n.turn * _each <= greatest(_messages_max, _each);
    RETURN;
  END IF;

  IF _source ? 'stream_name' THEN
    -- One partition has all messages of the stream.
    SELECT n.after INTO _after
    FROM unnest(_partitions, _afters) AS n (partition, after)
    WHERE n.partition = headwater.subscription_partition(_source ->> 'stream_name', _count);

    SELECT m.position - 1 INTO _reach
    FROM message_store.messages AS m
    WHERE m.stream_name = _source ->> 'stream_name' AND m.position > _after AND m.global_position <= _settled
    ORDER BY m.position
    OFFSET _messages_max
    LIMIT 1;

    RETURN QUERY
    SELECT
      n.partition,
      coalesce(f.positions, '{}'),
      coalesce(_reach, f.last, n.after),
      _reach IS NULL
    FROM unnest(_partitions, _afters) AS n (partition, after)
    LEFT JOIN LATERAL (
      SELECT
        array_agg(m.position ORDER BY m.position) FILTER (WHERE _types IS NULL OR m.type = ANY (_types)) AS positions,
        max(m.position) AS last
      FROM message_store.messages AS m
      WHERE m.stream_name = _source ->> 'stream_name' AND m.position > _after AND m.global_position <= _settled
        AND m.position <= coalesce(_reach, 9223372036854775807)
    ) AS f ON n.partition = headwater.subscription_partition(_source ->> 'stream_name', _count);
    RETURN;
  END IF;

  IF s.keyed_stream_id IS NOT NULL THEN
    SELECT j.id, least(_settled, CASE WHEN j.is_live THEN r.live_position ELSE j.projected_position END)
    INTO _projection, _settled
    FROM headwater.projections AS j
    CROSS JOIN headwater.projector AS r
    WHERE j.aggregated_stream_id = s.keyed_stream_id AND j.is_current;
    SELECT min(a) INTO _after FROM unnest(_afters) AS a;

    -- A message has at most 16 links.
    SELECT a.global_position - 1 INTO _reach
    FROM headwater.aggregated_messages AS a
    WHERE a.projection_id = _projection AND a.global_position > _after
    ORDER BY a.projection_id, a.global_position, a.partition
    OFFSET greatest(_messages_max, 16)
    LIMIT 1;

    _reach := least(coalesce(_reach, _settled), _settled);

    RETURN QUERY
    WITH placed AS MATERIALIZED (
      SELECT DISTINCT
        a.global_position,
        CASE WHEN _count = 1 THEN 0 ELSE mod(abs(message_store.hash_64(k.key::varchar)), _count) END AS partition
      FROM headwater.aggregated_messages AS a
      JOIN headwater.aggregated_keys AS k ON k.projection_id = a.projection_id AND k.partition = a.partition
      WHERE a.projection_id = _projection AND a.global_position > _after AND a.global_position <= _reach
        AND (
          _types IS NULL OR EXISTS (
            SELECT FROM message_store.messages AS m WHERE m.global_position = a.global_position AND m.type = ANY (_types)
          )
        )
    ),
    by_partition AS (
      SELECT n.partition, array_agg(f.global_position ORDER BY f.global_position) AS positions
      FROM placed AS f
      JOIN unnest(_partitions, _afters) AS n (partition, after)
        ON n.partition = f.partition AND f.global_position > n.after
      GROUP BY n.partition
    )
    SELECT n.partition, coalesce(b.positions, '{}'), greatest(_reach, n.after), coalesce(_reach >= _settled, true)
    FROM unnest(_partitions, _afters) AS n (partition, after)
    LEFT JOIN by_partition AS b ON b.partition = n.partition;
    RETURN;
  END IF;

  _categories := ARRAY(SELECT DISTINCT jsonb_array_elements_text(_source -> 'categories'));
  SELECT min(a) INTO _after FROM unnest(_afters) AS a;
  -- The caller may not know yet that the log went back.
  SELECT least(_settled, coalesce(max(m.global_position), 0)) INTO _settled FROM message_store.messages AS m;

  IF _after >= _settled THEN
    RETURN QUERY
    SELECT n.partition, '{}'::bigint[], n.after, true
    FROM unnest(_partitions, _afters) AS n (partition, after);
    RETURN;
  END IF;

  IF _source ? 'all' THEN
    SELECT m.global_position - 1 INTO _reach
    FROM message_store.messages AS m
    WHERE m.global_position > _after
    ORDER BY m.global_position
    OFFSET _messages_max
    LIMIT 1;
  ELSIF cardinality(_categories) = 1 THEN
    SELECT m.global_position - 1 INTO _reach
    FROM message_store.messages AS m
    WHERE message_store.category(m.stream_name) BETWEEN _categories[1] AND _categories[1] AND m.global_position > _after
    ORDER BY message_store.category(m.stream_name), m.global_position
    OFFSET _messages_max
    LIMIT 1;
  ELSE
    SELECT min(m.global_position) INTO _first
    FROM unnest(_categories) AS c (category)
    CROSS JOIN LATERAL (
      SELECT m.global_position
      FROM message_store.messages AS m
      WHERE message_store.category(m.stream_name) BETWEEN c.category AND c.category AND m.global_position > _after
      ORDER BY message_store.category(m.stream_name), m.global_position
      LIMIT 1
    ) AS m;
    -- A range of that many positions has at most as many messages.
    _reach := _first + _messages_max - 1;
  END IF;

  _reach := least(coalesce(_reach, _settled), _settled);

  RETURN QUERY
  WITH found AS (
    -- The walk along a category's index is ended by the limit: bounds of the second column do not end it.
    SELECT m.global_position, m.stream_name, m.type
    FROM (
      SELECT m.global_position, m.stream_name, m.type
      FROM message_store.messages AS m
      WHERE message_store.category(m.stream_name) BETWEEN _categories[1] AND _categories[1]
        AND m.global_position > _after
      ORDER BY message_store.category(m.stream_name), m.global_position
      LIMIT CASE WHEN cardinality(_categories) = 1 THEN _messages_max ELSE 0 END
    ) AS m
    WHERE m.global_position <= _reach
    UNION ALL
    SELECT m.global_position, m.stream_name, m.type
    FROM message_store.messages AS m
    WHERE cardinality(_categories) > 1 AND m.global_position >= _first AND m.global_position <= _reach
      AND message_store.category(m.stream_name) = ANY (_categories)
    UNION ALL
    SELECT m.global_position, m.stream_name, m.type
    FROM message_store.messages AS m
    WHERE _source ? 'all' AND m.global_position > _after AND m.global_position <= _reach
  ),
  -- MATERIALIZED: the partition is computed once for each message, not for each pair that a join compares.
  placed AS MATERIALIZED (
    SELECT
      f.global_position,
      CASE WHEN _count = 1 THEN 0 ELSE headwater.subscription_partition(f.stream_name, _count) END AS partition
    FROM found AS f
    WHERE _types IS NULL OR f.type = ANY (_types)
  ),
  by_partition AS (
    SELECT n.partition, array_agg(f.global_position ORDER BY f.global_position) AS positions
    FROM placed AS f
    JOIN unnest(_partitions, _afters) AS n (partition, after)
      ON n.partition = f.partition AND f.global_position > n.after
    GROUP BY n.partition
  )
  SELECT n.partition, coalesce(b.positions, '{}'), greatest(_reach, n.after), _reach >= _settled
  FROM unnest(_partitions, _afters) AS n (partition, after)
  LEFT JOIN by_partition AS b ON b.partition = n.partition;
END;
$$;
