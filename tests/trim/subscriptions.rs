//! What a subscription has not acked stays, unless that is asked for; then it is passed over, and said.

use serde_json::{Value, json};

use super::{aggregate, fill, trim};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

const SOURCES: [(&str, &str); 6] = [
    ("stream", r#"{"stream_name": "a-1"}"#),
    ("category", r#"{"category": "a"}"#),
    ("categories", r#"{"categories": ["a", "z"]}"#),
    ("all", r#"{"all": true}"#),
    ("aggregated", r#"{"aggregated_stream": "everything"}"#),
    ("keyed", r#"{"aggregated_stream": "keyed"}"#),
];

async fn subscribe(app: &TestApp, name: &str, definition: Value) {
    let made = app.put(&format!("/v1/subscriptions/{name}"), &definition).await;
    assert_eq!(made.status, 201, "{}", made.text);
}

async fn fetch(app: &TestApp, name: &str, limit: i64) -> Vec<Value> {
    let body = json!({ "consumer": "w", "limit": limit, "backlog": false });
    let answer = app.post(&format!("/v1/subscriptions/{name}/fetch"), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["messages"].as_array().unwrap().clone()
}

async fn ack(app: &TestApp, name: &str, messages: &[Value]) -> Value {
    let one = |message: &Value| json!({ "partition": message["partition"], "position": message["position"], "epoch": message["epoch"] });
    let acks: Vec<Value> = messages.iter().map(one).collect();
    app.post(&format!("/v1/subscriptions/{name}/acks"), &json!({ "consumer": "w", "acks": acks })).await.json()
}

async fn status(app: &TestApp, name: &str) -> Value {
    app.get(&format!("/v1/subscriptions/{name}")).await.json()["status"].clone()
}

/// Of every kind of source, in both modes: in flight, not delivered yet, and acked.
#[tokio::test]
async fn what_a_subscription_has_not_acked_stays() {
    for (kind, source) in SOURCES {
        for mode in ["partitioned", "competing"] {
            let database = TestDatabase::migrated().await;
            let last = fill(&database, "a-1", 20).await;
            let app = TestApp::on(&database).await;
            aggregate(&app, last).await;
            let source: Value = serde_json::from_str(source).unwrap();
            let definition = match kind == "aggregated" || mode == "competing" {
                true => json!({ "source": source, "mode": mode, "ack_timeout": "10m" }),
                false => json!({ "source": source, "mode": mode, "partitions": 4, "ack_timeout": "10m" }),
            };
            subscribe(&app, "s", definition).await;
            let what = format!("{kind}, {mode}");
            let kept = trim(&app, "a-1", json!({ "keep_last": 1 })).await;
            assert_eq!((&kept["trimmed"], &kept["kept_unacked"]), (&json!(0), &json!(true)), "{what}");

            let given = fetch(&app, "s", 10).await;
            assert_eq!(given.len(), 10, "{what}");
            ack(&app, "s", &given[..5]).await;
            let kept = trim(&app, "a-1", json!({ "keep_last": 1 })).await;
            assert_eq!((&kept["trimmed"], &kept["kept_unacked"]), (&json!(5), &json!(true)), "{what}: in flight");
            ack(&app, "s", &given).await;
            let kept = trim(&app, "a-1", json!({ "keep_last": 1 })).await;
            assert_eq!((&kept["trimmed"], &kept["first_position"]), (&json!(5), &json!(10)), "{what}: not delivered");
            let rest = fetch(&app, "s", 100).await;
            assert_eq!(rest.len(), 10, "{what}");
            ack(&app, "s", &rest).await;
            let kept = trim(&app, "a-1", json!({ "keep_last": 1 })).await;
            assert_eq!((&kept["trimmed"], &kept["kept_unacked"]), (&json!(9), &json!(false)), "{what}: acked");
            assert_eq!(status(&app, "s").await["trimmed"], 0);
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn what_is_not_for_a_subscription_goes() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 20).await;
    fill(&database, "b-1", 20).await;
    let app = TestApp::on(&database).await;
    subscribe(&app, "another-stream", json!({ "source": { "stream_name": "a-2" } })).await;
    subscribe(&app, "another-category", json!({ "source": { "category": "b" } })).await;
    subscribe(&app, "another-type", json!({ "source": { "category": "a" }, "types": ["Other"] })).await;
    assert_eq!(trim(&app, "a-1", json!({ "keep_last": 5 })).await["trimmed"], 15);
    assert_eq!(trim(&app, "b-1", json!({ "keep_last": 5 })).await["kept_unacked"], true);
    app.stop().await;
}

/// Parked messages are dead letters that somebody still has to look at, and what is not projected yet is not acked.
#[tokio::test]
async fn parked_messages_and_those_not_projected_yet_stay() {
    let database = TestDatabase::migrated().await;
    let last = fill(&database, "a-1", 10).await;
    let app = TestApp::on(&database).await;
    subscribe(&app, "s", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    let given = fetch(&app, "s", 10).await;
    let nack =
        json!({ "partition": 0, "position": given[4]["position"], "epoch": given[4]["epoch"], "action": "park" });
    app.post("/v1/subscriptions/s/nacks", &json!({ "consumer": "w", "nacks": [nack] })).await;
    ack(&app, "s", &given).await;
    let kept = trim(&app, "a-1", json!({ "keep_last": 1 })).await;
    assert_eq!((&kept["trimmed"], &kept["kept_unacked"]), (&json!(4), &json!(true)), "{kept}");
    let place = given[4]["position"].as_i64().unwrap();
    assert_eq!(app.delete(&format!("/v1/subscriptions/s/parked/0/{place}")).await.status, 204);
    assert_eq!(trim(&app, "a-1", json!({ "keep_last": 3 })).await["first_position"], 7);

    aggregate(&app, last).await;
    subscribe(&app, "late", json!({ "source": { "aggregated_stream": "everything" } })).await;
    let given = fetch(&app, "late", 10).await;
    ack(&app, "late", &given).await;
    assert_eq!(app.post("/v1/aggregated-streams/everything/pause", &json!({})).await.status, 200);
    app.write("a-1", "T", json!({})).await;
    app.write("a-1", "T", json!({})).await;
    let all = fetch(&app, "s", 10).await;
    ack(&app, "s", &all).await;
    let kept = trim(&app, "a-1", json!({ "keep_last": 1 })).await;
    assert_eq!((&kept["first_position"], &kept["kept_unacked"]), (&json!(10), &json!(true)), "{kept}");
    app.stop().await;
}

/// With `unless_unacked: false`: what was trimmed is passed over and said, the lag counts what is left, and acks of
/// messages that are gone work.
#[tokio::test]
async fn trimmed_messages_are_passed_over_and_said() {
    for (kind, source) in SOURCES {
        for mode in ["partitioned", "competing"] {
            let what = format!("{kind}, {mode}");
            let database = TestDatabase::migrated().await;
            let last = fill(&database, "a-1", 20).await;
            let app = TestApp::on(&database).await;
            aggregate(&app, last).await;
            let source: Value = serde_json::from_str(source).unwrap();
            subscribe(&app, "s", json!({ "source": source, "mode": mode, "ack_timeout": "10m" })).await;
            let given = fetch(&app, "s", 5).await;
            assert_eq!(given.len(), 5, "{what}");
            let done = trim(&app, "a-1", json!({ "before_position": 15, "unless_unacked": false })).await;
            assert_eq!((&done["trimmed"], &done["kept_unacked"]), (&json!(15), &json!(false)), "{what}");
            let now = status(&app, "s").await;
            assert_eq!(now["trimmed"], 15, "{what}: {now}");
            assert_eq!(now["delivered_lag"], 5, "{what}: {now}");
            let acked = ack(&app, "s", &given).await;
            assert_eq!(acked["fenced"], 0, "{what}: {acked}");
            let now = status(&app, "s").await;
            assert_eq!((&now["committed_lag"], &now["delivered_lag"]), (&json!(5), &json!(5)), "{what}: {now}");

            let mut events = app.follow("/v1/subscriptions/s/events?consumer=w2").await;
            let trimmed = events.next("trimmed").await.json();
            assert_eq!(trimmed["count"], 10, "{what}: {trimmed}");
            let messages = events.messages(5).await;
            assert_eq!(messages[0]["message"]["position"], 15, "{what}");
            let acks: Vec<Value> = messages
                .iter()
                .map(|one| json!({ "partition": one["partition"], "position": one["position"], "epoch": one["epoch"] }))
                .collect();
            app.post("/v1/subscriptions/s/acks", &json!({ "consumer": "w2", "acks": acks })).await;
            let now = status(&app, "s").await;
            assert_eq!((&now["committed_lag"], &now["delivered_lag"]), (&json!(0), &json!(0)), "{what}: {now}");
            app.stop().await;
        }
    }
}
