-- One round of all live projections: writes links, counters and progress in one transaction, under the epoch of the
-- lease, which the round prolongs. The messages up to _live_position have been looked at for all of them.
--
-- Outcomes: 'done'; 'fenced' if another instance has taken over; 'changed' if a definition or a state has changed
-- since the generation that the round was made for. In the latter two cases nothing is written. With it come the partition
-- and the position of each keyed link.
CREATE OR REPLACE FUNCTION headwater.project_live(
  _epoch bigint,
  _generation bigint,
  _lease interval,
  _live_position bigint,
  message_projections bigint[],
  message_partitions integer[],
  message_positions bigint[],
  message_global_positions bigint[],
  counted_projections bigint[],
  counted_partitions integer[],
  message_counts bigint[],
  last_global_positions bigint[],
  last_times timestamp[],
  failing_projections bigint[],
  skipped_messages bigint[],
  substituted_messages bigint[],
  stopped_projections bigint[],
  stopped_positions bigint[],
  stopped_errors text[],
  keyed_projections bigint[],
  keyed_keys text[],
  keyed_global_positions bigint[],
  OUT outcome text,
  OUT keyed_partitions integer[],
  OUT keyed_positions bigint[]
)
RETURNS record
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  is_held boolean;
BEGIN
  -- Links that are lost are made again from the messages, the same ones at the same positions. So a round does not wait
  -- for the disk; the next commit that does wait makes the round durable as well.
  PERFORM set_config('synchronous_commit', 'off', true);

  UPDATE headwater.projector
  SET live_position = _live_position, expires_at = clock_timestamp() + _lease
  WHERE epoch = _epoch AND generation = _generation;

  IF NOT FOUND THEN
    SELECT epoch = _epoch INTO is_held FROM headwater.projector;
    outcome := CASE WHEN is_held THEN 'changed' ELSE 'fenced' END;
    RETURN;
  END IF;

  SELECT a.keyed_partitions, a.keyed_positions
  INTO keyed_partitions, keyed_positions
  FROM headwater.insert_aggregated(
    message_projections, message_partitions, message_positions, message_global_positions,
    counted_projections, counted_partitions, message_counts, last_global_positions, last_times,
    failing_projections, skipped_messages, substituted_messages,
    keyed_projections, keyed_keys, keyed_global_positions
  ) AS a;

  IF cardinality(stopped_projections) > 0 THEN
    UPDATE headwater.projections AS p
    SET is_live = false, projected_position = stopped.position, error = stopped.error::jsonb
    FROM unnest(stopped_projections, stopped_positions, stopped_errors) AS stopped (id, position, error)
    WHERE p.id = stopped.id;
  END IF;

  outcome := 'done';
END;
$$;
