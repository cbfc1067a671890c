-- Tells all consumers of a subscription, on every instance, that it has changed.
CREATE OR REPLACE FUNCTION headwater.subscription_changed(_subscription bigint)
RETURNS void
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.subscriptions SET generation = generation + 1 WHERE id = _subscription;
  SELECT pg_notify('headwater', 'changed ' || _subscription)
$$;
