-- Begins a second projection beside the one that readers see. One that is under way already goes on, unless it has
-- stopped: then it begins again. Outcomes: 'done', 'missing'.
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

  -- The lock on the stream's row keeps a second one from being made. ON CONFLICT would look into the index, where a
  -- round that moves the projection under way on can wait for this transaction, and this one for that round.
  IF NOT EXISTS (SELECT FROM headwater.projections WHERE aggregated_stream_id = _id AND NOT is_current) THEN
    INSERT INTO headwater.projections (aggregated_stream_id, is_current) VALUES (_id, false);
  END IF;

  RETURN 'done';
END;
$$;
