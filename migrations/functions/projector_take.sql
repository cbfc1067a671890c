-- Takes the right to project if no other instance has it: the lease is over by PostgreSQL's clock, or its holder's session
-- is gone. Answers NULLs otherwise. The session that calls this has to stay open: the lease ends with it.
CREATE OR REPLACE FUNCTION headwater.projector_take(
  _holder uuid,
  _lease interval,
  OUT epoch bigint,
  OUT generation bigint,
  OUT live_position bigint
)
LANGUAGE sql VOLATILE
AS $$
  UPDATE headwater.projector AS p
  SET
    epoch = p.epoch + 1,
    holder = _holder,
    session_pid = pg_backend_pid(),
    session_started = (SELECT s.backend_start FROM pg_stat_activity AS s WHERE s.pid = pg_backend_pid()),
    expires_at = clock_timestamp() + _lease
  WHERE
    p.expires_at <= clock_timestamp()
    OR p.holder = _holder
    OR NOT EXISTS (
      -- The time at which a session began is hidden from other roles: its process id has to do then.
      SELECT
      FROM pg_stat_activity AS s
      WHERE s.pid = p.session_pid AND coalesce(s.backend_start, p.session_started) = p.session_started
    )
  RETURNING p.epoch, p.generation, p.live_position;
$$;
