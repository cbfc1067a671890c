//! Messages that were delivered and not acked, and are gone before they come again: trimmed or erased.

use tokio_postgres::Client;

use super::*;

/// Deletes all messages of `a-1` before a position.
async fn trim(app: &TestApp, before: i64) {
    let wish = json!({ "before_position": before, "unless_unacked": false });
    let trimmed = app.post("/v1/streams/a-1/trim", &wish).await;
    assert_eq!((trimmed.status, &trimmed.json()["trimmed"]), (200, &json!(1)), "{}", trimmed.text);
}

/// The time to ack what is in flight is over.
async fn end_ack_timeout(sql: &Client) {
    let end =
        "UPDATE headwater.subscription_partitions SET ack_due_at = clock_timestamp() WHERE ack_due_at IS NOT NULL";
    assert_eq!(sql.execute(end, &[]).await.unwrap(), 1);
}

/// A stream's messages, and an aggregated stream's, are counted by other positions than the log's: once such a message is
/// gone, nobody knows its global position.
async fn counted_by_own_positions() -> Vec<(TestDatabase, TestApp, Value)> {
    let mut cases = Vec::new();
    for source in [json!({ "stream_name": "a-1" }), json!({ "aggregated_stream": "x" })] {
        let (database, app) = filled(1, 3).await;
        let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" } });
        assert_eq!(app.put("/v1/aggregated-streams/x", &definition).await.status, 201);
        app.get("/v1/aggregated-streams/x?min_position=3&wait=20s").await;
        cases.push((database, app, source));
    }
    cases
}

#[tokio::test]
async fn a_trimmed_message_that_is_parked_is_done() {
    for (_database, app, source) in counted_by_own_positions().await {
        let sub = Sub::new(&app, "s", json!({ "source": source })).await;
        let found = sub.fetch("w1", 1).await;
        trim(&app, 1).await;
        sub.nacked("w1", &found[0], json!({ "action": "park" })).await;
        assert_eq!(sub.get("/parked").await["parked"], json!([]));
        assert_eq!(numbers(&sub.drain("w1").await), [1, 2], "{source}");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_trimmed_message_that_was_delivered_too_often_holds_up_nothing() {
    for (_database, app, source) in counted_by_own_positions().await {
        let sub = Sub::new(&app, "s", json!({ "source": source, "max_deliveries": 1 })).await;
        assert_eq!(numbers(&sub.fetch("w1", 1).await), [0]);
        trim(&app, 1).await;
        assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204);
        assert_eq!(numbers(&sub.drain("w2").await), [1, 2], "{source}");
        assert_eq!(sub.get("/parked").await["parked"], json!([]));
        app.stop().await;
    }
}

/// One message at a time, and only those that the filter lets pass: the next of these comes, whatever became of the one
/// before it.
async fn goes_on_after(become_of: impl AsyncFn(&TestApp, &Value)) {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    app.write("a-1", "T", json!({ "n": 1 })).await;
    let definition = json!({
        "source": { "category": "a" }, "filter": "data.n > 0", "partitions": 1, "max_in_flight": 1, "ack_timeout": "10m"
    });
    let sub = Sub::new(&app, "s", definition).await;
    let found = sub.fetch("w1", 10).await;
    assert_eq!(numbers(&found), [1]);
    app.write("a-1", "T", json!({ "n": -1 })).await;
    become_of(&app, &found[0]).await;
    end_ack_timeout(&sql).await;
    assert_eq!(sub.fetch("w1", 10).await.len(), 0);
    app.write("a-1", "T", json!({ "n": 2 })).await;
    let next = sub.fetch_some("w1", 10).await;
    assert_eq!(numbers(&next), [2]);
    sub.acked("w1", &next).await;
    assert_eq!(sub.fetch_with(json!({ "consumer": "w1", "backlog": true })).await.len(), 0);
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["oldest_unacked_age"]), (&json!(0), &Value::Null), "{status}");
    app.stop().await;
}

#[tokio::test]
async fn a_trimmed_message_is_not_in_flight_once_it_was_passed_over() {
    goes_on_after(async |app, _| trim(app, 1).await).await;
}

#[tokio::test]
async fn an_erased_message_is_not_in_flight_once_it_was_passed_over() {
    goes_on_after(async |app, message| {
        let id = message["message"]["id"].as_str().unwrap();
        assert_eq!(app.delete(&format!("/v1/messages/{id}")).await.status, 200);
    })
    .await;
}
