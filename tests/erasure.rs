//! An erased message keeps its place, and nothing shows what it had.

mod copies;
mod faces;
mod rules;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::app::TestApp;

/// In the data and the metadata of messages that will be erased, and nowhere else.
const SECRET: &str = "s3cret-of-Ada";

fn secret(n: i64) -> Value {
    json!({ "type": "Named", "data": { "name": SECRET, "n": n }, "metadata": { "by": SECRET } })
}

/// Writes one such message; answers its id and its global position.
async fn write_secret(app: &TestApp, stream: &str) -> (String, i64) {
    let answer = app.append(stream, &json!({ "messages": [secret(1)] })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let message = answer.json()["messages"][0].clone();
    (message["id"].as_str().unwrap().to_owned(), message["global_position"].as_i64().unwrap())
}

async fn erase(app: &TestApp, id: &str) -> Value {
    let answer = app.delete(&format!("/v1/messages/{id}?reason=asked")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// What is left of an erased message.
fn assert_erased(message: &Value) {
    assert!(message["data"].is_null() && message["metadata"].is_null(), "{message}");
    assert_eq!(message["erased"]["reason"], "asked", "{message}");
    assert!(message["erased"]["at"].as_str().unwrap().ends_with('Z'), "{message}");
    assert_eq!(message["type"], "Named", "{message}");
}

/// The tables in which a text is found.
async fn tables_with(sql: &Client, text: &str) -> Vec<String> {
    let tables = sql
        .query(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_catalog.pg_tables \
             WHERE schemaname IN ('headwater', 'message_store')",
            &[],
        )
        .await
        .unwrap();
    assert!(tables.len() > 10);
    let mut found = Vec::new();
    for row in tables {
        let table: String = row.get(0);
        let query = format!("SELECT count(*) FROM {table} AS t WHERE strpos(t::text, $1) > 0");
        if sql.query_one(&query, &[&text]).await.unwrap().get::<_, i64>(0) > 0 {
            found.push(table);
        }
    }
    found
}
