-- Gives deliveries more time: they count as failed `_timeout_ms` from now. Outcomes: 'done', 'fenced', 'missing'.
CREATE OR REPLACE FUNCTION headwater.subscription_extend(
  _subscription bigint,
  _consumer text,
  _partitions integer[],
  _positions bigint[],
  _epochs bigint[],
  _timeout_ms bigint
)
RETURNS TABLE (number bigint, outcome text, current_epoch bigint)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
  _due timestamptz := clock_timestamp() + _timeout_ms * interval '1 millisecond';
  a record;
  d headwater.subscription_deliveries;
  p record;
BEGIN
  FOR a IN
    SELECT l.*
    FROM unnest(_partitions, _positions, _epochs) WITH ORDINALITY AS l (partition, position, epoch, number)
    ORDER BY l.partition, l.position
  LOOP
    number := a.number;
    outcome := 'done';
    current_epoch := NULL;

    SELECT s.* INTO p
    FROM headwater.subscription_partitions AS s
    JOIN headwater.subscriptions AS b ON b.id = s.subscription_id AND b.is_partitioned
    WHERE s.subscription_id = _subscription AND s.partition = a.partition
    FOR UPDATE OF s;

    SELECT * INTO d
    FROM headwater.subscription_deliveries AS s
    WHERE s.subscription_id = _subscription AND s.partition = a.partition AND s.position = a.position
    FOR UPDATE;

    IF d.position IS NOT NULL THEN
      IF d.epoch = a.epoch AND d.consumer IS NOT NULL THEN
        UPDATE headwater.subscription_deliveries AS s
        SET due_at = _due
        WHERE s.subscription_id = _subscription AND s.partition = a.partition AND s.position = a.position;
      ELSE
        outcome := 'fenced';
        current_epoch := d.epoch;
      END IF;
    ELSIF p.partition IS NULL THEN
      outcome := 'missing';
    ELSIF p.epoch <> a.epoch OR p.consumer <> _consumer THEN
      outcome := 'fenced';
      current_epoch := p.epoch;
    ELSIF a.position > p.read_up_to OR NOT a.position = ANY (p.unacked_positions) THEN
      outcome := 'missing';
    ELSE
      -- One time is kept for a partition, that of its first message in flight: a consumer that works on any of its
      -- messages has the first one in work too, or done.
      UPDATE headwater.subscription_partitions AS s
      SET ack_due_at = _due
      WHERE s.subscription_id = _subscription AND s.partition = a.partition;
    END IF;

    RETURN NEXT;
  END LOOP;
END;
$$;
