-- Deletes an aggregated stream at once; purge_projections deletes its links later. Outcomes: 'done', 'missing'.
CREATE OR REPLACE FUNCTION headwater.aggregated_stream_delete(_name text)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1;

  SELECT id INTO _id FROM headwater.aggregated_streams WHERE name = _name;
  UPDATE headwater.projections
  SET aggregated_stream_id = NULL, is_current = false, is_live = false
  WHERE aggregated_stream_id = _id;
  -- Its subscriptions' consumers have to notice.
  PERFORM headwater.subscription_changed(s.id)
  FROM (
    SELECT s.id FROM headwater.subscriptions AS s WHERE _id IN (s.aggregated_stream_id, s.keyed_stream_id) ORDER BY s.id FOR UPDATE
  ) AS s;
  DELETE FROM headwater.aggregated_streams WHERE id = _id;

  RETURN CASE WHEN FOUND THEN 'done' ELSE 'missing' END;
END;
$$;
