-- What came of a call of subscription_deliver is not known, because its answer was lost: what it may have delivered is
-- taken back, and comes again. What came before stays delivered, under its epoch. Should the call be carried out only
-- now, it finds the partitions changed, and does nothing. `_committed`: where a partition stood that acks as it delivers.
CREATE OR REPLACE FUNCTION headwater.subscription_take_back(
  _subscription bigint,
  _partitions integer[],
  _epochs bigint[],
  _rewinds bigint[],
  _expected bigint[],
  _read_upto bigint[],
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

    -- Another lease begins with all that is not acked, and so does who has gone back since.
    CONTINUE WHEN NOT FOUND OR p.epoch <> _epochs[i] OR p.rewinds <> _rewinds[i];

    IF p.read_upto > _read_upto[i] AND NOT _is_auto THEN
      -- More was delivered behind it, under the same name: an ack of that would stand for what was lost.
      PERFORM headwater.subscription_hand_over(
        _subscription, ARRAY[_partitions[i]], ARRAY[coalesce(p.wanted_by, p.consumer)]
      );
      PERFORM pg_notify('headwater', 'changed ' || _subscription);
    ELSE
      UPDATE headwater.subscription_partitions AS s
      SET
        committed = CASE WHEN _is_auto THEN least(s.committed, _committed[i]) ELSE s.committed END,
        read_upto = least(s.read_upto, _expected[i]),
        rewinds = s.rewinds + 1,
        -- It was not delivered, so it does not count as that.
        known_counts = ARRAY(
          SELECT k.count - (k.position > _expected[i] AND k.position <= s.read_upto)::integer
          FROM unnest(s.known_positions, s.known_counts) AS k (position, count)
          ORDER BY k.position
        ),
        ack_due_at = CASE WHEN s.known_positions[1] <= _expected[i] THEN s.ack_due_at END
      WHERE s.subscription_id = _subscription AND s.partition = _partitions[i];
    END IF;
  END LOOP;
END;
$$;
