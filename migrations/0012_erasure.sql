-- Messages whose data and metadata were erased: their rows keep place, id, type and time.

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
