-- Columns are named as a newcomer would look for them.

ALTER TABLE headwater.subscription_partitions RENAME COLUMN read_upto TO read_up_to;
-- Raised whenever the partition goes back: what was read before that is not delivered any more.
ALTER TABLE headwater.subscription_partitions RENAME COLUMN rewinds TO rewind_generation;
-- Partitioned: messages that were delivered and not acked, in order. Those up to read_up_to are in flight, those after
-- it will be delivered again.
ALTER TABLE headwater.subscription_partitions RENAME COLUMN known_positions TO unacked_positions;
ALTER TABLE headwater.subscription_partitions RENAME COLUMN known_counts TO unacked_counts;
ALTER TABLE headwater.subscription_partitions RENAME COLUMN known_failures TO unacked_failures;
ALTER TABLE headwater.subscription_partitions RENAME COLUMN known_times TO unacked_times;
-- The consumer that gets the partition at revoke_at, or as soon as nothing is in flight.
ALTER TABLE headwater.subscription_partitions RENAME COLUMN wanted_by TO next_owner;
-- The consumer that gets the partition when it is there, if it has room.
ALTER TABLE headwater.subscription_partitions RENAME COLUMN home TO preferred_owner;

ALTER TABLE headwater.subscription_counts RENAME COLUMN counted_upto TO counted_up_to;
