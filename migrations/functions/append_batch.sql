-- Appends many requests in one transaction: each is written whole or not at all, and one that is refused does not
-- touch its neighbours. Requests on one stream count in the order in which they are given.
--
-- A request has a stream, an expected version (NULL: any; -1: empty), whether the stream must exist, and how many
-- messages it has. The messages of all requests follow each other; each names its request (from 1), its place in it
-- (from 0) and its stream. `ids_to_check` are those ids that may be used already: a request whose messages are all there
-- already, with the same content, is answered with their positions.
--
-- outcomes: 'done'; 'duplicate'; 'wrong_version' (must_exist included); 'id_reused': an id is used for something else;
-- 'locked': another transaction holds the category's lock (only with wait_for_locks false: the request may be sent again
-- with true).
-- versions: the stream's version after the request; for a wrong one, as the request found it.
-- global_positions, data_texts, metadata_texts: of the written messages, in order; texts only where wanted.
-- standing_*: of each duplicate, its messages in order; of a reused id, the message that has it.
CREATE OR REPLACE FUNCTION headwater.append_batch(
  request_streams text[],
  expected_versions bigint[],
  must_exist boolean[],
  message_counts int[],
  message_requests int[],
  message_offsets int[],
  message_streams text[],
  ids uuid[],
  types text[],
  datas text[],
  metadatas text[],
  times timestamp[],
  texts_wanted boolean[],
  ids_to_check uuid[],
  wait_for_locks boolean,
  OUT outcomes text[],
  OUT versions bigint[],
  OUT global_positions bigint[],
  OUT data_texts text[],
  OUT metadata_texts text[],
  OUT written_at timestamp,
  OUT standing_requests int[],
  OUT standing_ids uuid[],
  OUT standing_streams text[],
  OUT standing_positions bigint[],
  OUT standing_global_positions bigint[],
  OUT standing_times timestamp[]
)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  requests int := cardinality(request_streams);
  bases bigint[] := array_fill(NULL::bigint, ARRAY[requests]);
  is_accepted boolean := false;
  keys bigint[];
  key bigint;
  locked_keys bigint[];
  request record;
  stream text;
  version bigint;
BEGIN
  outcomes := array_fill('done'::text, ARRAY[requests]);
  versions := array_fill(-1::bigint, ARRAY[requests]);
  written_at := now() AT TIME ZONE 'utc';

  -- write_message takes the same locks. In ascending order of key: two batches that lock in different orders would
  -- wait for each other for ever.
  IF requests = 1 THEN
    keys := ARRAY[message_store.hash_64(message_store.category(request_streams[1]))];
  ELSE
    keys := ARRAY(
      SELECT DISTINCT message_store.hash_64(c.category) AS key
      FROM (
        SELECT DISTINCT message_store.category(r.stream_name) AS category
        FROM unnest(request_streams) AS r (stream_name)
      ) AS c
      ORDER BY 1
    );
  END IF;

  FOREACH key IN ARRAY keys LOOP
    IF wait_for_locks THEN
      PERFORM pg_advisory_xact_lock(key);
    ELSIF NOT pg_try_advisory_xact_lock(key) THEN
      -- One writer that idles in its transaction must not hold up the other categories.
      locked_keys := locked_keys || key;
    END IF;
  END LOOP;

  IF locked_keys IS NOT NULL THEN
    SELECT array_agg(
      CASE
        WHEN message_store.hash_64(message_store.category(r.stream_name)) = ANY (locked_keys) THEN 'locked'
        ELSE 'done'
      END
      ORDER BY r.number
    )
    INTO outcomes
    FROM unnest(request_streams) WITH ORDINALITY AS r (stream_name, number);
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
      j.standing_requests, j.standing_ids, j.standing_streams, j.standing_positions, j.standing_global_positions,
      j.standing_times
    INTO
      outcomes, standing_requests, standing_ids, standing_streams, standing_positions, standing_global_positions,
      standing_times
    FROM headwater.find_duplicate_ids(
      requests, message_requests, message_streams, ids, types, datas, metadatas
    ) AS j;
  END IF;

  FOR request IN
    SELECT
      r.number, r.stream_name, r.expected, r.must_exist, r.messages,
      coalesce(
        (
          SELECT m.position FROM message_store.messages AS m
          WHERE m.stream_name = r.stream_name
          ORDER BY m.position DESC
          LIMIT 1
        ),
        -1
      ) AS version
    FROM unnest(request_streams, expected_versions, must_exist, message_counts)
      WITH ORDINALITY AS r (stream_name, expected, must_exist, messages, number)
    ORDER BY r.stream_name, r.number
  LOOP
    IF stream IS DISTINCT FROM request.stream_name THEN
      stream := request.stream_name;
      version := request.version;
    END IF;

    IF outcomes[request.number] <> 'done' THEN
      NULL; -- judged already: its ids are used, or its category is locked
    ELSIF request.expected <> version OR request.must_exist AND version = -1 THEN
      outcomes[request.number] := 'wrong_version';
    ELSE
      bases[request.number] := version + 1;
      version := version + request.messages;
      is_accepted := true;
    END IF;
    versions[request.number] := version;
  END LOOP;

  IF NOT is_accepted THEN
    RETURN;
  END IF;

  IF texts_wanted IS NULL THEN
    WITH written AS (
      INSERT INTO message_store.messages (id, stream_name, type, position, data, metadata, time)
      SELECT
        m.id, m.stream_name, m.type, bases[m.request] + m.place, m.data::jsonb, m.metadata::jsonb,
        coalesce(m.time, written_at)
      FROM unnest(
        ids, message_streams, types, datas, metadatas, times, message_requests, message_offsets
      ) WITH ORDINALITY AS m (id, stream_name, type, data, metadata, time, request, place, number)
      WHERE bases[m.request] IS NOT NULL
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
        m.id, m.stream_name, m.type, bases[m.request] + m.place, m.data::jsonb, m.metadata::jsonb,
        coalesce(m.time, written_at)
      FROM unnest(
        ids, message_streams, types, datas, metadatas, times, message_requests, message_offsets
      ) WITH ORDINALITY AS m (id, stream_name, type, data, metadata, time, request, place, number)
      WHERE bases[m.request] IS NOT NULL
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
