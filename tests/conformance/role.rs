//! What the role message_store may do, and what not.
use super::{Store, unique};
use uuid::Uuid;

const REFUSED: &str = "42501";

/// None, with the reason printed, where the role does not exist or this user may not take it.
async fn store_with_role() -> Option<Store> {
    let store = Store::open().await;
    if store.column("SELECT 1 FROM pg_roles WHERE rolname = 'message_store'").await.is_empty() {
        eprintln!("skipped: role message_store does not exist on this server");
        return None;
    }
    Some(store)
}

async fn store_as_role() -> Option<Store> {
    let store = store_with_role().await?;
    if store.value("SELECT pg_has_role('message_store', 'MEMBER')").await == "f" {
        eprintln!("skipped: this user may not take the role message_store");
        return None;
    }
    store.run("SET ROLE message_store").await;
    Some(store)
}

#[tokio::test]
async fn may_log_in_and_owns_nothing() {
    let Some(store) = store_with_role().await else {
        return;
    };
    assert_eq!(store.value("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'message_store'").await, "t");
    let owned = store
        .value(
            "SELECT (SELECT count(*) FROM pg_class WHERE relowner = 'message_store'::regrole)
                  + (SELECT count(*) FROM pg_proc WHERE proowner = 'message_store'::regrole)
                  + (SELECT count(*) FROM pg_namespace WHERE nspowner = 'message_store'::regrole)",
        )
        .await;
    assert_eq!(owned, "0");
}

#[tokio::test]
async fn may_write_and_read_through_the_functions() {
    let Some(store) = store_as_role().await else {
        return;
    };
    let category = unique("role");
    let stream = format!("{category}-1");
    assert_eq!(store.write(&stream).await, "0");
    for sql in [
        format!("SELECT position FROM get_stream_messages('{stream}')"),
        format!("SELECT position FROM get_category_messages('{category}')"),
        format!("SELECT position FROM get_last_stream_message('{stream}')"),
        format!("SELECT stream_version('{stream}')"),
    ] {
        assert_eq!(store.column(&sql).await, ["0"], "{sql}");
    }
    for sql in [
        "acquire_lock('a-1')",
        "category('a-1')",
        "id('a-1')",
        "cardinal_id('a-1')",
        "hash_64('a')",
        "is_category('a')",
        "message_store_version()",
    ] {
        store.run(&format!("SELECT {sql}")).await;
    }
}

#[tokio::test]
async fn may_insert_and_select_and_use_the_sequence() {
    let Some(store) = store_as_role().await else {
        return;
    };
    let stream = format!("{}-1", unique("role"));
    store.run(&format!("INSERT INTO messages (stream_name, position, type) VALUES ('{stream}', 0, 'T')")).await;
    assert_eq!(store.value(&format!("SELECT count(*) FROM messages WHERE stream_name = '{stream}'")).await, "1");
    store.run("SELECT nextval('messages_global_position_seq')").await;
    store.run("SELECT last_value FROM messages_global_position_seq").await;
}

#[tokio::test]
async fn may_select_from_the_views() {
    let Some(store) = store_as_role().await else {
        return;
    };
    for view in [
        "stream_summary",
        "type_summary",
        "stream_type_summary",
        "type_stream_summary",
        "category_type_summary",
        "type_category_summary",
    ] {
        store.run(&format!("SELECT count(*) FROM {view}")).await;
    }
}

#[tokio::test]
async fn may_not_update_delete_or_truncate() {
    let Some(store) = store_as_role().await else {
        return;
    };
    let id = Uuid::new_v4();
    for sql in [
        format!("UPDATE messages SET type = 'x' WHERE id = '{id}'"),
        format!("DELETE FROM messages WHERE id = '{id}'"),
        "TRUNCATE messages".to_owned(),
    ] {
        assert_eq!(store.refusal(&sql).await.code, REFUSED, "{sql}");
    }
}

#[tokio::test]
async fn may_not_change_the_schema() {
    let Some(store) = store_as_role().await else {
        return;
    };
    for sql in ["CREATE TABLE message_store.mine (n int)", "DROP TABLE messages", "ALTER TABLE messages ADD n int"] {
        assert_eq!(store.refusal(sql).await.code, REFUSED, "{sql}");
    }
}
