-- For begin_history: projections whose last message is still in the log go back to it and on from there. The others lose
-- their links, because these mean other messages now. Where the whole log is new they begin again by themselves;
-- otherwise they stop, until somebody asks for a rebuild.
CREATE OR REPLACE FUNCTION headwater.begin_projections(_is_anew boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  p headwater.projections;
BEGIN
  PERFORM pg_notify('headwater', 'defined');
  UPDATE headwater.projector SET generation = generation + 1, live_position = 0;

  FOR p IN
    SELECT j.* FROM headwater.projections AS j WHERE j.aggregated_stream_id IS NOT NULL ORDER BY j.id FOR UPDATE
  LOOP
    IF NOT _is_anew AND headwater.message_is_unchanged(p.last_position, p.last_id) THEN
      UPDATE headwater.projections AS j
      SET is_live = false, projected_position = least(coalesce(p.last_position, 0), headwater.log_end())
      WHERE j.id = p.id;
    ELSE
      -- purge_projections deletes its links.
      UPDATE headwater.projections AS j
      SET aggregated_stream_id = NULL, is_current = false, is_live = false
      WHERE j.id = p.id;

      IF p.is_current THEN
        INSERT INTO headwater.projections (aggregated_stream_id, is_current, error)
        VALUES (
          p.aggregated_stream_id, true,
          CASE WHEN NOT _is_anew THEN jsonb_build_object(
            'global_position', p.last_position,
            'message_id', p.last_id,
            'stream_name', '',
            'reason', 'history-changed: the last message that was projected is another one by now, or gone: the log was '
              || 'restored, or a replica took over. rebuild projects the log that is there'
          ) END
        );
      END IF;
    END IF;
  END LOOP;
END;
$$;
