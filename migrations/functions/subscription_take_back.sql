-- Takes back what a call of subscription_deliver may have delivered whose answer was lost: it is delivered again. What was
-- delivered before that call stays so, under its epoch. Should the call be carried out only now, it finds the partitions
-- changed, and does nothing. `_committed`: the committed position before the call, of a partition that acks as it
-- delivers.
CREATE OR REPLACE FUNCTION headwater.subscription_take_back(
  _subscription bigint,
  _partitions integer[],
  _epochs bigint[],
  _rewind_generations bigint[],
  _expected bigint[],
  _read_up_to bigint[],
  _committed bigint[],
  _is_auto boolean
)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  p headwater.subscription_partitions;
BEGIN
  FOR i IN 1 .. cardinality(_partitions) LOOP
    SELECT * INTO p
    FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription AND s.partition = _partitions[i]
    FOR UPDATE;

    -- Under another lease, or after the partition went back, everything that is not acked is delivered again anyway. What
    -- is acked as it is delivered does not come again then: whoever holds the partition now has gone on after it.
    CONTINUE WHEN NOT FOUND OR p.epoch <> _epochs[i] OR p.rewind_generation <> _rewind_generations[i];

    IF p.read_up_to > _read_up_to[i] AND NOT _is_auto THEN
      -- More was delivered behind what was lost, to the same consumer: an ack of that would be one of what was lost.
      PERFORM headwater.subscription_hand_over(
        _subscription, ARRAY[_partitions[i]], ARRAY[coalesce(p.next_owner, p.consumer)]
      );
      PERFORM pg_notify('headwater', 'changed ' || _subscription);
    ELSE
      UPDATE headwater.subscription_partitions AS s
      SET
        committed = CASE WHEN _is_auto THEN least(s.committed, _committed[i]) ELSE s.committed END,
        -- What the consumer has acked of it meanwhile had come to it after all, by another request: that stays acked. What
        -- was acked as it was delivered counts as not delivered.
        read_up_to = greatest(
          least(s.read_up_to, _expected[i]),
          CASE WHEN NOT _is_auto THEN headwater.subscription_acked_up_to(s.unacked_positions, s.read_up_to) END
        ),
        rewind_generation = s.rewind_generation + 1,
        -- What nobody received does not count as delivered.
        unacked_counts = ARRAY(
          SELECT k.count - (k.position > _expected[i] AND k.position <= s.read_up_to)::integer
          FROM unnest(s.unacked_positions, s.unacked_counts) AS k (position, count)
          ORDER BY k.position
        ),
        ack_due_at = CASE WHEN s.unacked_positions[1] <= _expected[i] THEN s.ack_due_at END
      WHERE s.subscription_id = _subscription AND s.partition = _partitions[i];
    END IF;
  END LOOP;
END;
$$;
