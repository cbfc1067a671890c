-- All that a consumer has in flight is delivered to it once more: it has lost what it was given. What was delivered as
-- often as it may be counts as failed that often.
CREATE OR REPLACE FUNCTION headwater.subscription_rewind(_subscription bigint, _consumer text, _deliveries_max bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  p headwater.subscription_partitions;
BEGIN
  FOR p IN
    SELECT *
    FROM headwater.subscription_partitions AS s
    WHERE s.subscription_id = _subscription AND s.consumer = _consumer AND s.known_positions[1] <= s.read_upto
    ORDER BY s.partition
    FOR UPDATE
  LOOP
    IF p.known_counts[1] >= _deliveries_max THEN
      p.known_failures[1] := p.known_counts[1];
    END IF;

    UPDATE headwater.subscription_partitions AS s
    SET
      read_upto = p.known_positions[1] - 1,
      rewinds = s.rewinds + 1,
      known_failures = p.known_failures,
      ack_due_at = NULL
    WHERE s.subscription_id = _subscription AND s.partition = p.partition;
  END LOOP;
END;
$$;
