-- API keys. Of a key only the hash is here: whoever reads this table can use none of them.
CREATE TABLE headwater.api_keys (
  -- The part of the key that names it.
  id text PRIMARY KEY,
  name text NOT NULL,
  -- SHA-256 of the whole key, whose secret part has 256 random bits.
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  scopes text[] NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- The credential that made it.
  created_by text NOT NULL,
  expires_at timestamptz,
  revoked_at timestamptz,
  -- To the minute.
  last_used_at timestamptz
);

-- What all instances have to know, and nobody else.
CREATE TABLE headwater.secrets (
  name text PRIMARY KEY,
  secret bytea NOT NULL
);

-- What tickets are signed with: 256 bits of four UUIDs, which have 488 random ones. Another one ends all tickets.
INSERT INTO headwater.secrets
SELECT 'tickets', sha256(string_agg(uuid_send(gen_random_uuid()), ''::bytea)) FROM generate_series(1, 4);
