-- A delivery is found by its key, and by nothing else. The table is full and empty in turns, so that what is known of it is
-- seldom true: as long as its other indexes began with the subscription too, PostgreSQL looked for a key in the smaller
-- one of what is due, and passed over all that is in flight. Only a query that writes `subscription_id + 0` gets that
-- index now, and only one that names a consumer gets the other.
DROP INDEX headwater.subscription_deliveries_due;
CREATE INDEX subscription_deliveries_due ON headwater.subscription_deliveries ((subscription_id + 0), due_at);

DROP INDEX headwater.subscription_deliveries_consumer;
CREATE INDEX subscription_deliveries_consumer
  ON headwater.subscription_deliveries (consumer, subscription_id, partition, position);
