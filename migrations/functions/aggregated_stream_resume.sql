-- Lets projections that were paused, or that stopped at a message, go on from where they are. Outcomes: 'done',
-- 'missing'.
CREATE OR REPLACE FUNCTION headwater.aggregated_stream_resume(_name text)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1;
  UPDATE headwater.aggregated_streams SET is_paused = false WHERE name = _name RETURNING id INTO _id;
  UPDATE headwater.projections SET error = NULL WHERE aggregated_stream_id = _id AND error IS NOT NULL
    -- These stopped because the log is another one than they were projected from: only a rebuild helps.
    AND NOT starts_with(error ->> 'reason', 'history-changed');

  RETURN CASE WHEN _id IS NULL THEN 'missing' ELSE 'done' END;
END;
$$;
