-- For trim_messages: deletes the links to these messages from aggregated streams, and notes where partitions have holes
-- from then on. All other positions stay what they were. The last link of a partition stays in any case: it says where the
-- next message goes.
CREATE OR REPLACE FUNCTION headwater.trimmed_in_projections(_global_positions bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _run record;
  _first record;
  _last record;
BEGIN
  FOR _run IN
    WITH deleted AS (
      DELETE FROM headwater.aggregated_messages AS a
      USING headwater.projections AS j
      -- What nobody reads any more is deleted by purge_projections.
      WHERE a.projection_id = j.id AND j.aggregated_stream_id IS NOT NULL AND a.global_position = ANY (_global_positions)
        AND EXISTS (
          SELECT
          FROM headwater.aggregated_messages AS l
          WHERE l.projection_id = a.projection_id AND l.partition = a.partition AND l.position > a.position
        )
      RETURNING a.projection_id, a.partition, a.position, a.global_position
    )
    SELECT
      d.projection_id, d.partition, min(d.position) AS first, max(d.position) AS last,
      min(d.global_position) AS first_global, max(d.global_position) AS last_global
    FROM (
      SELECT d.*, d.position - row_number() OVER (
        PARTITION BY d.projection_id, d.partition ORDER BY d.position
      ) AS island
      FROM deleted AS d
    ) AS d
    GROUP BY d.projection_id, d.partition, d.island
    ORDER BY d.projection_id, d.partition, 3
  LOOP
    -- A run that ends before this one, and one that begins after it, become one with it.
    DELETE FROM headwater.trimmed_links AS t
    WHERE t.projection_id = _run.projection_id AND t.partition = _run.partition
      AND t.first_position = (
        SELECT l.first_position
        FROM headwater.trimmed_links AS l
        WHERE l.projection_id = _run.projection_id AND l.partition = _run.partition
          AND l.first_position < _run.first
        ORDER BY l.first_position DESC
        LIMIT 1
      )
      AND t.last_position = _run.first - 1
    RETURNING t.first_position, t.first_global_position INTO _first;
    DELETE FROM headwater.trimmed_links AS t
    WHERE t.projection_id = _run.projection_id AND t.partition = _run.partition
      AND t.first_position = _run.last + 1
    RETURNING t.last_position, t.last_global_position INTO _last;

    INSERT INTO headwater.trimmed_links
      (projection_id, partition, first_position, last_position, first_global_position, last_global_position)
    VALUES (
      _run.projection_id, _run.partition,
      coalesce(_first.first_position, _run.first), coalesce(_last.last_position, _run.last),
      coalesce(_first.first_global_position, _run.first_global), coalesce(_last.last_global_position, _run.last_global)
    );
  END LOOP;
END;
$$;
