-- Message DB's contract: table, indexes, type and views. Its functions are in functions/message_store/.

DO $$
BEGIN
  -- CREATE SCHEMA IF NOT EXISTS asks for the right to create even where the schema stands already.
  IF to_regnamespace('message_store') IS NULL THEN
    CREATE SCHEMA message_store;
  END IF;
END
$$;

CREATE TABLE message_store.messages (
  -- The settled position rests on the sequence's CACHE 1, which bigserial gives.
  global_position bigserial NOT NULL,
  position bigint NOT NULL,
  time timestamp without time zone DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
  stream_name text NOT NULL,
  type text NOT NULL,
  data jsonb,
  metadata jsonb,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  CONSTRAINT messages_pkey PRIMARY KEY (global_position)
);

-- The one function that is not in functions/: the index below holds its results, so a new text needs a new index,
-- that is, a numbered migration. SQL, without SET and not STRICT, so that the planner puts its body in place of the call.
CREATE FUNCTION message_store.category(stream_name varchar)
RETURNS varchar
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
  SELECT split_part(stream_name, '-', 1)::varchar
$$;

CREATE UNIQUE INDEX messages_id ON message_store.messages (id);

CREATE UNIQUE INDEX messages_stream ON message_store.messages (stream_name, position);

CREATE INDEX messages_category ON message_store.messages (
  message_store.category(stream_name),
  global_position,
  message_store.category(metadata ->> 'correlationStreamName')
);

-- What the read functions return: ids and JSON as text.
CREATE TYPE message_store.message AS (
  id varchar,
  stream_name varchar,
  type varchar,
  position bigint,
  global_position bigint,
  data varchar,
  metadata varchar,
  time timestamp
);

CREATE VIEW message_store.stream_summary AS
SELECT
  stream_name,
  count(*) AS message_count,
  round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY stream_name
ORDER BY stream_name;

CREATE VIEW message_store.type_summary AS
SELECT
  type,
  count(*) AS message_count,
  round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY type
ORDER BY type;

CREATE VIEW message_store.stream_type_summary AS
SELECT
  stream_name,
  type,
  count(*) AS message_count,
  round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY stream_name, type
ORDER BY stream_name, type;

CREATE VIEW message_store.type_stream_summary AS
SELECT
  type,
  stream_name,
  count(*) AS message_count,
  round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY type, stream_name
ORDER BY type, stream_name;

CREATE VIEW message_store.category_type_summary AS
SELECT
  message_store.category(stream_name) AS category,
  type,
  count(*) AS message_count,
  round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY 1, type
ORDER BY 1, type;

CREATE VIEW message_store.type_category_summary AS
SELECT
  type,
  message_store.category(stream_name) AS category,
  count(*) AS message_count,
  round(100 * count(*) / sum(count(*)) OVER (), 2) AS percent
FROM message_store.messages
GROUP BY type, 2
ORDER BY type, 2;
