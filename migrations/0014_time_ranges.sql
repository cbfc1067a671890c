-- The earliest and the latest time in each run of 10,000 global positions, of what was counted. There is no index on time:
-- writers may give a time of their own, in any order. With these a read from or to a time passes over what cannot have it,
-- and finds all that has it.
CREATE TABLE headwater.time_ranges (
  -- Global positions from 10,000 times this number on.
  run bigint PRIMARY KEY,
  first_time timestamp NOT NULL,
  last_time timestamp NOT NULL
);

-- What was counted before there were ranges is counted again.
UPDATE headwater.counted_position SET position = 0;
DELETE FROM headwater.message_counts;
