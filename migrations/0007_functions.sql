-- The functions of schema headwater that Headwater has made, by their signatures: those that a version has no longer are
-- dropped, and nobody else's.
ALTER TABLE headwater.installation ADD COLUMN functions text[] NOT NULL DEFAULT '{}';
