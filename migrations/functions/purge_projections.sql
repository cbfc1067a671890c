-- Deletes some rows of a projection that is not read any more. Answers how many; 0 if nothing is left.
CREATE OR REPLACE FUNCTION headwater.purge_projections(_rows_max integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
  _id bigint;
  _deleted bigint;
  _keys_deleted bigint;
BEGIN
  SELECT p.id INTO _id
  FROM headwater.projections AS p
  WHERE p.aggregated_stream_id IS NULL
  ORDER BY p.id
  LIMIT 1
  FOR UPDATE SKIP LOCKED;

  IF _id IS NULL THEN
    RETURN 0;
  END IF;

  DELETE FROM headwater.aggregated_messages
  WHERE ctid = ANY (ARRAY(SELECT ctid FROM headwater.aggregated_messages WHERE projection_id = _id LIMIT _rows_max));
  GET DIAGNOSTICS _deleted = ROW_COUNT;

  IF _deleted < _rows_max THEN
    DELETE FROM headwater.aggregated_keys
    WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM headwater.aggregated_keys WHERE projection_id = _id LIMIT _rows_max - _deleted
    ));
    GET DIAGNOSTICS _keys_deleted = ROW_COUNT;
    _deleted := _deleted + _keys_deleted;
  END IF;

  -- Fewer may also be because others have deleted some of them meanwhile.
  IF _deleted < _rows_max
    AND NOT EXISTS (SELECT FROM headwater.aggregated_messages AS m WHERE m.projection_id = _id)
    AND NOT EXISTS (SELECT FROM headwater.aggregated_keys AS k WHERE k.projection_id = _id)
  THEN
    DELETE FROM headwater.aggregated_partitions WHERE projection_id = _id;
    DELETE FROM headwater.trimmed_links WHERE projection_id = _id;
    DELETE FROM headwater.projections WHERE id = _id;
  END IF;

  -- At least 1, for the projection's own row: 0 would say that no other projection is left.
  RETURN greatest(_deleted, 1);
END;
$$;
