-- Defines an aggregated stream; its projection begins at the beginning. NULL if there is one of this name, or as many
-- as there may be.
CREATE OR REPLACE FUNCTION headwater.aggregated_stream_create(_name text, _definition text, _most bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  -- One at a time, and seen by the projector before its next round.
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1;

  INSERT INTO headwater.aggregated_streams (name, definition)
  SELECT _name, _definition::jsonb
  WHERE (SELECT count(*) FROM headwater.aggregated_streams) < _most
  ON CONFLICT (name) DO NOTHING
  RETURNING id INTO _id;

  IF _id IS NOT NULL THEN
    INSERT INTO headwater.projections (aggregated_stream_id, is_current) VALUES (_id, true);
  END IF;

  RETURN _id;
END;
$$;
