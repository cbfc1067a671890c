-- Whether a message that is about to be delivered, as it was read, is in the log that is there. An instance that has not
-- noticed yet that the log went back has messages of the lost part in memory, and knows the number of a history that is over.
-- One that is gone was trimmed or deleted, which is no reason to stop, as long as nothing new can come at its position.
-- Without a message, because nothing is delivered, only the history counts.
CREATE OR REPLACE FUNCTION headwater.subscription_message_is_there(
  _history bigint,
  _subscription bigint,
  _partition integer,
  _position bigint,
  _global_position bigint,
  _id uuid
)
RETURNS boolean
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  k record;
BEGIN
  SELECT coalesce(max(s.history), 0) AS history, coalesce(max(s.position), 0) AS position
  INTO k
  FROM headwater.settled_position AS s;

  RETURN k.history = _history AND coalesce(
    headwater.subscription_message_id(_subscription, _partition, _position) = _id,
    _global_position <= k.position,
    true
  );
END;
$$;
