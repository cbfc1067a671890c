-- The credential with which something was made: the limits of a credential count by it. NULL where credentials are off, and
-- of what was made before.
ALTER TABLE headwater.aggregated_streams ADD COLUMN created_by text;
ALTER TABLE headwater.subscriptions ADD COLUMN created_by text;

CREATE INDEX aggregated_streams_created_by ON headwater.aggregated_streams (created_by) WHERE created_by IS NOT NULL;
CREATE INDEX subscriptions_created_by ON headwater.subscriptions (created_by) WHERE created_by IS NOT NULL;
