-- Messages of one category from a global position on, in global order. A batch size of -1 is unlimited.
CREATE OR REPLACE FUNCTION message_store.get_category_messages(
  category varchar,
  "position" bigint DEFAULT 1,
  batch_size bigint DEFAULT 1000,
  correlation varchar DEFAULT NULL,
  consumer_group_member bigint DEFAULT NULL,
  consumer_group_size bigint DEFAULT NULL,
  condition varchar DEFAULT NULL
)
RETURNS SETOF message_store.message
LANGUAGE plpgsql VOLATILE
-- The reads below follow the order of the index messages_category. A planner that guesses that few messages fit (a consumer
-- group's share, a correlation, a condition) must not read the rest of the store and sort it, nor start processes for a page.
SET enable_sort = off
SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
  _position bigint := COALESCE(get_category_messages.position, 1);
  _batch_size bigint := COALESCE(get_category_messages.batch_size, 1000);
  _group_error text;
  _command text;
BEGIN
  IF NOT message_store.is_category(get_category_messages.category) THEN
    RAISE EXCEPTION 'Must be a category: %', get_category_messages.category;
  END IF;

  IF NOT message_store.is_category(get_category_messages.correlation) THEN
    RAISE EXCEPTION 'Correlation must be a category (Correlation: %)', get_category_messages.correlation;
  END IF;

  _group_error := CASE
    WHEN consumer_group_member IS NULL AND consumer_group_size IS NULL
      THEN NULL
    WHEN consumer_group_member IS NULL OR consumer_group_size IS NULL
      THEN 'Consumer group member and size must be specified'
    WHEN consumer_group_size < 1
      THEN 'Consumer group size must not be less than 1'
    WHEN consumer_group_member < 0
      THEN 'Consumer group member must not be less than 0'
    WHEN consumer_group_member >= consumer_group_size
      THEN 'Consumer group member must be less than the group size'
  END;

  IF _group_error IS NOT NULL THEN
    RAISE EXCEPTION '% (Consumer Group Member: %, Consumer Group Size: %)',
      _group_error, consumer_group_member, consumer_group_size;
  END IF;

  -- A range that only the category itself fits, and the category in ORDER BY, instead of an equality: only the index
  -- messages_category gives that order. With an equality the planner may walk the primary key, and pass over every message
  -- of other categories to find the few of a rare one.
  _command := '
    SELECT
      id::varchar,
      stream_name::varchar,
      type::varchar,
      position::bigint,
      global_position::bigint,
      data::varchar,
      metadata::varchar,
      time::timestamp
    FROM
      message_store.messages
    WHERE
      message_store.category(stream_name) BETWEEN $1 AND $1 AND
      global_position >= $2';

  IF get_category_messages.correlation IS NOT NULL THEN
    -- The index has this expression too: messages of other correlations are passed over without reading the table.
    _command := _command || ' AND
      message_store.category(metadata ->> ''correlationStreamName'') = $4';
  END IF;

  IF get_category_messages.consumer_group_member IS NOT NULL THEN
    _command := _command || ' AND
      mod(abs(message_store.hash_64(message_store.cardinal_id(stream_name))), $6) = $5';
  END IF;

  IF get_category_messages.condition IS NOT NULL THEN
    IF COALESCE(current_setting('message_store.sql_condition', true), 'off') = 'off' THEN
      RAISE EXCEPTION 'Retrieval with SQL condition is not activated';
    END IF;

    -- The condition is SQL of the caller's, put in as it is: only programs that may run any SQL can pass one.
    _command := _command || ' AND
      (' || get_category_messages.condition || ')';
  END IF;

  _command := _command || '
    ORDER BY
      message_store.category(stream_name),
      global_position ASC';

  IF _batch_size <> -1 THEN
    _command := _command || '
    LIMIT
      $3';
  END IF;

  IF current_setting('message_store.debug_get', true) = 'on'
    OR current_setting('message_store.debug', true) = 'on'
  THEN
    RAISE NOTICE '» get_category_messages';
    RAISE NOTICE 'category ($1): %', get_category_messages.category;
    RAISE NOTICE 'position ($2): %', _position;
    RAISE NOTICE 'batch_size ($3): %', _batch_size;
    RAISE NOTICE 'correlation ($4): %', get_category_messages.correlation;
    RAISE NOTICE 'consumer_group_member ($5): %', get_category_messages.consumer_group_member;
    RAISE NOTICE 'consumer_group_size ($6): %', get_category_messages.consumer_group_size;
    RAISE NOTICE 'condition: %', get_category_messages.condition;
    RAISE NOTICE 'Generated Command: %', _command;
  END IF;

  RETURN QUERY EXECUTE _command
  USING get_category_messages.category, _position, _batch_size, correlation, consumer_group_member, consumer_group_size;
END;
$$;
