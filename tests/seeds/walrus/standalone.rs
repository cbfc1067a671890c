//! `db.Stream`: added to, ranged, read and deleted from.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ConsumerGroup, add, range, service};

#[tokio::test]
async fn standalone_streams_are_ranged_and_read_after_an_id() {
    let (_database, app) = service().await;
    let mut ids = Vec::new();
    for text in ["hello streams", "message 2", "message 3"] {
        ids.push(add(&app, "stream-a", json!({ "message": text })).await);
    }
    // `stream[msgid2:]`, `stream[msgid::2]`, `list(stream)`, `len(stream)`
    assert_eq!(range(&app, "stream-a", &format!("from={}", ids[1])).await, ["message 2", "message 3"]);
    let first_two = range(&app, "stream-a", &format!("from={}&limit=2", ids[0])).await;
    assert_eq!(first_two, ["hello streams", "message 2"]);
    assert_eq!(range(&app, "stream-a", "").await.len(), 3);
    assert_eq!(app.get("/v1/streams/stream-a").await.json()["message_count"], 3);
    // `stream.read(last_id=msgid2)`: what was read last is not read again, so the next one is asked for.
    assert_eq!(range(&app, "stream-a", &format!("from={}", ids[1] + 1)).await, ["message 3"]);
    assert_eq!(range(&app, "stream-a", &format!("from={}", ids[2] + 1)).await, Vec::<Value>::new());
    // `stream.read(block=…, last_id='$')`
    let began = Instant::now();
    assert_eq!(range(&app, "stream-a", "from=3&wait=300ms").await.len(), 0);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let (blocked, _) =
        tokio::join!(range(&app, "stream-a", "from=3&wait=20s"), add(&app, "stream-a", json!({ "message": "new" })));
    assert_eq!(blocked, ["new"]);
    app.stop().await;
}

/// `del stream[id]`, `stream.delete(*ids)`: what the message said goes. Its place stays, and is counted by `len(stream)`.
#[tokio::test]
async fn a_deleted_message_leaves_its_place() {
    let (_database, app) = service().await;
    for n in 0..4 {
        add(&app, "stream-a", json!({ "message": n })).await;
    }
    let page = app.get("/v1/streams/stream-a/messages").await.json();
    let id = page["messages"][1]["id"].as_str().unwrap();
    assert_eq!(app.delete(&format!("/v1/messages/{id}")).await.status, 200);
    assert_eq!(range(&app, "stream-a", "limit=10").await, [json!(0), json!(null), json!(2), json!(3)]);
    assert_eq!(range(&app, "stream-a", "from=2&limit=1").await, [json!(2)]);
    assert_eq!(app.get("/v1/streams/stream-a").await.json()["message_count"], 4);
    // A group that has not read it yet is given the place, and told that it was erased.
    let cg = ConsumerGroup::create(&app, "beginning").await;
    let found = cg.0[0].fetch("c1", 10).await;
    assert_eq!(found.len(), 4);
    assert!(found[1]["message"]["erased"].is_object() && found[1]["message"]["data"].is_null());
    app.stop().await;
}
