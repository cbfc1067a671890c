//! Several streams in one transaction, with conditions and acks.

mod acks;
mod boundaries;
mod conditions;
mod holding_locks;
mod input;
mod keys;
mod locks;
mod process_manager;
mod sent_again;
mod together;

use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;

async fn app() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    (database, app)
}

/// One message for a stream, of type `T`.
fn to(stream_name: &str, expected_version: impl Into<Option<i64>>) -> Value {
    json!({ "stream_name": stream_name, "expected_version": expected_version.into(), "messages": [{ "type": "T" }] })
}

async fn appends(app: &TestApp, body: &Value) -> Answer {
    app.post("/v1/appends", body).await
}

/// The answer of an append that was written.
async fn written(app: &TestApp, body: &Value) -> Value {
    let answer = appends(app, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let document = answer.json();
    assert_eq!(document["duplicate"], false);
    document
}

async fn count(database: &TestDatabase) -> i64 {
    let client = database.connect().await;
    client.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
}

/// What does not hold, as a refusal lists it.
fn failures(problem: &Value) -> Vec<Value> {
    problem["failures"].as_array().unwrap_or_else(|| panic!("{problem}")).clone()
}
