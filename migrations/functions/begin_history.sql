-- The log is another one than it was (a restored backup, a replica that had not received everything, a truncated table):
-- what was kept by its positions is forgotten, begins again, or stops. `_known`: the number of the history that the caller
-- knew; if another instance has been faster, nothing is left to do. `_is_anew`: nothing of the old log is left. Answers
-- the number of the history that is now.
--
-- A backup brings its number with it, and gives the same whenever it is restored. So the next number is also beyond what
-- the caller knew, and beyond the time in seconds: no two histories have one number, whatever was restored meanwhile.
CREATE OR REPLACE FUNCTION headwater.begin_history(_known bigint, _is_anew boolean)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _number bigint;
BEGIN
  INSERT INTO headwater.settled_position (position) VALUES (0) ON CONFLICT DO NOTHING;
  SELECT s.history INTO _number FROM headwater.settled_position AS s FOR UPDATE;

  IF _number > _known THEN
    RETURN _number;
  END IF;

  _number := greatest(_number, _known, extract(epoch FROM clock_timestamp())::bigint) + 1;

  UPDATE headwater.settled_position
  SET
    position = 0,
    history = _number,
    message_position = NULL,
    message_id = NULL,
    first_position = NULL,
    first_id = NULL,
    server = NULL,
    sequence_file = NULL,
    updated_at = now();

  -- The next report counts again.
  UPDATE headwater.counted_position SET position = 0;
  DELETE FROM headwater.message_counts;
  DELETE FROM headwater.time_ranges;

  -- What is known of messages of which the log has no trace any more.
  DELETE FROM headwater.erased_messages AS e
  WHERE NOT EXISTS (SELECT FROM message_store.messages AS m WHERE m.id = e.id);

  IF _is_anew THEN
    DELETE FROM headwater.trimmed_streams;
    DELETE FROM headwater.trimmed_ranges;
    UPDATE headwater.retentions SET position = 0, pass_began_at = '-infinity';
  END IF;

  PERFORM headwater.begin_projections(_is_anew);
  PERFORM headwater.begin_subscriptions(_is_anew);

  RETURN _number;
END;
$$;
