-- For the trigger that `headwater migrate --notify-trigger` adds: a signal after each INSERT, whichever program made it.
-- The trigger runs with the writer's rights, so it touches nothing but the rows that were inserted.
CREATE OR REPLACE FUNCTION headwater.notify_appended()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _global_position bigint;
BEGIN
  IF current_setting('message_store.notify', true) IS DISTINCT FROM 'off' THEN
    SELECT max(appended.global_position) INTO _global_position FROM appended;

    -- An INSERT of no rows is not signalled.
    IF _global_position IS NOT NULL THEN
      PERFORM pg_notify('headwater', _global_position::text);
    END IF;
  END IF;

  RETURN NULL;
END;
$$;
