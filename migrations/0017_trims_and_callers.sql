-- Trims are counted, so that instances notice that pages of history are other ones. The row is written last in a trim's
-- transaction. It is not the one of erasures: an erasure takes that before its message, a trim has its messages already.
CREATE TABLE headwater.trims (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  number bigint NOT NULL DEFAULT 0
)
WITH (fillfactor = 50);

INSERT INTO headwater.trims DEFAULT VALUES;

-- The oldest version of the functions whose callers are served by those that stand here: older instances refuse to work.
ALTER TABLE headwater.installation ADD COLUMN functions_serve_from integer NOT NULL DEFAULT 0;
