-- Appends many requests in one transaction: each is written whole or not at all, and one that is refused does not
-- touch its neighbours. Requests count in the order in which they are given.
--
-- A request has a part for each stream that it writes to: the request's number (from 1), the stream's place in `streams`
-- (which names each stream once), an expected version (NULL: any; -1: empty), whether the stream must exist, and how many
-- messages it has. The messages of all parts follow each other; each names its part (from 1), its place in it (from 0)
-- and its stream. `ids_to_check` are those ids that may be used already: a request whose messages are all there already,
-- with the same content, is answered with their positions. `guards` has what else must hold for a request
-- (judge_guard); NULL: nothing for any.
--
-- The locks of `written_categories` are taken, and shared ones of `read_categories`, which conditions are about. Only
-- those of `awaited_categories` are waited for, before any other is taken.
--
-- outcomes, for every part: 'done'; 'duplicate'; 'wrong_version' (must_exist included); 'id_reused': an id is used for
-- something else; 'locked': another transaction holds the category's lock. A request is written if all of its parts are
-- 'done' and it has no verdict.
-- verdicts, for every request: NULL, or what keeps its guard from being fulfilled.
-- locked_categories: those whose locks were not taken.
-- versions: the stream's version after the request; for one that is refused, as the request found it.
-- global_positions, data_texts, metadata_texts: of the written messages, in order; texts only where wanted.
-- standing_*: of each part that is a duplicate, its messages in order; of a reused id, the message that has it.
CREATE OR REPLACE FUNCTION headwater.append_batch(
  streams text[],
  part_requests int[],
  part_streams int[],
  expected_versions bigint[],
  must_exist boolean[],
  message_counts int[],
  message_parts int[],
  message_offsets int[],
  message_streams text[],
  ids uuid[],
  types text[],
  datas text[],
  metadatas text[],
  times timestamp[],
  texts_wanted boolean[],
  ids_to_check uuid[],
  written_categories text[],
  read_categories text[],
  awaited_categories text[],
  guards jsonb[],
  OUT outcomes text[],
  OUT verdicts text[],
  OUT locked_categories text[],
  OUT versions bigint[],
  OUT global_positions bigint[],
  OUT data_texts text[],
  OUT metadata_texts text[],
  OUT written_at timestamp,
  OUT standing_parts int[],
  OUT standing_ids uuid[],
  OUT standing_streams text[],
  OUT standing_positions bigint[],
  OUT standing_global_positions bigint[],
  OUT standing_times timestamp[]
)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  parts int := cardinality(part_requests);
  bases bigint[] := array_fill(NULL::bigint, ARRAY[parts]);
  current_versions bigint[];
  is_accepted boolean := false;
  category text;
  first_part int := 1;
  -- The request is not written, or has been judged without its guard.
  is_refused boolean := false;
  is_judged boolean := false;
BEGIN
  outcomes := array_fill('done'::text, ARRAY[parts]);
  versions := array_fill(-1::bigint, ARRAY[parts]);
  written_at := now() AT TIME ZONE 'utc';

  IF guards IS NOT NULL THEN
    verdicts := array_fill(NULL::text, ARRAY[cardinality(guards)]);
  END IF;

  -- write_message takes the same locks. What waits for one of them holds none: two transactions that lock in different
  -- orders would wait for each other for ever.
  IF awaited_categories IS NOT NULL THEN
    FOR category IN
      SELECT c.category FROM unnest(awaited_categories) AS c (category) ORDER BY message_store.hash_64(c.category)
    LOOP
      PERFORM pg_advisory_xact_lock(message_store.hash_64(category));
    END LOOP;
  END IF;

  -- One writer that idles in its transaction must not hold up the other categories.
  FOREACH category IN ARRAY written_categories LOOP
    IF NOT pg_try_advisory_xact_lock(message_store.hash_64(category)) THEN
      locked_categories := locked_categories || category;
    END IF;
  END LOOP;

  IF read_categories IS NOT NULL THEN
    FOREACH category IN ARRAY read_categories LOOP
      IF NOT pg_try_advisory_xact_lock_shared(message_store.hash_64(category)) THEN
        locked_categories := locked_categories || category;
      END IF;
    END LOOP;
  END IF;

  IF locked_categories IS NOT NULL THEN
    SELECT array_agg(
      CASE WHEN message_store.category(streams[p.stream]) = ANY (locked_categories) THEN 'locked' ELSE 'done' END
      ORDER BY p.number
    )
    INTO outcomes
    FROM unnest(part_streams) WITH ORDINALITY AS p (stream, number);
  END IF;

  -- After the locks, with a new snapshot: whoever wrote these ids in one of these categories has committed.
  IF cardinality(ids_to_check) > 0
    AND EXISTS (SELECT FROM message_store.messages AS m WHERE m.id = ANY (ids_to_check))
  THEN
    SELECT
      (
        SELECT array_agg(
          CASE WHEN o.before = 'locked' OR o.judged = 'missing' THEN o.before ELSE o.judged END ORDER BY o.number
        )
        FROM unnest(append_batch.outcomes, j.outcomes) WITH ORDINALITY AS o (before, judged, number)
      ),
      j.standing_parts, j.standing_ids, j.standing_streams, j.standing_positions, j.standing_global_positions,
      j.standing_times
    INTO
      outcomes, standing_parts, standing_ids, standing_streams, standing_positions, standing_global_positions,
      standing_times
    FROM headwater.find_duplicate_ids(
      parts, message_parts, message_streams, ids, types, datas, metadatas
    ) AS j;
  END IF;

  current_versions := ARRAY(
    SELECT
      coalesce(
        (
          SELECT m.position FROM message_store.messages AS m
          WHERE m.stream_name = s.name
          ORDER BY m.position DESC
          LIMIT 1
        ),
        -1
      )
    FROM unnest(streams) WITH ORDINALITY AS s (name, number)
    ORDER BY s.number
  );

  FOR n IN 1 .. parts LOOP
    versions[n] := current_versions[part_streams[n]];
    IF outcomes[n] <> 'done' THEN
      is_refused := true;
      is_judged := true;
    ELSIF expected_versions[n] <> versions[n] OR must_exist[n] AND versions[n] = -1 THEN
      outcomes[n] := 'wrong_version';
      is_refused := true;
    END IF;
    CONTINUE WHEN part_requests[n + 1] = part_requests[n];

    IF guards[part_requests[n]] IS NOT NULL AND NOT is_judged THEN
      verdicts[part_requests[n]] := headwater.judge_guard(
        guards[part_requests[n]], NOT is_refused, awaited_categories IS NOT NULL, locked_categories, current_versions,
        bases, message_parts, message_streams, types
      );
      is_refused := is_refused OR verdicts[part_requests[n]] IS NOT NULL;
    END IF;

    IF NOT is_refused THEN
      FOR p IN first_part .. n LOOP
        bases[p] := current_versions[part_streams[p]] + 1;
        versions[p] := current_versions[part_streams[p]] + message_counts[p];
        current_versions[part_streams[p]] := versions[p];
      END LOOP;
      is_accepted := true;
    END IF;
    first_part := n + 1;
    is_refused := false;
    is_judged := false;
  END LOOP;

  IF NOT is_accepted THEN
    -- A transaction that writes nothing waits for no standby. What it calls a duplicate may be a commit whose wait was
    -- ended before a synchronous standby had it.
    IF 'duplicate' = ANY (outcomes) AND current_setting('synchronous_standby_names') <> '' THEN
      PERFORM pg_logical_emit_message(true, 'headwater', '');
    END IF;
    RETURN;
  END IF;

  IF texts_wanted IS NULL THEN
    WITH written AS (
      INSERT INTO message_store.messages (id, stream_name, type, position, data, metadata, time)
      SELECT
        m.id, m.stream_name, m.type, bases[m.part] + m.place, m.data::jsonb, m.metadata::jsonb,
        coalesce(m.time, written_at)
      FROM unnest(
        ids, message_streams, types, datas, metadatas, times, message_parts, message_offsets
      ) WITH ORDINALITY AS m (id, stream_name, type, data, metadata, time, part, place, number)
      WHERE bases[m.part] IS NOT NULL
      ORDER BY m.number
      RETURNING messages.global_position
    )
    SELECT array_agg(w.global_position ORDER BY w.global_position)
    INTO global_positions
    FROM written AS w;
  ELSE
    WITH written AS (
      INSERT INTO message_store.messages (id, stream_name, type, position, data, metadata, time)
      SELECT
        m.id, m.stream_name, m.type, bases[m.part] + m.place, m.data::jsonb, m.metadata::jsonb,
        coalesce(m.time, written_at)
      FROM unnest(
        ids, message_streams, types, datas, metadatas, times, message_parts, message_offsets
      ) WITH ORDINALITY AS m (id, stream_name, type, data, metadata, time, part, place, number)
      WHERE bases[m.part] IS NOT NULL
      ORDER BY m.number
      RETURNING messages.global_position, messages.id, messages.data, messages.metadata
    )
    SELECT
      array_agg(w.global_position ORDER BY w.global_position),
      array_agg(CASE WHEN texts.wanted THEN w.data::text END ORDER BY w.global_position),
      array_agg(CASE WHEN texts.wanted THEN w.metadata::text END ORDER BY w.global_position)
    INTO global_positions, data_texts, metadata_texts
    FROM written AS w
    JOIN unnest(ids, texts_wanted) AS texts (id, wanted) ON texts.id = w.id;
  END IF;
END;
$$;
