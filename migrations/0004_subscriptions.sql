-- Subscriptions: who has consumed what. Positions count as the source does: in one stream by its own positions, in a
-- partition of an aggregated stream by the partition's, otherwise by global position.

CREATE TABLE headwater.subscriptions (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  definition jsonb NOT NULL,
  is_partitioned boolean NOT NULL,
  -- The aggregated stream that it consumes. It may be gone by now, which the status says.
  aggregated_stream_id bigint,
  ack_timeout interval NOT NULL,
  consumer_timeout interval NOT NULL,
  -- Where a partition begins that appears later, in an aggregated stream.
  first_position bigint NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped')),
  -- Why it stopped: {"partition", "position", "reason", "time"}.
  stopped jsonb,
  -- Raised by every change that waiting consumers have to see.
  generation bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now()
)
WITH (fillfactor = 70);

CREATE TABLE headwater.subscription_partitions (
  subscription_id bigint NOT NULL,
  partition integer NOT NULL,
  -- The last message that was acked, and the last that was delivered: what the status shows.
  committed bigint NOT NULL,
  delivered bigint NOT NULL,
  -- Everything up to here was delivered, passed over, or belongs to another partition. Goes back when messages have to
  -- be delivered again.
  read_upto bigint NOT NULL,
  -- How often it went back: what was read before that is not delivered any more.
  rewinds bigint NOT NULL DEFAULT 0,
  -- Partitioned: messages that were delivered and not acked, in order; in flight are those up to read_upto. How often
  -- each was delivered, how often it was what failed, and when it was delivered last.
  known_positions bigint[] NOT NULL DEFAULT '{}',
  known_counts integer[] NOT NULL DEFAULT '{}',
  known_failures integer[] NOT NULL DEFAULT '{}',
  known_times timestamptz[] NOT NULL DEFAULT '{}',
  -- Messages after the first unacked one that were parked or skipped, and so are not delivered any more.
  done_positions bigint[] NOT NULL DEFAULT '{}',
  last_error text,
  -- When the first message in flight counts as failed.
  ack_due_at timestamptz,
  -- Nothing is delivered before this: a retry waits.
  retry_at timestamptz,
  consumer text COLLATE "C",
  -- Raised whenever the partition changes hands, and when it is sought: an ack under an older one changes nothing.
  epoch bigint NOT NULL DEFAULT 0,
  -- It goes to this consumer at that time, or as soon as nothing is in flight.
  wanted_by text COLLATE "C",
  revoke_at timestamptz,
  -- Who gets it back on returning.
  home text COLLATE "C",
  PRIMARY KEY (subscription_id, partition)
)
WITH (fillfactor = 50);

CREATE TABLE headwater.subscription_consumers (
  subscription_id bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  -- Whose connection it is: the last to come with this name.
  session uuid NOT NULL,
  -- It holds a connection open, so that its end is noticed. The others come when they want something.
  is_connected boolean NOT NULL,
  joined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (subscription_id, name)
)
WITH (fillfactor = 50);

CREATE INDEX subscription_consumers_expires_at ON headwater.subscription_consumers (expires_at);

-- Competing: delivered and not acked, or waiting to be delivered again. Partitioned: parked messages that are replayed.
CREATE TABLE headwater.subscription_deliveries (
  subscription_id bigint NOT NULL,
  partition integer NOT NULL,
  position bigint NOT NULL,
  global_position bigint NOT NULL,
  -- NULL: nobody has it.
  consumer text COLLATE "C",
  -- This delivery's own: an ack of an earlier one changes nothing.
  epoch bigint NOT NULL,
  delivery_count integer NOT NULL,
  -- Deliveries since it was replayed or the subscription was resumed.
  attempts integer NOT NULL,
  delivered_at timestamptz,
  -- When it may be delivered again.
  due_at timestamptz NOT NULL,
  last_error text,
  PRIMARY KEY (subscription_id, partition, position)
)
-- Rows live for milliseconds, and dead ones are in the way of those that look for what is due.
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000);

CREATE INDEX subscription_deliveries_due ON headwater.subscription_deliveries (subscription_id, due_at);
CREATE INDEX subscription_deliveries_consumer
  ON headwater.subscription_deliveries (subscription_id, consumer, partition, position);

CREATE SEQUENCE headwater.subscription_epochs;

-- The dead letters.
CREATE TABLE headwater.subscription_parked (
  subscription_id bigint NOT NULL,
  partition integer NOT NULL,
  position bigint NOT NULL,
  global_position bigint NOT NULL,
  -- 'nacked': a consumer said so; 'exhausted': it was delivered too often.
  cause text NOT NULL CHECK (cause IN ('nacked', 'exhausted')),
  last_error text,
  consumer text COLLATE "C",
  delivery_count integer NOT NULL,
  parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (subscription_id, partition, position)
);
