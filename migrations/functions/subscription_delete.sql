-- Deletes a subscription with all that belongs to it. Answers its id; NULL if there was none.
CREATE OR REPLACE FUNCTION headwater.subscription_delete(_name text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
BEGIN
  DELETE FROM headwater.subscriptions WHERE name = _name RETURNING id INTO _id;
  -- The partitions before the deliveries: a claim holds the row of a partition while it adds deliveries, so none are added
  -- after this. In their order, as acks lock them.
  PERFORM FROM headwater.subscription_partitions WHERE subscription_id = _id ORDER BY partition FOR UPDATE;
  DELETE FROM headwater.subscription_partitions WHERE subscription_id = _id;
  PERFORM headwater.subscription_lock_deliveries(_id, NULL);
  DELETE FROM headwater.subscription_deliveries WHERE subscription_id = _id;
  DELETE FROM headwater.subscription_parked WHERE subscription_id = _id;
  -- In the order in which their leases are renewed.
  PERFORM FROM headwater.subscription_consumers WHERE subscription_id = _id ORDER BY name FOR UPDATE;
  DELETE FROM headwater.subscription_consumers WHERE subscription_id = _id;
  PERFORM headwater.subscription_forget_counts(ARRAY[_id]);

  RETURN _id;
END;
$$;
