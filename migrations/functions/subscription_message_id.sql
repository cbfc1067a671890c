-- The id of the message that a subscription delivers at a position of a partition; NULL if there is none.
CREATE OR REPLACE FUNCTION headwater.subscription_message_id(_subscription bigint, _partition integer, _position bigint)
RETURNS uuid
LANGUAGE plpgsql STABLE
AS $$
DECLARE
  _global_position bigint := headwater.subscription_global_position(_subscription, _partition, _position);
BEGIN
  RETURN (SELECT m.id FROM message_store.messages AS m WHERE m.global_position = _global_position);
END;
$$;
