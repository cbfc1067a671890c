//! The condition of get_stream_messages and get_category_messages, and its gate.
use super::{Store, unique};

const CLOSED: &str = "Retrieval with SQL condition is not activated";

async fn store_with(category: &str) -> Store {
    let store = Store::open().await;
    for (id, message_type) in [("1", "A"), ("1", "B"), ("1", "A"), ("2", "B")] {
        store.write_with(&format!("{category}-{id}"), message_type, "NULL").await;
    }
    store
}

/// Both reads with a condition; each `'` in it is doubled.
fn reads(category: &str, condition: &str) -> [String; 2] {
    let condition = condition.replace('\'', "''");
    [
        format!("SELECT position FROM get_stream_messages('{category}-1', condition => '{condition}')"),
        format!("SELECT position FROM get_category_messages('{category}', condition => '{condition}')"),
    ]
}

#[tokio::test]
async fn is_refused_while_the_setting_is_unset_or_off() {
    let category = unique("condition");
    let store = store_with(&category).await;
    for sql in reads(&category, "true") {
        store.refused(&sql, "P0001", CLOSED).await;
    }
    store.run("SET message_store.sql_condition = 'off'").await;
    for sql in reads(&category, "true") {
        store.refused(&sql, "P0001", CLOSED).await;
    }
}

#[tokio::test]
async fn is_allowed_by_any_other_value_of_the_setting() {
    let category = unique("condition");
    let store = store_with(&category).await;
    for setting in ["on", "OFF", "false", "0"] {
        store.run(&format!("SET message_store.sql_condition = '{setting}'")).await;
        for sql in reads(&category, "type = 'A'") {
            assert_eq!(store.column(&sql).await, ["0", "2"], "{setting}: {sql}");
        }
    }
}

#[tokio::test]
async fn is_put_in_parentheses_over_the_columns_of_messages() {
    let category = unique("condition");
    let store = store_with(&category).await;
    store.run("SET message_store.sql_condition = 'on'").await;
    for sql in reads(&category, "messages.position = 2 OR data->>'n' = '2' OR metadata IS NOT NULL") {
        assert_eq!(store.column(&sql).await, ["2"], "{sql}");
    }
    // Without parentheses this would return every message of the store.
    for sql in reads(&category, "false OR true") {
        assert!(store.column(&sql).await.len() <= 4, "{sql}");
    }
}

#[tokio::test]
async fn works_together_with_position_batch_correlation_and_group() {
    let (category, correlation) = (unique("condition"), unique("correlation"));
    let store = store_with(&category).await;
    store.run("SET message_store.sql_condition = 'on'").await;
    let metadata = format!("'{{\"correlationStreamName\": \"{correlation}-1\"}}'");
    for message_type in ["A", "B"] {
        store.write_with(&format!("{category}-3"), message_type, &metadata).await;
        store.write_with(&category, message_type, &metadata).await;
    }
    let stream = format!("SELECT position FROM get_stream_messages('{category}-1', 1, 1, 'true')");
    assert_eq!(store.column(&stream).await, ["1"]);
    let sql = format!(
        "SELECT stream_name || type FROM get_category_messages('{category}', 1, 10, '{correlation}', 0, 1, 'type = ''B''')"
    );
    assert_eq!(store.column(&sql).await, [format!("{category}-3B")]);
}

#[tokio::test]
async fn null_needs_no_setting() {
    let category = unique("condition");
    let store = store_with(&category).await;
    let sql = format!("SELECT position FROM get_stream_messages('{category}-1', 0, 1, NULL)");
    assert_eq!(store.column(&sql).await, ["0"]);
}

#[tokio::test]
async fn text_that_is_no_sql_is_a_syntax_error() {
    let category = unique("condition");
    let store = store_with(&category).await;
    store.run("SET message_store.sql_condition = 'on'").await;
    for sql in reads(&category, "position =") {
        assert_eq!(store.refusal(&sql).await.code, "42601");
    }
    for sql in reads(&category, "no_such_column = 1") {
        assert_eq!(store.refusal(&sql).await.code, "42703");
    }
}
