-- Begins a second projection beside the one that readers see. A second one that is under way already goes on, unless it
-- has stopped: then another begins. Outcomes: 'done', 'missing'.
CREATE OR REPLACE FUNCTION headwater.aggregated_stream_rebuild(_name text)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1;
  SELECT id INTO _id FROM headwater.aggregated_streams WHERE name = _name FOR UPDATE;

  IF _id IS NULL THEN
    RETURN 'missing';
  END IF;

  UPDATE headwater.projections
  SET aggregated_stream_id = NULL
  WHERE aggregated_stream_id = _id AND NOT is_current AND error IS NOT NULL;

  -- The lock on the stream's row keeps two from being made at once. ON CONFLICT would not do: it looks into the index,
  -- where this transaction can wait for a round that writes the projection under way, and that round for this one.
  IF NOT EXISTS (SELECT FROM headwater.projections WHERE aggregated_stream_id = _id AND NOT is_current) THEN
    INSERT INTO headwater.projections (aggregated_stream_id, is_current) VALUES (_id, false);
  END IF;

  RETURN 'done';
END;
$$;
