//! The settings that make functions tell what they were called with, and what they do.
use super::{Store, unique};
use uuid::Uuid;

/// Begins the text of the statement that a read executes, which is the function's own.
const COMMAND: &str = "Generated Command: ";

/// A call, and what it tells before its command, if it has one.
struct Call {
    sql: String,
    told: Vec<String>,
    /// The types of the command's parameters, and their values in this call.
    parameters: Option<(&'static str, String)>,
}

/// Writes to a stream that is empty, the only one of its category.
async fn write(store: &Store, category: &str) -> Call {
    let (id, stream) = (Uuid::new_v4(), format!("{category}-1"));
    let hash = store.value(&format!("SELECT hash_64('{category}')")).await;
    Call {
        sql: format!("SELECT write_message('{id}', '{stream}', 'SomeType', '{{\"n\": 1}}', '{{\"m\": 2}}', -1)"),
        told: lines(&[
            "» acquire_lock",
            &format!("stream_name: {stream}"),
            &format!("_category: {category}"),
            &format!("_category_name_hash: {hash}"),
            "» write_message",
            &format!("id ($1): {id}"),
            &format!("stream_name ($2): {stream}"),
            "type ($3): SomeType",
            "data ($4): {\"n\": 1}",
            "metadata ($5): {\"m\": 2}",
            "expected_version ($6): -1",
            "_stream_version: -1",
            "_next_position: 0",
        ]),
        parameters: None,
    }
}

fn lines(told: &[&str]) -> Vec<String> {
    told.iter().map(|line| (*line).to_owned()).collect()
}

/// Each read with all its arguments, and with none that has a default.
fn reads(category: &str) -> Vec<Call> {
    let stream = format!("{category}-1");
    let in_category = "varchar, bigint, bigint, varchar, bigint, bigint";
    vec![
        Call {
            sql: format!("SELECT * FROM get_stream_messages('{stream}', 0, 7, 'type = ''T''')"),
            told: lines(&[
                "» get_stream_messages",
                &format!("stream_name ($1): {stream}"),
                "position ($2): 0",
                "batch_size ($3): 7",
                "condition ($4): type = 'T'",
            ]),
            parameters: Some(("varchar, bigint, bigint", format!("'{stream}', 0, 7"))),
        },
        Call {
            sql: format!("SELECT * FROM get_stream_messages('{stream}', NULL, NULL)"),
            told: lines(&[
                "» get_stream_messages",
                &format!("stream_name ($1): {stream}"),
                "position ($2): 0",
                "batch_size ($3): 1000",
                "condition ($4): <NULL>",
            ]),
            parameters: Some(("varchar, bigint, bigint", format!("'{stream}', 0, 1000"))),
        },
        Call {
            sql: format!("SELECT * FROM get_category_messages('{category}', 1, 7, 'correlated', 0, 1, 'true')"),
            told: lines(&[
                "» get_category_messages",
                &format!("category ($1): {category}"),
                "position ($2): 1",
                "batch_size ($3): 7",
                "correlation ($4): correlated",
                "consumer_group_member ($5): 0",
                "consumer_group_size ($6): 1",
                "condition: true",
            ]),
            parameters: Some((in_category, format!("'{category}', 1, 7, 'correlated', 0, 1"))),
        },
        Call {
            sql: format!("SELECT * FROM get_category_messages('{category}', NULL, NULL)"),
            told: lines(&[
                "» get_category_messages",
                &format!("category ($1): {category}"),
                "position ($2): 1",
                "batch_size ($3): 1000",
                "correlation ($4): <NULL>",
                "consumer_group_member ($5): <NULL>",
                "consumer_group_size ($6): <NULL>",
                "condition: <NULL>",
            ]),
            parameters: Some((in_category, format!("'{category}', 1, 1000, NULL, NULL, NULL"))),
        },
        Call {
            sql: format!("SELECT * FROM get_last_stream_message('{stream}', 'T')"),
            told: lines(&["» get_last_message", &format!("stream_name ($1): {stream}"), "type ($2): T"]),
            parameters: Some(("varchar, varchar", format!("'{stream}', 'T'"))),
        },
        Call {
            sql: format!("SELECT * FROM get_last_stream_message('{stream}')"),
            told: lines(&["» get_last_message", &format!("stream_name ($1): {stream}"), "type ($2): <NULL>"]),
            parameters: Some(("varchar, varchar", format!("'{stream}', NULL"))),
        },
    ]
}

async fn assert_tells(store: &mut Store, call: &Call) {
    store.notice_lines();
    let rows = store.rows(&call.sql).await;
    let told = store.notice_lines();
    let (told, command) = match told.iter().position(|line| line.starts_with(COMMAND)) {
        Some(at) => (told[..at].to_vec(), told[at..].join("\n").replacen(COMMAND, "", 1)),
        None => (told, String::new()),
    };
    assert_eq!(told, call.told, "{}", call.sql);
    let Some((types, values)) = &call.parameters else {
        return assert_eq!(command, "");
    };
    // It is a statement, and does what the function did.
    store.run(&format!("PREPARE told ({types}) AS {command}")).await;
    assert_eq!(store.rows(&format!("EXECUTE told ({values})")).await, rows, "{command}");
    store.run("DEALLOCATE told").await;
}

async fn assert_silent(store: &mut Store, sql: &str) {
    store.notice_lines();
    let _ = store.try_rows(sql).await;
    assert_eq!(store.notice_lines(), Vec::<String>::new(), "{sql}");
}

async fn store_with_condition() -> (Store, String) {
    let store = Store::open().await;
    store.run("SET message_store.sql_condition = 'on'").await;
    let category = unique("debug");
    (store, category)
}

/// Something to read.
async fn fill(store: &Store, category: &str) {
    for message_type in ["T", "U", "T"] {
        store
            .write_with(&format!("{category}-1"), message_type, "'{\"correlationStreamName\": \"correlated-1\"}'")
            .await;
    }
}

#[tokio::test]
async fn nothing_is_told_by_default() {
    let (mut store, category) = store_with_condition().await;
    let write = write(&store, &category).await;
    assert_silent(&mut store, &write.sql).await;
    for call in reads(&category) {
        assert_silent(&mut store, &call.sql).await;
    }
}

#[tokio::test]
async fn debug_makes_all_tell() {
    let (mut store, category) = store_with_condition().await;
    let write = write(&store, &category).await;
    store.run("SET message_store.debug = 'on'").await;
    assert_tells(&mut store, &write).await;
    fill(&store, &category).await;
    for call in reads(&category) {
        assert_tells(&mut store, &call).await;
    }
}

#[tokio::test]
async fn debug_get_makes_reads_tell() {
    let (mut store, category) = store_with_condition().await;
    let write = write(&store, &category).await;
    store.run("SET message_store.debug_get = 'on'").await;
    assert_silent(&mut store, &write.sql).await;
    fill(&store, &category).await;
    for call in reads(&category) {
        assert_tells(&mut store, &call).await;
    }
}

#[tokio::test]
async fn debug_write_makes_writes_tell() {
    let (mut store, category) = store_with_condition().await;
    let write = write(&store, &category).await;
    store.run("SET message_store.debug_write = 'on'").await;
    assert_tells(&mut store, &write).await;
    for call in reads(&category) {
        assert_silent(&mut store, &call.sql).await;
    }
}

#[tokio::test]
async fn only_on_is_on() {
    let (mut store, category) = store_with_condition().await;
    for (number, setting) in ["off", "true", "1", "ON"].iter().enumerate() {
        store.run(&format!("SET message_store.debug = '{setting}'")).await;
        let write = write(&store, &format!("{category}{number}")).await;
        assert_silent(&mut store, &write.sql).await;
    }
}

#[tokio::test]
async fn refusals_and_versions_tell_nothing_and_a_write_that_fails_only_its_lock() {
    let (mut store, category) = store_with_condition().await;
    let first = write(&store, &category).await;
    store.run(&first.sql).await;
    store.run("SET message_store.debug = 'on'; SET message_store.sql_condition = 'off'").await;
    let stream = format!("{category}-1");
    for sql in [
        format!("SELECT stream_version('{stream}')"),
        format!("SELECT * FROM get_stream_messages('{category}')"),
        format!("SELECT * FROM get_stream_messages('{stream}', 0, 1, 'true')"),
        format!("SELECT * FROM get_category_messages('{stream}')"),
        format!("SELECT * FROM get_category_messages('{category}', 1, 1, 'a-1')"),
        format!("SELECT * FROM get_category_messages('{category}', 1, 1, NULL, 2, 2)"),
        format!("SELECT * FROM get_category_messages('{category}', 1, 1, NULL, NULL, NULL, 'true')"),
    ] {
        assert_silent(&mut store, &sql).await;
    }
    // Now with a stale version, and without one with an id that is used.
    for sql in [first.sql.clone(), first.sql.replace(", -1)", ")")] {
        assert!(store.try_rows(&sql).await.is_err(), "{sql}");
        assert_eq!(store.notice_lines(), first.told[..4], "{sql}");
    }
}
