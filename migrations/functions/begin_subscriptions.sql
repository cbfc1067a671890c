-- For begin_history: subscriptions whose last message is still in the log go on from it. The others stop, and say what to
-- do; where the whole log is new they begin again at its beginning, with nothing in flight, pending or parked.
CREATE OR REPLACE FUNCTION headwater.begin_subscriptions(_is_anew boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  -- More epochs than this are not given out in a part of the log that is lost.
  _epochs_lost_max CONSTANT integer := 100000;
  _end bigint := headwater.log_end();
  _id_now uuid;
  s headwater.subscriptions;
  p headwater.subscription_partitions;
  _is_global boolean;
BEGIN
  FOR s IN SELECT * FROM headwater.subscriptions AS b ORDER BY b.id FOR UPDATE LOOP
    _is_global := s.aggregated_stream_id IS NULL AND NOT s.definition -> 'source' ? 'stream_name';

    IF _is_anew THEN
      PERFORM headwater.subscription_seek(
        s.id, array_agg(l.partition), array_agg(CASE WHEN _is_global THEN 0 ELSE -1 END::bigint), 0
      )
      FROM headwater.subscription_partitions AS l
      WHERE l.subscription_id = s.id;

      DELETE FROM headwater.subscription_parked AS d WHERE d.subscription_id = s.id;
      UPDATE headwater.subscriptions AS b
      SET state = CASE WHEN b.state = 'stopped' THEN 'running' ELSE b.state END, stopped = NULL
      WHERE b.id = s.id;
      CONTINUE;
    END IF;

    FOR p IN
      SELECT * FROM headwater.subscription_partitions AS l WHERE l.subscription_id = s.id ORDER BY l.partition FOR UPDATE
    LOOP
      _id_now := headwater.subscription_message_id(s.id, p.partition, p.delivered);

      IF p.last_id IS NOT NULL AND _id_now IS DISTINCT FROM p.last_id
        AND (
          _id_now IS NOT NULL
          OR p.delivered > _end
          -- One that was trimmed proves nothing.
          OR NOT _is_global AND NOT EXISTS (
            SELECT FROM headwater.trimmed_streams AS t
            WHERE t.stream_name = s.definition -> 'source' ->> 'stream_name' AND p.delivered < t.first_position
          ) AND NOT EXISTS (
            SELECT
            FROM headwater.projections AS j
            JOIN headwater.trimmed_links AS t ON t.projection_id = j.id AND t.partition = p.partition
            WHERE j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current
              AND p.delivered BETWEEN t.first_position AND t.last_position
          )
        )
      THEN
        UPDATE headwater.subscriptions AS b
        SET
          state = 'stopped',
          stopped = jsonb_build_object(
            'partition', p.partition,
            'position', p.delivered,
            'cause', 'history_changed',
            'reason', 'the last message that was delivered is another one by now, or gone: the log was restored, or a '
              || 'replica took over. seek to where it is to go on, and resume',
            'time', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
          )
        WHERE b.id = s.id;
      ELSIF _is_global THEN
        -- The positions passed over since the last delivery may have other messages by now.
        UPDATE headwater.subscription_partitions AS l
        SET
          read_up_to = least(l.read_up_to, greatest(l.delivered, 0), _end),
          delivered = least(l.delivered, _end),
          committed = least(l.committed, _end),
          rewind_generation = l.rewind_generation + 1
        WHERE l.subscription_id = s.id AND l.partition = p.partition;
      END IF;
    END LOOP;

    -- What consumers hold may be of the log that is gone, and its positions may be other messages' by now: no ack of it
    -- counts, nor one under an epoch that was given out in that log and is not known here.
    IF s.is_partitioned THEN
      PERFORM headwater.subscription_hand_over(
        s.id, array_agg(l.partition), array_agg(coalesce(l.next_owner, l.consumer))
      )
      FROM headwater.subscription_partitions AS l
      WHERE l.subscription_id = s.id;

      UPDATE headwater.subscription_partitions AS l SET epoch = l.epoch + _epochs_lost_max WHERE l.subscription_id = s.id;
    END IF;

    PERFORM headwater.subscription_changed(s.id);
  END LOOP;

  -- The same of competing deliveries, whose epochs come from here. To set the sequence takes a right that callers lack.
  IF NOT _is_anew THEN
    PERFORM nextval('headwater.subscription_epochs') FROM generate_series(1, _epochs_lost_max);
  END IF;

  PERFORM headwater.subscription_forget_counts(ARRAY(SELECT DISTINCT c.subscription_id FROM headwater.subscription_counts AS c));
END;
$$;
