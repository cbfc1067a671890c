-- Carries out what domain/delivery.rs decided of deliveries that have failed. `_return_after_ms`: the message is delivered
-- again after that time; NULL: it is done. `_parks`: it goes to the dead letters. `_stops`: the whole subscription stops
-- before it. `_causes`: 'nacked': its consumer has just refused it, which is one failure more; 'exhausted': it has failed
-- too often. Outcomes: 'done', 'fenced', 'missing'.
CREATE OR REPLACE FUNCTION headwater.subscription_step(
  _subscriptions bigint[],
  _consumers text[],
  _partitions integer[],
  _positions bigint[],
  _epochs bigint[],
  _return_after_ms bigint[],
  _parks boolean[],
  _stops boolean[],
  _causes text[],
  _reasons text[]
)
RETURNS TABLE (number bigint, outcome text, current_epoch bigint)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz := clock_timestamp();
  a record;
  d headwater.subscription_deliveries;
  p record;
  _at integer;
BEGIN
  -- A subscription is locked before its partitions, as everywhere.
  PERFORM FROM headwater.subscriptions AS s
  WHERE s.id = ANY (_subscriptions) AND true = ANY (_stops)
  ORDER BY s.id
  FOR UPDATE;

  FOR a IN
    SELECT l.*
    FROM unnest(
      _subscriptions, _consumers, _partitions, _positions, _epochs, _return_after_ms, _parks, _stops, _causes, _reasons
    ) WITH ORDINALITY
      AS l (
        subscription_id, consumer, partition, position, epoch, return_after_ms, parks, stops, cause, reason, number
      )
    ORDER BY l.subscription_id, l.partition, l.position, l.number
  LOOP
    number := a.number;
    outcome := 'done';
    current_epoch := NULL;

    SELECT s.*, b.ack_timeout INTO p
    FROM headwater.subscription_partitions AS s
    JOIN headwater.subscriptions AS b ON b.id = s.subscription_id AND b.is_partitioned
    WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition
    FOR UPDATE OF s;

    SELECT * INTO d
    FROM headwater.subscription_deliveries AS s
    WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition AND s.position = a.position
    FOR UPDATE;

    IF d.position IS NOT NULL THEN
      IF d.epoch <> a.epoch THEN
        outcome := 'fenced';
        current_epoch := d.epoch;
      ELSIF a.return_after_ms IS NOT NULL THEN
        UPDATE headwater.subscription_deliveries AS s
        SET
          consumer = NULL,
          epoch = nextval('headwater.subscription_epochs'),
          due_at = _now + a.return_after_ms * interval '1 millisecond',
          last_error = coalesce(a.reason, s.last_error)
        WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition AND s.position = a.position;
      ELSE
        DELETE FROM headwater.subscription_deliveries AS s
        WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition AND s.position = a.position;
        IF a.parks THEN
          PERFORM headwater.subscription_park(
            a.subscription_id, a.partition, a.position, d.global_position, a.cause,
            coalesce(a.reason, d.last_error), d.consumer, d.delivery_count
          );
        END IF;
      END IF;
    ELSIF p.partition IS NULL THEN
      outcome := 'missing';
    ELSIF p.epoch <> a.epoch OR p.consumer <> a.consumer THEN
      outcome := 'fenced';
      current_epoch := p.epoch;
    ELSE
      _at := array_position(p.unacked_positions, a.position);

      IF _at IS NULL OR (a.position > p.read_up_to AND a.cause = 'nacked') THEN
        outcome := 'missing';
      ELSIF a.return_after_ms IS NOT NULL THEN
        p.unacked_failures[_at] := p.unacked_failures[_at] + (a.cause = 'nacked')::integer;
        UPDATE headwater.subscription_partitions AS s
        SET
          unacked_failures = p.unacked_failures,
          read_up_to = least(s.read_up_to, a.position - 1),
          rewind_generation = s.rewind_generation + 1,
          last_error = coalesce(a.reason, s.last_error),
          retry_at = _now + a.return_after_ms * interval '1 millisecond',
          ack_due_at = CASE WHEN s.unacked_positions[1] < a.position THEN s.ack_due_at END
        WHERE s.subscription_id = a.subscription_id AND s.partition = a.partition;
      ELSE
        IF a.parks THEN
          PERFORM headwater.subscription_park(
            a.subscription_id, a.partition, a.position,
            headwater.subscription_global_position(a.subscription_id, a.partition, a.position), a.cause,
            coalesce(a.reason, CASE WHEN a.cause = 'exhausted' THEN p.last_error END), p.consumer, p.unacked_counts[_at]
          );
        END IF;
        PERFORM headwater.subscription_skip(a.subscription_id, a.partition, a.position);
      END IF;
    END IF;

    IF a.stops AND outcome = 'done' THEN
      UPDATE headwater.subscriptions AS s
      SET
        state = 'stopped',
        stopped = jsonb_build_object(
          'partition', a.partition,
          'position', a.position,
          'cause', a.cause,
          'reason', coalesce(a.reason, d.last_error, p.last_error),
          'time', to_char(_now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        )
      WHERE s.id = a.subscription_id;
      PERFORM headwater.subscription_changed(a.subscription_id);
    END IF;

    RETURN NEXT;
  END LOOP;
END;
$$;
