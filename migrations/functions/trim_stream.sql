-- One step of a trim of a stream: deletes at most `_messages_max` of its oldest messages. Exactly one of the three says
-- which go: those before a position, those before the first message of a time or later, or all but the newest so many.
-- outcome: 'done' or 'missing'. before_position: for the next steps, in place of the three. is_complete: nothing is left
-- to be trimmed, or what is left stays because it is not acked (kept_unacked).
CREATE OR REPLACE FUNCTION headwater.trim_stream(
  _stream_name text,
  _before_position bigint,
  _before_time timestamp,
  _keep_last bigint,
  _unless_unacked boolean,
  _messages_max bigint,
  OUT outcome text,
  OUT trimmed bigint,
  OUT first_position bigint,
  OUT before_position bigint,
  OUT kept_unacked boolean,
  OUT is_complete boolean
)
LANGUAGE plpgsql VOLATILE
-- By indexes in their order, whatever the statistics say of a table that was filled or emptied since they were made.
SET enable_sort = off
SET enable_bitmapscan = off
SET enable_seqscan = off
AS $$
DECLARE
  _newest bigint;
  _from bigint;
  _candidates bigint[];
  _kept bigint;
BEGIN
  outcome := 'done';
  trimmed := 0;
  kept_unacked := false;
  is_complete := true;

  SELECT m.position INTO _newest
  FROM message_store.messages AS m
  WHERE m.stream_name = _stream_name
  ORDER BY m.position DESC
  LIMIT 1;

  IF NOT FOUND THEN
    outcome := 'missing';
    RETURN;
  END IF;

  -- What was trimmed before is not passed over again: its index entries are there until VACUUM.
  SELECT coalesce(max(t.first_position), 0) INTO _from
  FROM headwater.trimmed_streams AS t
  WHERE t.stream_name = _stream_name;

  before_position := least(_newest, coalesce(_before_position, _newest - _keep_last + 1, _newest));

  SELECT array_agg(p.global_position ORDER BY p.position)
  INTO _candidates
  FROM (
    SELECT p.*, bool_or(p.time >= _before_time) OVER (ORDER BY p.position) AS is_late
    FROM (
      SELECT m.position, m.global_position, m.time
      FROM message_store.messages AS m
      WHERE m.stream_name = _stream_name AND m.position >= _from AND m.position < before_position
      ORDER BY m.position
      LIMIT _messages_max
    ) AS p
  ) AS p
  WHERE NOT coalesce(p.is_late, false);

  IF _candidates IS NOT NULL THEN
    SELECT t.trimmed, t.kept_unacked
    INTO trimmed, _kept
    FROM headwater.trim_messages(
      message_store.category(_stream_name)::text, _candidates, _unless_unacked
    ) AS t;
    kept_unacked := _kept IS NOT NULL;
    -- Another trim may have deleted some of them meanwhile, and there is more behind them.
    is_complete := cardinality(_candidates) < _messages_max OR kept_unacked;
  END IF;

  SELECT m.position INTO first_position
  FROM message_store.messages AS m
  WHERE m.stream_name = _stream_name
    AND m.position >= coalesce(
      (SELECT t.first_position FROM headwater.trimmed_streams AS t WHERE t.stream_name = _stream_name), 0
    )
  ORDER BY m.position
  LIMIT 1;
END;
$$;
