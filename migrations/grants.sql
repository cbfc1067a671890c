-- What role message_store may do: read and append. It owns nothing, and changes nothing that stands.
-- :"role" stands for the name, as in psql.
GRANT USAGE ON SCHEMA message_store TO :"role";
GRANT SELECT, INSERT ON message_store.messages TO :"role";
GRANT USAGE, SELECT ON SEQUENCE message_store.messages_global_position_seq TO :"role";
GRANT SELECT ON
  message_store.stream_summary,
  message_store.type_summary,
  message_store.stream_type_summary,
  message_store.type_stream_summary,
  message_store.category_type_summary,
  message_store.type_category_summary
TO :"role";
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO :"role";
