-- Locks the deliveries of a subscription, or of one of its consumers, in the order in which acks lock them.
CREATE OR REPLACE FUNCTION headwater.subscription_lock_deliveries(_subscription bigint, _consumer text)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  PERFORM FROM headwater.subscription_deliveries AS d
  WHERE d.subscription_id = _subscription AND (_consumer IS NULL OR d.consumer = _consumer)
  ORDER BY d.partition, d.position
  FOR UPDATE;
END;
$$;
