//! No read shows what an erased message had, and every read says that it was erased.

use serde_json::json;

use super::{SECRET, assert_erased, erase, tables_with, write_secret};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

#[tokio::test]
async fn no_read_shows_what_an_erased_message_had() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let definition = json!({ "stream_wildcards": ["%"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/everything", &definition).await.status, 201);
    for (name, source, mode) in [
        ("competing", json!({ "all": true }), "competing"),
        ("partitioned", json!({ "category": "person" }), "partitioned"),
        ("aggregated", json!({ "aggregated_stream": "everything" }), "partitioned"),
    ] {
        let made = app.put(&format!("/v1/subscriptions/{name}"), &json!({ "source": source, "mode": mode })).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    // A follower keeps it in the cache.
    let mut live = app.follow("/v1/all/events").await;
    live.next("caught-up").await;
    let (id, position) = write_secret(&app, "person-1").await;
    live.next("message").await;
    app.get(&format!("/v1/aggregated-streams/everything?min_position={position}&wait=10s")).await;

    // Delivered, and parked: a dead letter is a copy of nothing.
    let given = app.post("/v1/subscriptions/competing/fetch", &json!({ "consumer": "w", "wait": "10s" })).await.json();
    let nack =
        json!({ "partition": 0, "position": position, "epoch": given["messages"][0]["epoch"], "action": "park" });
    let parked = app.post("/v1/subscriptions/competing/nacks", &json!({ "consumer": "w", "nacks": [nack] })).await;
    assert_eq!(parked.status, 200, "{}", parked.text);
    assert_eq!(tables_with(&sql, SECRET).await, ["message_store.messages"]);

    let erased = erase(&app, &id).await;
    assert_erased(&erased);
    assert_eq!(erased["global_position"], position);
    assert_eq!(tables_with(&sql, SECRET).await, Vec::<String>::new());

    for path in [
        "/v1/streams/person-1/messages",
        "/v1/streams/person-1/messages?direction=backward",
        "/v1/streams/person-1/messages/last",
        "/v1/categories/person/messages",
        "/v1/all/messages",
        &format!("/v1/messages/{id}"),
        "/v1/aggregated-streams/everything/partitions/0/messages",
        "/v1/subscriptions/competing/parked",
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(!answer.text.contains(SECRET), "{path}: {}", answer.text);
        let json = answer.json();
        let message = [&json["messages"][0]["message"], &json["messages"][0], &json["parked"][0]["message"], &json]
            .into_iter()
            .find(|found| found["type"].is_string())
            .unwrap_or_else(|| panic!("{path}: {json}"));
        assert_erased(message);
        assert_eq!(message["id"], json!(id), "{path}");
    }
    for path in [
        "/v1/streams/person-1/events?from=beginning",
        "/v1/categories/person/events?from=beginning",
        "/v1/all/events?from=beginning",
        "/v1/aggregated-streams/everything/events?from=beginning",
        "/v1/events?stream_name=person-1&aggregated_stream=everything&from=beginning",
        "/v1/subscriptions/partitioned/events?consumer=w",
        "/v1/subscriptions/aggregated/events?consumer=w",
    ] {
        let data = app.follow(path).await.next("message").await.json();
        let message = if data["message"].is_object() { &data["message"] } else { &data };
        assert_erased(message);
    }
    app.stop().await;
}

/// An erasure is no fault of those that write, and a projection needs nobody's help to go on after it.
#[tokio::test]
async fn an_erasure_is_not_reported_as_a_change_and_stops_no_rebuild() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let definition = json!({ "stream_wildcards": ["%"],
        "partitioner": { "kind": "cel", "expression": "data.n % 2" }, "max_partition": 1 });
    assert_eq!(app.put("/v1/aggregated-streams/halves", &definition).await.status, 201);
    let (id, _) = write_secret(&app, "person-1").await;
    let last = app.write("person-1", "Named", json!({ "n": 1 })).await;
    let path = format!("/v1/aggregated-streams/halves?min_position={last}&wait=10s");
    // It is projected that far while it still catches up, too.
    let is_live = || async { (app.get(&path).await.json()["status"]["state"] == "live").then_some(()) };
    eventually("it is live", is_live).await;
    erase(&app, &id).await;
    let links = app.get("/v1/aggregated-streams/halves/partitions/1/messages").await.json();
    assert_eq!(links["messages"].as_array().unwrap().len(), 2, "its place stays: {links}");

    assert_eq!(app.post("/v1/aggregated-streams/halves/rebuild", &json!({})).await.status, 200);
    let is_rebuilt = || async {
        let status = app.get("/v1/aggregated-streams/halves").await.json()["status"].clone();
        assert_ne!(status["state"], "stopped", "{status}");
        (status["rebuild"].is_null() && status["skipped"] == 1).then_some(())
    };
    crate::support::waiting::eventually("the rebuild", is_rebuilt).await;
    // The look for changes has been there: it comes once a second.
    let next = app.write("person-1", "Named", json!({ "n": 2 })).await;
    let mut events = app.follow(&format!("/v1/all/events?from={next}&heartbeat=2s")).await;
    events.next("heartbeat").await;
    assert_eq!(app.metric("headwater_written_behind_total").await, 0.0);
    assert_eq!(app.metric("headwater_messages_erased_total").await, 1.0);
    app.stop().await;
}
