//! Whatever is wrong with a request becomes a problem document that names the field and the rule, and changes nothing.

mod bodies;
mod cursors;
mod framing;
mod grows;
mod messages;
mod names;
mod queries;
mod wire;
mod words;

use std::time::Duration;

use headwater::config::Settings;
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;

/// A service with two messages in it, which are all that is there at the end.
struct Guarded {
    app: TestApp,
    sql: Client,
    _database: TestDatabase,
}

/// Far less than what a request may take: an answer within this time was not waited for.
const AT_ONCE: Duration = Duration::from_secs(10);
const STREAM: &str = "/v1/streams/account-1/messages";

impl Guarded {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let database = TestDatabase::migrated().await;
        let app = TestApp::with(&database.url, change).await;
        let sql = database.connect().await;
        let guarded = Self { app, sql, _database: database };
        guarded.app.write("account-1", "Opened", serde_json::json!({ "owner": "Ada" })).await;
        guarded.app.write("account-1", "Deposited", serde_json::json!({ "amount": 5 })).await;
        guarded
    }

    /// Posts a text as JSON to the stream.
    async fn post(&self, body: impl Into<String>) -> Answer {
        self.app.post_text(STREAM, body).await
    }

    async fn message_count(&self) -> i64 {
        self.sql.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
    }

    /// Asserts that nothing was written, and that the service still works.
    async fn end(self) {
        assert_eq!(self.message_count().await, 2, "a refused request has changed something");
        assert_eq!(self.app.get(STREAM).await.json()["version"], 1);
        assert_eq!(self.app.metric("headwater_panics_total").await, 0.0);
        self.app.stop().await;
    }
}

/// Asserts that a problem's first error names this field, with a message that holds this text.
#[track_caller]
fn names(problem: &Value, field: &str, rule: &str) {
    let error = &problem["errors"][0];
    assert_eq!(error["field"], field, "{problem}");
    let message = error["message"].as_str().unwrap_or_else(|| panic!("no message in {problem}"));
    assert!(message.contains(rule), "`{rule}` is not in `{message}`");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(field) && detail.contains(message), "{problem}");
}
