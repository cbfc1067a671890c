//! Names, arguments, results and volatility of the functions.
use super::Store;

/// Name, arguments with their defaults, result, volatility.
const FUNCTIONS: [(&str, &str, &str, &str); 12] = [
    ("category", "stream_name character varying", "character varying", "i"),
    ("is_category", "stream_name character varying", "boolean", "i"),
    ("id", "stream_name character varying", "character varying", "i"),
    ("cardinal_id", "stream_name character varying", "character varying", "i"),
    ("hash_64", "value character varying", "bigint", ""),
    ("acquire_lock", "stream_name character varying", "bigint", ""),
    ("message_store_version", "", "character varying", ""),
    ("stream_version", "stream_name character varying", "bigint", ""),
    (
        "write_message",
        "id character varying, stream_name character varying, type character varying, data jsonb, \
         metadata jsonb DEFAULT NULL::jsonb, expected_version bigint DEFAULT NULL::bigint",
        "bigint",
        "v",
    ),
    (
        "get_stream_messages",
        "stream_name character varying, \"position\" bigint DEFAULT 0, batch_size bigint DEFAULT 1000, \
         condition character varying DEFAULT NULL::character varying",
        "SETOF message",
        "v",
    ),
    (
        "get_category_messages",
        "category character varying, \"position\" bigint DEFAULT 1, batch_size bigint DEFAULT 1000, \
         correlation character varying DEFAULT NULL::character varying, \
         consumer_group_member bigint DEFAULT NULL::bigint, consumer_group_size bigint DEFAULT NULL::bigint, \
         condition character varying DEFAULT NULL::character varying",
        "SETOF message",
        "v",
    ),
    (
        "get_last_stream_message",
        "stream_name character varying, type character varying DEFAULT NULL::character varying",
        "SETOF message",
        "v",
    ),
];

#[tokio::test]
async fn functions_are_those_of_the_contract() {
    let store = Store::open().await;
    for &(name, arguments, result, volatility) in &FUNCTIONS {
        let sql = format!(
            "SELECT pg_get_function_arguments(oid), pg_get_function_result(oid), provolatile
             FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace AND proname = '{name}'"
        );
        let rows = store.rows(&sql).await;
        assert_eq!(rows.len(), 1, "{name} exists once");
        assert_eq!(rows[0][0].as_deref(), Some(arguments), "{name}");
        assert_eq!(rows[0][1].as_deref(), Some(result), "{name}");
        if !volatility.is_empty() {
            assert_eq!(rows[0][2].as_deref(), Some(volatility), "{name}");
        }
    }
}

#[tokio::test]
async fn no_function_runs_with_its_owners_rights() {
    let store = Store::open().await;
    let sql = "SELECT proname FROM pg_proc WHERE pronamespace = 'message_store'::regnamespace AND prosecdef";
    assert_eq!(store.column(sql).await, [""; 0]);
}
