//! Messages that were delivered and not acked, and are gone before they come again: trimmed or erased.

use super::*;

/// Deletes all messages of `a-1` before a position.
async fn trim(app: &TestApp, before: i64) {
    let wish = json!({ "before_position": before, "unless_unacked": false });
    let trimmed = app.post("/v1/streams/a-1/trim", &wish).await;
    assert_eq!((trimmed.status, &trimmed.json()["trimmed"]), (200, &json!(1)), "{}", trimmed.text);
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
