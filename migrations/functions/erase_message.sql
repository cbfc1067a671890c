-- Erases the data and the metadata of a message; its place, id, type and time stay. outcome: 'done' (also if it was erased
-- before, then with the first reason) or 'missing'.
CREATE OR REPLACE FUNCTION headwater.erase_message(_id uuid, _reason text, OUT outcome text)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _number bigint;
  _stream_name text;
  _global_position bigint;
BEGIN
  outcome := 'done';

  IF EXISTS (SELECT FROM headwater.erased_messages AS e WHERE e.id = _id AND e.trimmed_at IS NULL) THEN
    RETURN;
  END IF;

  -- One erasure at a time, up to its commit: what comes after this sees all that were before it.
  UPDATE headwater.erasures AS n SET number = n.number + 1 RETURNING n.number INTO _number;

  UPDATE message_store.messages AS m
  SET data = NULL, metadata = NULL
  WHERE m.id = _id AND NOT EXISTS (SELECT FROM headwater.erased_messages AS e WHERE e.id = _id AND e.trimmed_at IS NULL)
  RETURNING m.stream_name, m.global_position
  INTO _stream_name, _global_position;

  IF NOT FOUND THEN
    IF NOT EXISTS (SELECT FROM message_store.messages AS m WHERE m.id = _id) THEN
      outcome := 'missing';
    END IF;
    RETURN;
  END IF;

  -- There may be a row of a message that had the id before, and was trimmed.
  DELETE FROM headwater.erased_messages AS e WHERE e.id = _id;
  INSERT INTO headwater.erased_messages (id, number, stream_name, global_position, reason)
  VALUES (_id, _number, _stream_name, _global_position, _reason);

  -- In the transaction, because erasures go one by one already: it is sent also if the answer is lost.
  PERFORM pg_notify('headwater', 'erased');
END;
$$;
