-- Messages of some partitions go to their consumer. A partition that has changed since the consumer looked is skipped, as
-- one is whose last message is not in the log any more; the answer has the others, with how often each of their messages
-- was delivered by now. The last messages are given as the consumer read them, `_history` is the number of the log that it
-- reads.
--
-- What is delivered and not acked is kept in four arrays side by side: element n of unacked_positions, unacked_counts,
-- unacked_failures and unacked_times is one message, in order of position, and `unnest` of all four makes rows of them.
-- One array of a composite type would have twice the bytes, in a row that every delivery and every ack writes anew, and
-- would take 2.7 times as long to append to and to cut.
CREATE OR REPLACE FUNCTION headwater.subscription_deliver(
  _subscription bigint,
  _consumer text,
  _history bigint,
  _partitions integer[],
  _epochs bigint[],
  _rewind_generations bigint[],
  _expected bigint[],
  _read_up_to bigint[],
  _message_counts integer[],
  _positions bigint[],
  _last_global_positions bigint[],
  _last_ids uuid[],
  _is_auto boolean
)
RETURNS TABLE ("partition" integer, counts integer[])
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz := clock_timestamp();
  _timeout interval;
  _first integer := 1;
  _new bigint[];
  _counts integer[];
  p headwater.subscription_partitions;
BEGIN
  SELECT s.ack_timeout INTO _timeout FROM headwater.subscriptions AS s WHERE s.id = _subscription AND s.state = 'running';

  IF NOT FOUND THEN
    RETURN;
  END IF;

  FOR i IN 1 .. cardinality(_partitions) LOOP
    _new := _positions[_first : _first + _message_counts[i] - 1];
    _first := _first + _message_counts[i];

    SELECT * INTO p
    FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription AND s.partition = _partitions[i]
    FOR UPDATE;

    CONTINUE WHEN p.consumer IS DISTINCT FROM _consumer OR p.epoch <> _epochs[i]
      OR p.rewind_generation <> _rewind_generations[i] OR p.read_up_to <> _expected[i] OR p.next_owner IS NOT NULL
      OR p.retry_at > _now
      OR NOT headwater.subscription_message_is_there(
        _history, _subscription, _partitions[i], _new[cardinality(_new)],
        nullif(_last_global_positions[i], 0), _last_ids[i]
      );

    _counts := array_fill(1, ARRAY[cardinality(_new)]);

    -- A message that was to be delivered again and is passed over does not come any more: it was trimmed, or was erased and
    -- is not wanted without its data. It would count as in flight from here on, with nobody to ack it.
    IF p.unacked_positions[cardinality(p.unacked_positions)] > _expected[i] THEN
      SELECT
        coalesce(array_agg(k.position ORDER BY k.position), '{}'),
        coalesce(array_agg(k.count ORDER BY k.position), '{}'),
        coalesce(array_agg(k.failures ORDER BY k.position), '{}'),
        coalesce(array_agg(k.time ORDER BY k.position), '{}')
      INTO p.unacked_positions, p.unacked_counts, p.unacked_failures, p.unacked_times
      FROM unnest(p.unacked_positions, p.unacked_counts, p.unacked_failures, p.unacked_times)
        AS k (position, count, failures, time)
      WHERE k.position <= _expected[i] OR k.position > _read_up_to[i] OR k.position = ANY (_new);
    END IF;

    IF cardinality(_new) = 0 THEN
      NULL;
    ELSIF _is_auto THEN
      p.committed := _new[cardinality(_new)];
      -- Messages may be left that were delivered while the subscription still asked for acks: what comes after them acks them.
      p.ack_due_at := NULL;
      SELECT
        coalesce(array_agg(k.position ORDER BY k.position), '{}'),
        coalesce(array_agg(k.count ORDER BY k.position), '{}'),
        coalesce(array_agg(k.failures ORDER BY k.position), '{}'),
        coalesce(array_agg(k.time ORDER BY k.position), '{}')
      INTO p.unacked_positions, p.unacked_counts, p.unacked_failures, p.unacked_times
      FROM unnest(p.unacked_positions, p.unacked_counts, p.unacked_failures, p.unacked_times)
        AS k (position, count, failures, time)
      WHERE k.position > p.committed;
    ELSE
      IF NOT p.unacked_positions[1] <= p.read_up_to OR cardinality(p.unacked_positions) = 0 THEN
        p.ack_due_at := _now + _timeout;
      END IF;

      IF cardinality(p.unacked_positions) = 0 OR p.unacked_positions[cardinality(p.unacked_positions)] < _new[1] THEN
        p.unacked_positions := p.unacked_positions || _new;
        p.unacked_counts := p.unacked_counts || _counts;
        p.unacked_failures := p.unacked_failures || array_fill(0, ARRAY[cardinality(_new)]);
        p.unacked_times := p.unacked_times || array_fill(_now, ARRAY[cardinality(_new)]);
      ELSE
        SELECT
          array_agg(coalesce(k.position, n.position) ORDER BY coalesce(k.position, n.position)),
          array_agg(coalesce(k.count, 0) + (n.position IS NOT NULL)::integer ORDER BY coalesce(k.position, n.position)),
          array_agg(coalesce(k.failures, 0) ORDER BY coalesce(k.position, n.position)),
          array_agg(CASE WHEN n.position IS NULL THEN k.time ELSE _now END ORDER BY coalesce(k.position, n.position)),
          array_agg(coalesce(k.count, 0) + 1 ORDER BY n.position) FILTER (WHERE n.position IS NOT NULL)
        INTO p.unacked_positions, p.unacked_counts, p.unacked_failures, p.unacked_times, _counts
        FROM unnest(p.unacked_positions, p.unacked_counts, p.unacked_failures, p.unacked_times)
          AS k (position, count, failures, time)
        FULL JOIN unnest(_new) AS n (position) ON n.position = k.position;
      END IF;
    END IF;

    UPDATE headwater.subscription_partitions AS s
    SET
      committed = p.committed,
      delivered = coalesce(_new[cardinality(_new)], s.delivered),
      last_id = CASE WHEN cardinality(_new) > 0 THEN _last_ids[i] ELSE s.last_id END,
      read_up_to = _read_up_to[i],
      unacked_positions = p.unacked_positions,
      unacked_counts = p.unacked_counts,
      unacked_failures = p.unacked_failures,
      unacked_times = p.unacked_times,
      ack_due_at = p.ack_due_at,
      retry_at = NULL
    WHERE s.subscription_id = _subscription AND s.partition = _partitions[i];

    partition := _partitions[i];
    counts := _counts;
    RETURN NEXT;
  END LOOP;
END;
$$;
