-- For project_live and project_past: writes links, each partition's counters, and the counts of messages that could not be
-- placed in a partition. Answers the partitions and positions that insert_keyed gave.
CREATE OR REPLACE FUNCTION headwater.insert_aggregated(
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
  keyed_projections bigint[],
  keyed_keys text[],
  keyed_global_positions bigint[],
  OUT keyed_partitions integer[],
  OUT keyed_positions bigint[]
)
RETURNS record
LANGUAGE plpgsql VOLATILE
-- PostgreSQL takes arrays of a known length for cheaper than any, and would plan each statement at each call.
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
  IF cardinality(message_projections) > 0 THEN
    INSERT INTO headwater.aggregated_messages (projection_id, partition, position, global_position)
    SELECT * FROM unnest(message_projections, message_partitions, message_positions, message_global_positions);

    INSERT INTO headwater.aggregated_partitions AS a
      (projection_id, partition, message_count, last_global_position, last_time)
    SELECT *
    FROM unnest(counted_projections, counted_partitions, message_counts, last_global_positions, last_times)
    ON CONFLICT (projection_id, partition) DO UPDATE
    SET
      message_count = excluded.message_count,
      last_global_position = excluded.last_global_position,
      last_time = excluded.last_time;
  END IF;

  IF cardinality(keyed_projections) > 0 THEN
    SELECT k.link_partitions, k.link_positions
    INTO keyed_partitions, keyed_positions
    FROM headwater.insert_keyed(keyed_projections, keyed_keys, keyed_global_positions) AS k;
  END IF;

  IF cardinality(message_projections) + cardinality(keyed_projections) > 0 THEN
    UPDATE headwater.projections AS p
    SET
      last_position = last.global_position,
      last_id = (SELECT m.id FROM message_store.messages AS m WHERE m.global_position = last.global_position)
    FROM (
      SELECT l.projection_id, max(l.global_position) AS global_position
      FROM unnest(message_projections || keyed_projections, message_global_positions || keyed_global_positions)
        AS l (projection_id, global_position)
      GROUP BY l.projection_id
    ) AS last
    WHERE p.id = last.projection_id;
  END IF;

  IF cardinality(failing_projections) > 0 THEN
    UPDATE headwater.projections AS p
    SET skipped = p.skipped + failing.skipped, substituted = p.substituted + failing.substituted
    FROM unnest(failing_projections, skipped_messages, substituted_messages) AS failing (id, skipped, substituted)
    WHERE p.id = failing.id;
  END IF;
END;
$$;
