-- Keyed aggregated streams: an index of messages by a value. Every value is a partition of its own.

-- How many messages a key has, and where, aggregated_messages says alone: a row here never changes.
CREATE TABLE headwater.aggregated_keys (
  projection_id bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  -- Numbered from 0 when the key is first seen.
  partition integer NOT NULL,
  PRIMARY KEY (projection_id, key) INCLUDE (partition)
);

CREATE UNIQUE INDEX aggregated_keys_partition ON headwater.aggregated_keys (projection_id, partition);

-- How many keys it has: the number of the next one.
ALTER TABLE headwater.projections ADD COLUMN key_count integer NOT NULL DEFAULT 0;

-- A message with several keys is in several partitions.
DROP INDEX headwater.aggregated_messages_global_position;
CREATE UNIQUE INDEX aggregated_messages_global_position
  ON headwater.aggregated_messages (projection_id, global_position, partition) INCLUDE (position);

-- The keyed aggregated stream that a subscription consumes. Its positions are global ones, as those of a category.
ALTER TABLE headwater.subscriptions ADD COLUMN keyed_stream_id bigint;
