-- A projection that has reached the position of the live ones becomes one of them. A rebuild takes the place of the
-- projection that readers saw until now, in the same step. Outcomes as those of project_live, and 'stale' if the
-- projection is at another position, or may not go on.
CREATE OR REPLACE FUNCTION headwater.projection_go_live(
  _epoch bigint,
  _generation bigint,
  _projection_id bigint,
  _live_position bigint
)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  projector record;
  projection record;
BEGIN
  SELECT r.epoch, r.generation, r.live_position INTO projector FROM headwater.projector AS r FOR UPDATE;

  IF projector.epoch <> _epoch THEN
    RETURN 'fenced';
  ELSIF projector.generation <> _generation THEN
    RETURN 'changed';
  END IF;

  SELECT p.* INTO projection FROM headwater.projections AS p WHERE p.id = _projection_id FOR UPDATE;

  IF NOT FOUND
    OR projection.aggregated_stream_id IS NULL
    OR projection.error IS NOT NULL
    OR EXISTS (
      SELECT FROM headwater.aggregated_streams AS s WHERE s.id = projection.aggregated_stream_id AND s.is_paused
    )
    OR projection.projected_position <> _live_position
    OR projector.live_position <> _live_position
  THEN
    RETURN 'stale';
  END IF;

  IF NOT projection.is_current THEN
    UPDATE headwater.projections AS p
    SET aggregated_stream_id = NULL, is_current = false, is_live = false
    WHERE p.aggregated_stream_id = projection.aggregated_stream_id AND p.is_current;
  END IF;

  UPDATE headwater.projections SET is_live = true, is_current = true WHERE id = _projection_id;

  RETURN 'done';
END;
$$;
