-- A message may be erased, and trimmed soon after. Instances that have it in memory learn of the erasure by its row, so the
-- row stays for a while after the trim.
ALTER TABLE headwater.erased_messages ADD COLUMN trimmed_at timestamptz;
CREATE INDEX erased_messages_trimmed ON headwater.erased_messages (trimmed_at) WHERE trimmed_at IS NOT NULL;

-- Pages of aggregated streams ask whether something was trimmed behind their place: nearly always nothing was.
CREATE INDEX trimmed_links_last ON headwater.trimmed_links (projection_id, last_global_position);
