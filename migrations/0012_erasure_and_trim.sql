-- What is gone from the log on purpose. First: messages whose data and metadata were erased; their rows keep place, id, type and
-- time.

-- Erasures are counted one by one: their numbers are in the order of their commits, so that an instance which has seen a
-- number has seen all before it.
CREATE TABLE headwater.erasures (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  number bigint NOT NULL DEFAULT 0
)
WITH (fillfactor = 50);

INSERT INTO headwater.erasures DEFAULT VALUES;

CREATE TABLE headwater.erased_messages (
  id uuid PRIMARY KEY,
  number bigint NOT NULL UNIQUE,
  stream_name text NOT NULL,
  global_position bigint NOT NULL,
  erased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  reason text
);

-- The pages of a stream are other ones after an erasure in it.
CREATE INDEX erased_messages_stream ON headwater.erased_messages (stream_name, number);

-- Second: messages that were trimmed, which are always the oldest of their streams. Positions do not move.

CREATE TABLE headwater.trimmed_streams (
  stream_name text PRIMARY KEY,
  -- The first position that was not trimmed: as many messages were.
  first_position bigint NOT NULL,
  -- Where the trimmed ones were in the log.
  first_global_position bigint NOT NULL,
  last_global_position bigint NOT NULL
)
WITH (fillfactor = 70);

-- How many messages of a category were trimmed between two global positions. Ranges of a category do not overlap. There
-- are a thousand of a category at most: then the closest two are one.
CREATE TABLE headwater.trimmed_ranges (
  category text COLLATE "C" NOT NULL,
  first_global_position bigint NOT NULL,
  last_global_position bigint NOT NULL,
  message_count bigint NOT NULL,
  PRIMARY KEY (category, first_global_position)
);

CREATE INDEX trimmed_ranges_last ON headwater.trimmed_ranges (last_global_position);

-- Positions of partitions of aggregated streams whose messages were trimmed, as runs without a hole.
CREATE TABLE headwater.trimmed_links (
  projection_id bigint NOT NULL,
  partition integer NOT NULL,
  first_position bigint NOT NULL,
  last_position bigint NOT NULL,
  first_global_position bigint NOT NULL,
  last_global_position bigint NOT NULL,
  PRIMARY KEY (projection_id, partition, first_position)
);

-- Messages that were trimmed although this subscription had not acked them.
ALTER TABLE headwater.subscriptions ADD COLUMN trimmed bigint NOT NULL DEFAULT 0;

-- A trim asks which messages are parked.
CREATE INDEX subscription_parked_global_position ON headwater.subscription_parked (global_position);

-- What is kept of a category.
CREATE TABLE headwater.retentions (
  category text COLLATE "C" PRIMARY KEY,
  max_age interval,
  max_count bigint,
  unless_unacked boolean NOT NULL,
  -- Everything up to this global position was looked at in the present pass, which began then.
  position bigint NOT NULL DEFAULT 0,
  pass_began_at timestamptz NOT NULL DEFAULT '-infinity',
  -- When the next step is due.
  due_at timestamptz NOT NULL DEFAULT '-infinity',
  trimmed bigint NOT NULL DEFAULT 0,
  last_trimmed_at timestamptz,
  last_run_at timestamptz,
  CHECK (max_age IS NOT NULL OR max_count IS NOT NULL)
)
WITH (fillfactor = 50);
