-- One step of the retention that has waited longest: looks at most at `_messages_max` of the category's messages and
-- deletes those that are too old, or too many. Another session takes another retention meanwhile. category: NULL if none
-- is due. A pass goes on where the last one ended; once an hour it begins at the beginning, for what was the newest of its
-- stream then, or not acked, and is not any more. is_over: the pass has come to what stays.
CREATE OR REPLACE FUNCTION headwater.retention_step(
  _settled bigint,
  _messages_max bigint,
  _interval interval,
  OUT category text,
  OUT trimmed bigint,
  OUT is_over boolean
)
LANGUAGE plpgsql VOLATILE
-- By indexes in their order, whatever the statistics say of a table that was filled or emptied since they were made.
SET enable_sort = off
SET enable_bitmapscan = off
SET enable_seqscan = off
AS $$
DECLARE
  r headwater.retentions;
  _excess bigint := 0;
  _before timestamp;
  _seen bigint;
  _last bigint;
  _stays bigint;
  _candidates bigint[];
  _kept bigint;
  _commit text;
  _is_counted boolean := true;
BEGIN
  SELECT * INTO r
  FROM headwater.retentions AS t
  WHERE t.due_at <= clock_timestamp()
  ORDER BY t.due_at
  LIMIT 1
  FOR UPDATE SKIP LOCKED;

  IF NOT FOUND THEN
    RETURN;
  END IF;

  category := r.category;
  trimmed := 0;
  is_over := false;

  IF r.pass_began_at < clock_timestamp() - interval '1 hour' THEN
    r.position := 0;
    r.pass_began_at := clock_timestamp();
  END IF;

  IF r.max_count IS NOT NULL THEN
    -- What is to be counted first is counted in steps too. Counting need not wait for the disk; what is deleted waits.
    _commit := current_setting('synchronous_commit');
    _is_counted := coalesce(headwater.count_messages(_settled, 10 * _messages_max) >= _settled, false);
    PERFORM set_config('synchronous_commit', _commit, true);
  END IF;

  IF _is_counted THEN
    _before := clock_timestamp() AT TIME ZONE 'UTC' - r.max_age;
    IF r.max_count IS NOT NULL THEN
      SELECT sum(c.message_count) - r.max_count INTO _excess
      FROM headwater.message_counts AS c
      WHERE c.category = r.category;
    END IF;

    WITH page AS MATERIALIZED (
      SELECT m.global_position, m.stream_name, m.position, m.time
      FROM message_store.messages AS m
      WHERE message_store.category(m.stream_name) BETWEEN r.category AND r.category
        AND m.global_position > r.position AND m.global_position <= _settled
      ORDER BY message_store.category(m.stream_name), m.global_position
      LIMIT _messages_max
    ),
    judged AS MATERIALIZED (
      SELECT
        p.global_position, p.stream_name, p.position,
        coalesce(p.time < _before, false)
          OR row_number() OVER (ORDER BY p.global_position) <= coalesce(_excess, 0) AS is_due
      FROM page AS p
      WHERE EXISTS (
        SELECT FROM message_store.messages AS n WHERE n.stream_name = p.stream_name AND n.position > p.position
      )
    ),
    -- Those before them in their streams were newest once, or not acked.
    earlier AS (
      SELECT e.global_position
      FROM (
        SELECT j.stream_name, min(j.position) AS position FROM judged AS j WHERE j.is_due GROUP BY j.stream_name
      ) AS s
      CROSS JOIN LATERAL (
        SELECT m.global_position
        FROM message_store.messages AS m
        WHERE m.stream_name = s.stream_name AND m.position < s.position
          AND m.position >= coalesce(
            (SELECT t.first_position FROM headwater.trimmed_streams AS t WHERE t.stream_name = s.stream_name), 0
          )
        ORDER BY m.position
        LIMIT 100
      ) AS e
    )
    SELECT
      (SELECT count(*) FROM page),
      (SELECT max(p.global_position) FROM page AS p),
      (SELECT min(j.global_position) FROM judged AS j WHERE NOT j.is_due),
      ARRAY(
        SELECT j.global_position FROM judged AS j WHERE j.is_due
        UNION
        SELECT e.global_position FROM earlier AS e
        ORDER BY 1
      )
    INTO _seen, _last, _stays, _candidates;

    IF cardinality(_candidates) > 0 THEN
      SELECT t.trimmed, t.kept_unacked
      INTO trimmed, _kept
      FROM headwater.trim_messages(r.category, _candidates, r.unless_unacked) AS t;
    END IF;

    is_over := _seen < _messages_max OR _stays IS NOT NULL;

    -- What is not acked may be so soon, and is looked at again. A whole page of it does not hold up what is behind it.
    IF _kept IS NULL OR trimmed > 0 OR NOT is_over THEN
      r.position := coalesce(least(_stays - 1, _last), r.position);
    END IF;
  END IF;

  UPDATE headwater.retentions AS t
  SET
    position = r.position,
    pass_began_at = r.pass_began_at,
    due_at = clock_timestamp() + CASE WHEN is_over THEN _interval ELSE interval '0' END,
    trimmed = t.trimmed + retention_step.trimmed,
    last_trimmed_at = CASE WHEN retention_step.trimmed > 0 THEN clock_timestamp() ELSE t.last_trimmed_at END,
    last_run_at = clock_timestamp()
  WHERE t.category = r.category;
END;
$$;
