-- Stops a subscription that cannot go on, for a reason that is not one message. Outcomes: 'done', 'stale': it was not
-- running.
CREATE OR REPLACE FUNCTION headwater.subscription_stop(_subscription bigint, _cause text, _reason text)
RETURNS text
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  UPDATE headwater.subscriptions AS s
  SET
    state = 'stopped',
    stopped = jsonb_build_object(
      'partition', NULL,
      'position', NULL,
      'cause', _cause,
      'reason', _reason,
      'time', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    )
  WHERE s.id = _subscription AND s.state = 'running';

  IF NOT FOUND THEN
    RETURN 'stale';
  END IF;

  PERFORM headwater.subscription_changed(_subscription);

  RETURN 'done';
END;
$$;
