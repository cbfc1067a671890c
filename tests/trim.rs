//! The oldest messages of streams go, positions stay, and everybody who misses some is told.

mod at_once;
mod beside;
mod followers;
mod retention;
mod streams;
mod subscriptions;

use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;

/// Writes `count` messages in a stream, in SQL; answers the global position of the last.
async fn fill(database: &TestDatabase, stream: &str, count: i64) -> i64 {
    let sql = database.connect().await;
    let insert = "INSERT INTO message_store.messages (stream_name, position, type, data, time) \
        SELECT $1, b.next + n, CASE n % 2 WHEN 0 THEN 'Even' ELSE 'Odd' END, jsonb_build_object('n', n), \
        timestamp '2026-01-01' + n * interval '1 hour' \
        FROM generate_series(0, $2::bigint - 1) AS n, (SELECT coalesce(max(position), -1) + 1 AS next \
        FROM message_store.messages WHERE stream_name = $1) AS b ORDER BY n";
    sql.execute(insert, &[&stream, &count]).await.unwrap();
    sql.query_one("SELECT max(global_position) FROM message_store.messages", &[]).await.unwrap().get(0)
}

async fn try_trim(app: &TestApp, stream: &str, body: &Value) -> Answer {
    app.post(&format!("/v1/streams/{stream}/trim"), body).await
}

async fn trim(app: &TestApp, stream: &str, body: Value) -> Value {
    let answer = try_trim(app, stream, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn aggregate(app: &TestApp, up_to: i64) {
    let definition = json!({ "stream_wildcards": ["a-%"], "partitioner": { "kind": "constant" } });
    let made = app.put("/v1/aggregated-streams/everything", &definition).await;
    assert!(made.status == 201 || made.status == 200, "{}", made.text);
    let by_id = json!({ "stream_wildcards": ["a-%"], "partitioner": { "kind": "key", "of": "cardinal_id" } });
    let made = app.put("/v1/aggregated-streams/keyed", &by_id).await;
    assert!(made.status == 201 || made.status == 200, "{}", made.text);
    for name in ["everything", "keyed"] {
        app.get(&format!("/v1/aggregated-streams/{name}?min_position={up_to}&wait=10s")).await;
    }
}
