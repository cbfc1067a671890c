-- What was counted for the lags of these subscriptions is forgotten, and counted again if they are there still. Locked in
-- the order in which sessions that count lock it, and the first table before the second, as they do.
CREATE OR REPLACE FUNCTION headwater.subscription_forget_counts(_subscriptions bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  PERFORM FROM headwater.subscription_counts AS c
  WHERE c.subscription_id = ANY (_subscriptions)
  ORDER BY c.subscription_id, c.partition
  FOR UPDATE;
  DELETE FROM headwater.subscription_counts AS c WHERE c.subscription_id = ANY (_subscriptions);
  DELETE FROM headwater.subscription_backlog AS b WHERE b.subscription_id = ANY (_subscriptions);
END;
$$;
