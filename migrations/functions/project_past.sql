-- One round of one projection that catches up, from _from (its projected position must be this one) to _up_to.
-- Outcomes: 'done', 'stale': another instance projects by now, or the projection was paused, stopped, rebuilt or deleted
-- meanwhile. _error: why the projection stops at _up_to, if it does.
CREATE OR REPLACE FUNCTION headwater.project_past(
  _epoch bigint,
  _projection_id bigint,
  _from bigint,
  _up_to bigint,
  message_partitions integer[],
  message_positions bigint[],
  message_global_positions bigint[],
  counted_partitions integer[],
  message_counts bigint[],
  last_global_positions bigint[],
  last_times timestamp[],
  _skipped bigint,
  _substituted bigint,
  _error text,
  keyed_keys text[],
  keyed_global_positions bigint[]
)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);

  -- A round that comes late, after its lease was lost, finds another projected position.
  SELECT p.id INTO _id
  FROM headwater.projections AS p
  WHERE p.id = _projection_id AND p.projected_position = _from AND NOT p.is_live AND p.error IS NULL
  FOR UPDATE;

  -- Read after the lock was taken, because a pause takes it too.
  IF NOT FOUND OR NOT EXISTS (
    SELECT
    FROM headwater.projections AS p
    JOIN headwater.aggregated_streams AS s ON s.id = p.aggregated_stream_id
    JOIN headwater.projector AS r ON r.epoch = _epoch
    WHERE p.id = _projection_id AND NOT s.is_paused
  ) THEN
    RETURN 'stale';
  END IF;

  PERFORM headwater.insert_aggregated(
    array_fill(_projection_id, ARRAY[cardinality(message_partitions)]),
    message_partitions, message_positions, message_global_positions,
    array_fill(_projection_id, ARRAY[cardinality(counted_partitions)]),
    counted_partitions, message_counts, last_global_positions, last_times,
    CASE WHEN _skipped + _substituted > 0 THEN ARRAY[_projection_id] ELSE ARRAY[]::bigint[] END,
    ARRAY[_skipped], ARRAY[_substituted],
    array_fill(_projection_id, ARRAY[cardinality(keyed_keys)]), keyed_keys, keyed_global_positions
  );

  UPDATE headwater.projections
  SET projected_position = _up_to, error = _error::jsonb
  WHERE id = _projection_id;

  RETURN 'done';
END;
$$;
