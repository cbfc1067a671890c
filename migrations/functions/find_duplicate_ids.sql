-- For append_batch: which parts of requests (a part is what goes to one stream) have messages whose ids are used already,
-- and what that means for each.
--
-- outcomes, for every part: 'missing': none of its ids is used; 'duplicate': all messages are there, with the same
-- content, as one run of one stream in the same order (the part was done before); 'id_reused': an id belongs to another
-- message, or only some of the messages are there.
-- standing_*: for a duplicate its messages in order; for a reused id one message that has it.
CREATE OR REPLACE FUNCTION headwater.find_duplicate_ids(
  parts int,
  message_parts int[],
  message_streams text[],
  ids uuid[],
  types text[],
  datas text[],
  metadatas text[],
  OUT outcomes text[],
  OUT standing_parts int[],
  OUT standing_ids uuid[],
  OUT standing_streams text[],
  OUT standing_positions bigint[],
  OUT standing_global_positions bigint[],
  OUT standing_times timestamp[]
)
LANGUAGE sql STABLE
AS $$
  WITH given AS (
    SELECT *
    FROM unnest(message_parts, message_streams, ids, types, datas, metadatas)
      WITH ORDINALITY AS g (part, stream_name, id, type, data, metadata, number)
  ),
  standing AS (
    SELECT
      given.part, given.number, m.id, m.stream_name, m.position, m.global_position, m.time,
      (
        m.stream_name = given.stream_name
        AND m.type = given.type
        -- An append without data stores JSON null. Rows from before that, and from SQL, may have SQL's NULL.
        AND (
          coalesce(m.data, 'null') = coalesce(given.data::jsonb, 'null')
          AND headwater.is_same_metadata(m.metadata, given.metadata::jsonb)
          -- What an erased message had cannot be compared any more.
          OR m.data IS NULL AND EXISTS (SELECT FROM headwater.erased_messages AS e WHERE e.id = m.id)
        )
      ) AS same
    FROM given
    JOIN message_store.messages AS m ON m.id = given.id
  ),
  judged AS (
    SELECT
      standing.part,
      CASE
        WHEN bool_and(standing.same)
          AND count(*) = (SELECT count(*) FROM given WHERE given.part = standing.part)
          AND count(DISTINCT standing.position - standing.number) = 1
        THEN 'duplicate'
        ELSE 'id_reused'
      END AS outcome
    FROM standing
    GROUP BY standing.part
  ),
  shown AS (
    SELECT standing.*
    FROM standing
    JOIN judged USING (part)
    WHERE judged.outcome = 'duplicate'
    UNION ALL
    SELECT DISTINCT ON (standing.part) standing.*
    FROM standing
    JOIN judged USING (part)
    WHERE judged.outcome = 'id_reused'
    ORDER BY part, same, number
  )
  SELECT
    (
      SELECT array_agg(coalesce(judged.outcome, 'missing') ORDER BY p.part)
      FROM generate_series(1, parts) AS p (part)
      LEFT JOIN judged USING (part)
    ),
    array_agg(shown.part ORDER BY shown.number),
    array_agg(shown.id ORDER BY shown.number),
    array_agg(shown.stream_name ORDER BY shown.number),
    array_agg(shown.position ORDER BY shown.number),
    array_agg(shown.global_position ORDER BY shown.number),
    array_agg(shown.time ORDER BY shown.number)
  FROM shown
$$;
