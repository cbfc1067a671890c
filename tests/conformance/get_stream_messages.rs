//! get_stream_messages.
use super::{Store, unique};

async fn store_with(stream: &str, messages: usize) -> Store {
    let store = Store::open().await;
    for _ in 0..messages {
        store.write(stream).await;
    }
    store
}

/// The positions that a call returns.
async fn positions(store: &Store, arguments: &str) -> Vec<String> {
    store.column(&format!("SELECT position FROM get_stream_messages({arguments})")).await
}

#[tokio::test]
async fn returns_all_that_was_written_with_json_as_text() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 0).await;
    store.write_with(&stream, "Deposited", "'{\"b\":1,\"a\":2}'").await;
    let sql = format!(
        "SELECT g.id = m.id::text, g.stream_name, g.type, g.position, g.global_position = m.global_position,
                g.data, g.metadata, g.time = m.time
         FROM get_stream_messages('{stream}') g JOIN messages m ON m.stream_name = g.stream_name"
    );
    let expected = ["t", &stream, "Deposited", "0", "t", "{\"n\": 1}", "{\"a\": 2, \"b\": 1}", "t"];
    assert_eq!(store.rows(&sql).await, [expected.map(|value| Some(value.to_owned())).to_vec()]);
}

#[tokio::test]
async fn columns_are_those_of_the_type_message() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 1).await;
    let sql = format!("SELECT pg_typeof(g) FROM get_stream_messages('{stream}') g");
    assert_eq!(store.value(&sql).await, "message");
}

#[tokio::test]
async fn begins_at_the_position_in_ascending_order() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 4).await;
    assert_eq!(positions(&store, &format!("'{stream}'")).await, ["0", "1", "2", "3"]);
    assert_eq!(positions(&store, &format!("'{stream}', 2")).await, ["2", "3"]);
    assert_eq!(positions(&store, &format!("'{stream}', 4")).await, [""; 0]);
    assert_eq!(positions(&store, &format!("'{stream}', -1")).await, ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn batch_size_limits_what_is_returned() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 4).await;
    assert_eq!(positions(&store, &format!("'{stream}', 1, 2")).await, ["1", "2"]);
    assert_eq!(positions(&store, &format!("'{stream}', 0, 0")).await, [""; 0]);
    assert_eq!(positions(&store, &format!("'{stream}', batch_size => 1")).await, ["0"]);
}

#[tokio::test]
async fn batch_size_is_1000_by_default_and_for_null_and_unlimited_for_minus_1() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 0).await;
    store
        .run(&format!(
            "INSERT INTO messages (stream_name, position, type) SELECT '{stream}', n, 'T' FROM generate_series(0, 1001) n"
        ))
        .await;
    for (arguments, expected) in [("", "1000"), (", 0, NULL", "1000"), (", 0, -1", "1002"), (", 1, -1", "1001")] {
        let sql = format!("SELECT count(*) FROM get_stream_messages('{stream}'{arguments})");
        assert_eq!(store.value(&sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn null_position_is_0() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 2).await;
    assert_eq!(positions(&store, &format!("'{stream}', NULL")).await, ["0", "1"]);
}

#[tokio::test]
async fn other_negative_batch_sizes_are_refused() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("stream"));
    for batch_size in ["-2", "-1000"] {
        let sql = format!("SELECT * FROM get_stream_messages('{stream}', 0, {batch_size})");
        assert_eq!(store.refusal(&sql).await.code, "2201W");
    }
}

#[tokio::test]
async fn a_category_is_refused() {
    let store = Store::open().await;
    for (argument, printed) in [("'account'", "account"), ("''", ""), ("NULL", "<NULL>")] {
        let message = format!("Must be a stream name: {printed}");
        store.refused(&format!("SELECT * FROM get_stream_messages({argument})"), "P0001", &message).await;
    }
}

#[tokio::test]
async fn a_category_is_reported_before_the_batch_size_and_the_condition() {
    let store = Store::open().await;
    let sql = "SELECT * FROM get_stream_messages('account', 0, -2, 'true')";
    store.refused(sql, "P0001", "Must be a stream name: account").await;
}

#[tokio::test]
async fn an_unknown_stream_has_no_rows() {
    let store = Store::open().await;
    assert_eq!(positions(&store, &format!("'{}-1'", unique("stream"))).await, [""; 0]);
}

#[tokio::test]
async fn only_exactly_that_stream_is_read() {
    let stream = format!("{}-1", unique("stream"));
    let store = store_with(&stream, 1).await;
    store.write(&format!("{stream}1")).await;
    store.write(&format!("{stream}+1")).await;
    let streams = store.column(&format!("SELECT stream_name FROM get_stream_messages('{stream}')")).await;
    assert_eq!(streams, [stream]);
}
