//! The table, its indexes and its sequence, and the type that reads return.
use super::{Store, unique};

async fn columns_of(store: &Store, relation: &str) -> Vec<String> {
    store
        .column(&format!(
            "SELECT attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' not null' ELSE '' END
             FROM pg_attribute WHERE attrelid = 'message_store.{relation}'::regclass AND attnum > 0 AND NOT attisdropped
             ORDER BY attnum"
        ))
        .await
}

#[tokio::test]
async fn messages_has_its_columns_in_order() {
    let store = Store::open().await;
    let expected = [
        "global_position bigint not null",
        "position bigint not null",
        "time timestamp without time zone not null",
        "stream_name text not null",
        "type text not null",
        "data jsonb",
        "metadata jsonb",
        "id uuid not null",
    ];
    assert_eq!(columns_of(&store, "messages").await, expected);
}

#[tokio::test]
async fn message_has_its_columns_in_order() {
    let store = Store::open().await;
    let expected = [
        "id character varying",
        "stream_name character varying",
        "type character varying",
        "position bigint",
        "global_position bigint",
        "data character varying",
        "metadata character varying",
        "time timestamp without time zone",
    ];
    assert_eq!(columns_of(&store, "message").await, expected);
}

#[tokio::test]
async fn global_position_time_and_id_have_defaults() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("table"));
    let sql = format!(
        "INSERT INTO messages (stream_name, position, type) VALUES ('{stream}', 0, 'T')
         RETURNING global_position = currval('message_store.messages_global_position_seq'),
                   time = now() AT TIME ZONE 'utc', id IS NOT NULL, data, metadata"
    );
    let expected = [Some("t"), Some("t"), Some("t"), None, None].map(|value| value.map(str::to_owned));
    assert_eq!(store.rows(&sql).await, [expected.to_vec()]);
}

#[tokio::test]
async fn global_position_is_the_primary_key() {
    let store = Store::open().await;
    let key = store
        .value(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint
             WHERE conrelid = 'message_store.messages'::regclass AND contype = 'p'",
        )
        .await;
    assert_eq!(key, "PRIMARY KEY (global_position)");
}

#[tokio::test]
async fn indexes_are_those_of_the_contract() {
    let store = Store::open().await;
    for (name, unique, columns) in [
        ("messages_id", "t", vec!["id"]),
        ("messages_stream", "t", vec!["stream_name", "\"position\""]),
        (
            "messages_category",
            "f",
            vec![
                "category((stream_name)::character varying)",
                "global_position",
                "category(((metadata ->> 'correlationStreamName'::text))::character varying)",
            ],
        ),
    ] {
        let index = format!("'message_store.{name}'::regclass");
        let sql = format!("SELECT indisunique FROM pg_index WHERE indexrelid = {index}");
        assert_eq!(store.value(&sql).await, unique, "{name}");
        let sql = format!(
            "SELECT replace(pg_get_indexdef({index}, n, false), 'message_store.', '') FROM generate_series(1, 3) n
             WHERE pg_get_indexdef({index}, n, false) <> ''"
        );
        let found = store.column(&sql).await;
        assert_eq!(found, columns, "{name}");
    }
}

#[tokio::test]
async fn the_sequence_starts_at_1_and_caches_1() {
    let store = Store::open().await;
    assert_eq!(
        store.value("SELECT pg_get_serial_sequence('message_store.messages', 'global_position')").await,
        "message_store.messages_global_position_seq"
    );
    let sql = "SELECT seqtypid::regtype || ' ' || seqstart || ' ' || seqincrement || ' ' || seqcache || ' ' || seqcycle
               FROM pg_sequence WHERE seqrelid = 'message_store.messages_global_position_seq'::regclass";
    assert_eq!(store.value(sql).await, "bigint 1 1 1 false");
}
