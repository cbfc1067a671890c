-- Counts of messages by category and type: no index gives them, and counting every row anew at each look would not stay
-- fast. They are brought up to date when somebody looks, from where the last look ended.

CREATE TABLE headwater.message_counts (
  -- SHA-256 of both names: together they may be too long for a row of an index.
  pair bytea PRIMARY KEY,
  category text COLLATE "C" NOT NULL,
  type text COLLATE "C" NOT NULL,
  message_count bigint NOT NULL,
  -- Messages at position 0: each begins a stream.
  stream_count bigint NOT NULL,
  last_global_position bigint NOT NULL,
  last_time timestamp NOT NULL
)
WITH (fillfactor = 50);

-- Everything up to here has been counted. It was settled then, so nothing can appear below it.
CREATE TABLE headwater.counted_position (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  position bigint NOT NULL
)
WITH (fillfactor = 50);

INSERT INTO headwater.counted_position (position) VALUES (0);
