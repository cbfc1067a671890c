-- For append_batch, under the locks of all categories that are named: whether what a request demands holds, beside its
-- expected versions. Its ack is done if all of it holds and `may_write`.
--
-- guard: {"categories", "conditions": [{"condition", …}], "ack"}. A condition on a stream has "stream" (its place among
-- `current_versions`) and "version". One with a query has an entry for each of its categories: "category", "after",
-- "types" (null: any), "is_filtered" (there is an expression, which only the service can evaluate), "found" (the position
-- of a match that the service has found already).
--
-- verdict: NULL: all of it holds. Else "outcome":
-- 'locked': a category, or the row that is acked, is locked by another transaction (only where it may not wait);
-- 'stale': the service has to look itself: more has come since "after" than is read here, a message that an expression
-- decides on, or one that this transaction writes and that has no position yet;
-- 'changed': "failures" are the conditions that do not hold, with "version", "position" of the first match, or "head" if
-- "after" lies beyond the end of the log;
-- 'fenced' (with "current_epoch") and 'missing': of the ack.
CREATE OR REPLACE FUNCTION headwater.judge_guard(
  guard jsonb,
  may_write boolean,
  may_wait boolean,
  locked_categories text[],
  current_versions bigint[],
  bases bigint[],
  message_parts int[],
  message_streams text[],
  types text[]
)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  -- Messages of a category that are read here: neighbours in the same transaction wait for it.
  rows_max constant int := 100;
  log_end bigint;
  failures jsonb[];
  is_stale boolean := false;
  scanned int;
  found_at bigint;
  c record;
  acked record;
BEGIN
  IF locked_categories && ARRAY(SELECT jsonb_array_elements_text(guard -> 'categories')) THEN
    RETURN '{"outcome": "locked"}';
  END IF;

  FOR c IN
    SELECT g.*
    FROM jsonb_to_recordset(guard -> 'conditions') AS g (
      condition int, stream int, version bigint, category text, after bigint, types text[], is_filtered boolean,
      found bigint
    )
  LOOP
    IF c.stream IS NOT NULL THEN
      IF current_versions[c.stream] <> c.version THEN
        failures := failures
          || jsonb_build_object('condition', c.condition, 'version', current_versions[c.stream]);
      END IF;
      CONTINUE;
    END IF;

    IF c.found IS NOT NULL THEN
      failures := failures || jsonb_build_object('condition', c.condition, 'position', c.found);
      CONTINUE;
    END IF;

    log_end := coalesce(log_end, headwater.log_end());
    IF c.after > log_end THEN
      failures := failures || jsonb_build_object('condition', c.condition, 'head', log_end);
      CONTINUE;
    END IF;

    SELECT count(*), min(m.global_position) FILTER (WHERE c.types IS NULL OR m.type = ANY (c.types))
    INTO scanned, found_at
    FROM (
      SELECT m.global_position, m.type
      FROM message_store.messages AS m
      WHERE message_store.category(m.stream_name) BETWEEN c.category AND c.category
        AND m.global_position > c.after
      ORDER BY message_store.category(m.stream_name), m.global_position
      LIMIT rows_max
    ) AS m;

    IF found_at IS NOT NULL AND NOT c.is_filtered THEN
      failures := failures || jsonb_build_object('condition', c.condition, 'position', found_at);
    ELSE
      is_stale := is_stale OR found_at IS NOT NULL OR scanned = rows_max OR EXISTS (
        SELECT FROM unnest(message_parts, message_streams, judge_guard.types) AS m (part, stream_name, type)
        WHERE bases[m.part] IS NOT NULL
          AND (c.types IS NULL OR m.type = ANY (c.types))
          AND message_store.category(m.stream_name) = c.category
      );
    END IF;
  END LOOP;

  IF is_stale THEN
    RETURN '{"outcome": "stale"}';
  ELSIF failures IS NOT NULL THEN
    RETURN jsonb_build_object('outcome', 'changed', 'failures', to_jsonb(failures));
  ELSIF may_write AND guard ? 'ack' THEN
    SELECT a.outcome, a.current_epoch INTO acked FROM headwater.subscription_ack_once(guard -> 'ack', may_wait) AS a;
    IF acked.outcome <> 'done' THEN
      RETURN jsonb_build_object('outcome', acked.outcome, 'current_epoch', acked.current_epoch);
    END IF;
  END IF;
  RETURN NULL;
END;
$$;
