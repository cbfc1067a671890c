-- By what the log is recognised. It goes back when a backup is restored, when a replica takes over that had not received
-- everything, or when the table is truncated: then positions that were seen are given to other messages.

-- One row from here on.
INSERT INTO headwater.settled_position (position) VALUES (0) ON CONFLICT DO NOTHING;

ALTER TABLE headwater.settled_position
  -- Counts the histories that the instances have seen: who finds it raised begins again as well.
  ADD COLUMN history bigint NOT NULL DEFAULT 0,
  -- The newest message at or below the position, and the oldest there was.
  ADD COLUMN message_position bigint,
  ADD COLUMN message_id uuid,
  ADD COLUMN first_position bigint,
  ADD COLUMN first_id uuid,
  -- What the log stood on: the server, and the file of its sequence.
  ADD COLUMN server text,
  ADD COLUMN sequence_file bigint;

-- The last message that a projection has a link to, and the last that was delivered from a partition.
ALTER TABLE headwater.projections ADD COLUMN last_position bigint, ADD COLUMN last_id uuid;
ALTER TABLE headwater.subscription_partitions ADD COLUMN last_id uuid;
