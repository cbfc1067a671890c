-- Stops an aggregated stream's projections where they are. Once this is committed, nothing more is projected for them.
-- Outcomes: 'done', 'missing'.
CREATE OR REPLACE FUNCTION headwater.aggregated_stream_pause(_name text)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _live_position bigint;
  _id bigint;
BEGIN
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1 RETURNING live_position INTO _live_position;
  UPDATE headwater.aggregated_streams SET is_paused = true WHERE name = _name RETURNING id INTO _id;
  UPDATE headwater.projections
  SET projected_position = CASE WHEN is_live THEN _live_position ELSE projected_position END, is_live = false
  WHERE aggregated_stream_id = _id;

  RETURN CASE WHEN _id IS NULL THEN 'missing' ELSE 'done' END;
END;
$$;
