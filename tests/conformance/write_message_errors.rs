//! write_message: what it refuses, in which order, and what a refusal uses up.
use super::{Session, Store, unique};
use uuid::Uuid;

fn write(id: &str, stream: &str, message_type: &str, expected_version: &str) -> String {
    format!("SELECT write_message({id}, {stream}, {message_type}, '{{}}', NULL, {expected_version})")
}

fn new_id() -> String {
    format!("'{}'", Uuid::new_v4())
}

/// The last global position that this session took, whatever other sessions do.
async fn last_taken(session: &Session) -> i64 {
    session.value("SELECT currval('message_store.messages_global_position_seq')").await.parse().unwrap()
}

#[tokio::test]
async fn another_version_is_refused() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("refuse"));
    for _ in 0..2 {
        store.write(&stream).await;
    }
    for wrong in ["-1", "0", "2", "-2"] {
        let message = format!("Wrong expected version: {wrong} (Stream: {stream}, Stream Version: 1)");
        store.refused(&write(&new_id(), &format!("'{stream}'"), "'T'", wrong), "P0001", &message).await;
    }
}

#[tokio::test]
async fn a_stream_without_messages_has_version_minus_1() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("refuse"));
    let message = format!("Wrong expected version: 0 (Stream: {stream}, Stream Version: -1)");
    store.refused(&write(&new_id(), &format!("'{stream}'"), "'T'", "0"), "P0001", &message).await;
}

#[tokio::test]
async fn an_id_that_is_no_uuid_is_refused() {
    let store = Store::open().await;
    let stream = format!("'{}-1'", unique("refuse"));
    for id in ["not-a-uuid", ""] {
        let message = format!("invalid input syntax for type uuid: \"{id}\"");
        store.refused(&write(&format!("'{id}'"), &stream, "'T'", "NULL"), "22P02", &message).await;
    }
}

#[tokio::test]
async fn a_duplicate_id_is_refused_in_whatever_stream() {
    let store = Store::open().await;
    let category = unique("refuse");
    let id = new_id();
    store.run(&write(&id, &format!("'{category}-1'"), "'T'", "NULL")).await;
    for stream in [format!("'{category}-1'"), format!("'{category}-2'"), format!("'{}-1'", unique("refuse"))] {
        let refusal = store.refusal(&write(&id, &stream, "'T'", "NULL")).await;
        assert_eq!((refusal.code.as_str(), refusal.constraint.as_deref()), ("23505", Some("messages_id")));
    }
}

#[tokio::test]
async fn a_stale_version_is_reported_before_a_duplicate_id() {
    let store = Store::open().await;
    let stream = format!("'{}-1'", unique("refuse"));
    let id = new_id();
    store.run(&write(&id, &stream, "'T'", "-1")).await;
    assert_eq!(store.refusal(&write(&id, &stream, "'T'", "-1")).await.code, "P0001");
    assert_eq!(store.refusal(&write(&id, &stream, "'T'", "0")).await.code, "23505");
}

#[tokio::test]
async fn a_wrong_version_is_reported_before_an_id_that_is_no_uuid_and_before_nulls() {
    let store = Store::open().await;
    let stream = format!("'{}-1'", unique("refuse"));
    for (id, message_type) in [("'not-a-uuid'", "'T'"), ("NULL", "'T'"), ("NULL", "NULL")] {
        assert_eq!(store.refusal(&write(id, &stream, message_type, "7")).await.code, "P0001");
    }
}

#[tokio::test]
async fn an_id_that_is_no_uuid_is_reported_before_nulls() {
    let store = Store::open().await;
    assert_eq!(store.refusal(&write("'not-a-uuid'", "NULL", "NULL", "NULL")).await.code, "22P02");
}

#[tokio::test]
async fn null_id_stream_name_or_type_is_refused() {
    let store = Store::open().await;
    let stream = format!("'{}-1'", unique("refuse"));
    let id = new_id();
    for (column, sql) in [
        ("id", write("NULL", &stream, "'T'", "NULL")),
        ("stream_name", write(&id, "NULL", "'T'", "NULL")),
        ("type", write(&id, &stream, "NULL", "NULL")),
    ] {
        let message =
            format!("null value in column \"{column}\" of relation \"messages\" violates not-null constraint");
        store.refused(&sql, "23502", &message).await;
    }
}

#[tokio::test]
async fn a_failed_insert_uses_up_a_global_position_and_no_position() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("refuse"));
    let (id, quoted) = (new_id(), format!("'{stream}'"));
    store.run(&write(&id, &quoted, "'T'", "NULL")).await;
    let before = last_taken(&store).await;

    assert_eq!(store.refusal(&write(&id, &quoted, "'T'", "NULL")).await.code, "23505");
    let after = last_taken(&store).await;
    assert!(after > before, "{after} comes after {before}");

    assert_eq!(store.write(&stream).await, "1");
    let written =
        store.value(&format!("SELECT max(global_position) FROM messages WHERE stream_name = '{stream}'")).await;
    assert!(written.parse::<i64>().unwrap() > after);
}

#[tokio::test]
async fn a_wrong_version_and_an_id_that_is_no_uuid_use_up_neither() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("refuse"));
    store.write(&stream).await;
    let before = last_taken(&store).await;
    for (id, version, code) in [(new_id(), "5", "P0001"), ("'not-a-uuid'".to_owned(), "NULL", "22P02")] {
        assert_eq!(store.refusal(&write(&id, &format!("'{stream}'"), "'T'", version)).await.code, code);
        assert_eq!(last_taken(&store).await, before);
    }
    assert_eq!(store.write(&stream).await, "1");
}

#[tokio::test]
async fn a_write_that_is_rolled_back_leaves_its_position_free() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("refuse"));
    store.run("BEGIN").await;
    assert_eq!(store.write(&stream).await, "0");
    store.run("ROLLBACK").await;
    assert_eq!(store.write(&stream).await, "0");
}
