-- How far subscriptions are behind: positions of messages that were counted once and not delivered yet, so that a lag is
-- a difference of two numbers. All of it follows from the log and the cursors, so it need not survive a crash.

CREATE UNLOGGED TABLE headwater.subscription_counts (
  subscription_id bigint NOT NULL,
  partition integer NOT NULL,
  -- Whose positions these are, of an aggregated stream: a rebuild gives others.
  projection_id bigint,
  -- Of the partition's messages after the first and up to the second of these, all are in subscription_backlog. The
  -- first one moves on with what is acked.
  counted_from bigint NOT NULL,
  counted_upto bigint NOT NULL,
  PRIMARY KEY (subscription_id, partition)
)
WITH (fillfactor = 50);

CREATE UNLOGGED TABLE headwater.subscription_backlog (
  subscription_id bigint NOT NULL,
  partition integer NOT NULL,
  last_position bigint NOT NULL,
  -- How many were counted before these; only differences mean anything.
  first_number bigint NOT NULL,
  -- In order.
  positions bigint[] NOT NULL,
  PRIMARY KEY (subscription_id, partition, last_position)
);
