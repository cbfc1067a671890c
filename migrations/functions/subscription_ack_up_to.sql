-- Acks of partitioned subscriptions, from many requests at once. An ack is for everything in its partition up to its
-- position. Acks move forward only, and count under the epoch of the lease only. Outcomes: 'done', 'fenced', 'missing'.
-- `messages`: how many were not acked before.
CREATE OR REPLACE FUNCTION headwater.subscription_ack_up_to(
  _subscriptions bigint[],
  _consumers text[],
  _partitions integer[],
  _positions bigint[],
  _epochs bigint[]
)
RETURNS TABLE (number bigint, outcome text, current_epoch bigint, messages bigint)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz := clock_timestamp();
  _up_to bigint;
  _acked integer;
  _told integer;
  _is_there boolean;
  _replays boolean;
  a record;
  p record;
BEGIN
  FOR a IN
    SELECT
      l.*,
      lag(l.partition) OVER w IS NULL AS is_first,
      lead(l.partition) OVER w IS NULL AS is_last
    FROM unnest(_subscriptions, _consumers, _partitions, _positions, _epochs) WITH ORDINALITY
      AS l (subscription_id, consumer, partition, position, epoch, number)
    WINDOW w AS (PARTITION BY l.subscription_id, l.partition ORDER BY l.position, l.number)
    ORDER BY l.subscription_id, l.partition, l.position, l.number
  LOOP
    IF a.is_first THEN
      _up_to := NULL;
      _told := 0;
      SELECT s.*, b.ack_timeout, headwater.subscription_acked_up_to(s.unacked_positions, s.read_up_to) AS acked_up_to
      INTO p
      FROM headwater.subscription_partitions AS s
      JOIN headwater.subscriptions AS b ON b.id = s.subscription_id
      WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition
      FOR UPDATE OF s;
      _is_there := FOUND;
      _replays := EXISTS (
        SELECT FROM headwater.subscription_deliveries AS d
        WHERE d.subscription_id = a.subscription_id AND d.partition = a.partition
      );
    END IF;

    number := a.number;
    current_epoch := NULL;
    messages := 0;

    IF NOT _is_there THEN
      outcome := 'missing';
    ELSIF a.epoch <> p.epoch OR p.consumer <> a.consumer THEN
      outcome := 'fenced';
      current_epoch := p.epoch;
    ELSE
      outcome := 'done';
      IF _replays THEN
        DELETE FROM headwater.subscription_deliveries AS d
        WHERE d.subscription_id = a.subscription_id AND d.partition = a.partition AND d.position = a.position
          AND d.epoch = a.epoch;
        messages := FOUND::integer;
      END IF;
      IF NOT _replays OR NOT FOUND THEN
        IF a.position > p.read_up_to THEN
          outcome := 'missing';
        ELSIF a.position > p.acked_up_to THEN
          _up_to := a.position;
          messages := greatest(width_bucket(a.position, p.unacked_positions) - _told, 0);
          _told := _told + messages;
        END IF;
      END IF;
    END IF;

    RETURN NEXT;

    IF a.is_last AND _up_to IS NOT NULL THEN
      SELECT count(*) INTO _acked FROM unnest(p.unacked_positions) AS k (position) WHERE k.position <= _up_to;

      UPDATE headwater.subscription_partitions AS s
      SET
        committed = greatest(s.committed, s.unacked_positions[_acked]),
        unacked_positions = s.unacked_positions[_acked + 1 :],
        unacked_counts = s.unacked_counts[_acked + 1 :],
        unacked_failures = s.unacked_failures[_acked + 1 :],
        unacked_times = s.unacked_times[_acked + 1 :],
        done_positions = CASE
          WHEN cardinality(s.done_positions) > 0 THEN ARRAY(
            SELECT d.position
            FROM unnest(s.done_positions) AS d (position)
            WHERE d.position > headwater.subscription_acked_up_to(s.unacked_positions[_acked + 1 :], s.read_up_to)
            ORDER BY d.position
          )
          ELSE s.done_positions
        END,
        -- The time to ack the next message begins now, unless the consumer was given more by an extension.
        ack_due_at = CASE
          WHEN s.unacked_positions[_acked + 1] <= s.read_up_to THEN greatest(s.ack_due_at, _now + p.ack_timeout)
        END
      WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition;

      -- Nothing is in flight any more: the partition need not wait for the end of its grace.
      IF p.next_owner IS NOT NULL AND NOT coalesce(p.unacked_positions[_acked + 1] <= p.read_up_to, false) THEN
        PERFORM headwater.subscription_hand_over(a.subscription_id, ARRAY[a.partition], ARRAY[p.next_owner]);
        PERFORM pg_notify('headwater', 'changed ' || a.subscription_id);
      END IF;
    END IF;
  END LOOP;
END;
$$;
