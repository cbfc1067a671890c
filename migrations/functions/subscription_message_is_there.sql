-- Whether a message that is about to be delivered, as it was read, is in the log that is there: an instance that has not
-- noticed yet that the log went back has messages of the lost part in memory. One that is gone from the middle of the log
-- was trimmed or deleted meanwhile, which is no reason to stop. Without a message, because nothing is delivered, it is.
CREATE OR REPLACE FUNCTION headwater.subscription_message_is_there(
  _subscription bigint,
  _partition integer,
  _position bigint,
  _global_position bigint,
  _id uuid
)
RETURNS boolean
LANGUAGE sql STABLE
AS $$
  SELECT coalesce(
    headwater.subscription_message_id(_subscription, _partition, _position) = _id,
    _global_position <= (SELECT max(m.global_position) FROM message_store.messages AS m),
    _global_position IS NULL
  )
$$;
