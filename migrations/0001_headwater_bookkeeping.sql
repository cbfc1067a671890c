-- What is installed here, and by whom. Everything of ours that is not Message DB's contract lives in this schema.

DO $$
BEGIN
  -- CREATE SCHEMA IF NOT EXISTS asks for the right to create even where the schema stands already.
  IF to_regnamespace('headwater') IS NULL THEN
    CREATE SCHEMA headwater;
  END IF;
END
$$;

-- Numbered migrations, as they were applied. They are immutable: another checksum is an error.
CREATE TABLE headwater.migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  checksum text NOT NULL,
  -- 'skipped': it belongs to schema message_store, and Message DB was there before us.
  outcome text NOT NULL CHECK (outcome IN ('applied', 'skipped')),
  applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE headwater.installation (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  -- 'attached': Message DB was installed before us. Its objects are never touched.
  message_store_origin text NOT NULL CHECK (message_store_origin IN ('installed', 'attached')),
  -- Which functions stand here, so that an older instance that restarts does not put its own in their place.
  functions_version integer NOT NULL DEFAULT 0,
  functions_checksum text NOT NULL DEFAULT '',
  -- Grants are given once: what an administrator revokes later stays revoked.
  role_granted boolean NOT NULL DEFAULT false,
  -- Why role message_store could not be created: not tried again at every start.
  role_refusal text,
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- A checkpoint of the settled position: no message can appear at or below it any more.
CREATE TABLE headwater.settled_position (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  position bigint NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
