-- Defines an aggregated stream, whose projection begins at the beginning of the log. Answers its id; NULL if there is one
-- of this name, if there are `_aggregated_streams_max` already, or `_max_of_credential` (0: any number) that were made with
-- the same credential.
CREATE OR REPLACE FUNCTION headwater.aggregated_stream_create(
  _name text,
  _definition text,
  _aggregated_streams_max bigint,
  _created_by text DEFAULT NULL,
  _max_of_credential bigint DEFAULT 0
)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  -- This row's lock lets one definition be made at a time; a raised generation is seen by the projector's next round.
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1;

  INSERT INTO headwater.aggregated_streams (name, definition, created_by)
  SELECT _name, _definition::jsonb, _created_by
  WHERE (SELECT count(*) FROM headwater.aggregated_streams) < _aggregated_streams_max
    AND (
      _created_by IS NULL OR _max_of_credential = 0
      OR (SELECT count(*) FROM headwater.aggregated_streams WHERE created_by = _created_by) < _max_of_credential
    )
  ON CONFLICT (name) DO NOTHING
  RETURNING id INTO _id;

  IF _id IS NOT NULL THEN
    INSERT INTO headwater.projections (aggregated_stream_id, is_current) VALUES (_id, true);
  END IF;

  RETURN _id;
END;
$$;
