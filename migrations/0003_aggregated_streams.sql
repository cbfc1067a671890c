-- Aggregated streams: the messages of many streams, divided into partitions. Only links are kept, never copies.

CREATE TABLE headwater.aggregated_streams (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  definition jsonb NOT NULL,
  is_paused boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- One reading of the log for one aggregated stream. A rebuild is a second one beside the first, until it has caught up.
CREATE TABLE headwater.projections (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- NULL: nothing reads it any more, and its rows are deleted bit by bit.
  aggregated_stream_id bigint REFERENCES headwater.aggregated_streams (id) ON DELETE SET NULL,
  -- The one that readers see.
  is_current boolean NOT NULL,
  -- Projected together with all others up to projector.live_position; otherwise up to projected_position.
  is_live boolean NOT NULL DEFAULT false,
  -- A global position: everything up to here has been looked at.
  projected_position bigint NOT NULL DEFAULT 0,
  -- Why it stopped: {"global_position", "message_id", "stream_name", "reason"}.
  error jsonb,
  -- Messages that the partitioner could not place, by what became of them.
  skipped bigint NOT NULL DEFAULT 0,
  substituted bigint NOT NULL DEFAULT 0
)
WITH (fillfactor = 50);

CREATE UNIQUE INDEX projections_current ON headwater.projections (aggregated_stream_id) WHERE is_current;
CREATE UNIQUE INDEX projections_rebuild ON headwater.projections (aggregated_stream_id) WHERE NOT is_current;

CREATE TABLE headwater.aggregated_messages (
  projection_id bigint NOT NULL,
  partition integer NOT NULL,
  -- Counts from 0 in the partition, without holes.
  position bigint NOT NULL,
  global_position bigint NOT NULL,
  PRIMARY KEY (projection_id, partition, position) INCLUDE (global_position)
);

CREATE UNIQUE INDEX aggregated_messages_global_position
  ON headwater.aggregated_messages (projection_id, global_position) INCLUDE (partition, position);

-- What status says of each partition, and where the next message goes.
CREATE TABLE headwater.aggregated_partitions (
  projection_id bigint NOT NULL,
  partition integer NOT NULL,
  message_count bigint NOT NULL,
  last_global_position bigint NOT NULL,
  last_time timestamp NOT NULL,
  PRIMARY KEY (projection_id, partition)
)
WITH (fillfactor = 50);

-- Which instance projects. Every round checks the epoch in the transaction that writes.
CREATE TABLE headwater.projector (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  epoch bigint NOT NULL DEFAULT 0,
  holder uuid,
  -- The holder's session: the lease ends with it, also before its time.
  session_pid integer,
  session_started timestamptz,
  expires_at timestamptz NOT NULL DEFAULT '-infinity',
  -- Raised by every change of a definition or a state, so that a round which did not see it is refused.
  generation bigint NOT NULL DEFAULT 0,
  -- All live projections are projected up to this global position.
  live_position bigint NOT NULL DEFAULT 0
)
WITH (fillfactor = 50);

INSERT INTO headwater.projector DEFAULT VALUES;
