//! Message DB's `clear-messages.sh` between two tests of a program, with a service that keeps running.

use serde_json::{Value, json};

use super::{TRUNCATE, write_numbers, write_to};
use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::position_of;
use crate::support::waiting::eventually;

/// The numbers of what is fetched until so many have come; all are acked.
pub async fn fetch(app: &TestApp, name: &str, count: usize) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let body = json!({ "consumer": "w1", "limit": 100, "wait": "5s" });
        let answer = app.post(&format!("/v1/subscriptions/{name}/fetch"), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let messages = answer.json()["messages"].as_array().unwrap().clone();
        assert!(!messages.is_empty(), "{name} gives nothing more than {numbers:?}");
        let acks: Vec<Value> = messages
            .iter()
            .map(|one| json!({ "partition": one["partition"], "position": one["position"], "epoch": one["epoch"] }))
            .collect();
        let body = json!({ "consumer": "w1", "acks": acks });
        assert_eq!(app.post(&format!("/v1/subscriptions/{name}/acks"), &body).await.status, 200);
        numbers.extend(messages.iter().map(|one| one["message"]["data"]["n"].as_i64().unwrap()));
    }
    numbers.sort_unstable();
    numbers
}

pub const SUBSCRIPTIONS: [&str; 6] =
    ["partitioned", "competing", "of_a_stream", "of_partitions", "competing_partitions", "of_all"];

pub async fn define(app: &TestApp) {
    let definition = json!({ "stream_wildcards": ["a-%"], "max_partition": 2,
        "partitioner": { "kind": "data", "pointer": "/n", "method": "modulo", "partitions": 3 } });
    assert_eq!(app.put("/v1/aggregated-streams/thirds", &definition).await.status, 201);
    for (name, source, mode) in [
        ("partitioned", json!({ "category": "a" }), "partitioned"),
        ("competing", json!({ "category": "a" }), "competing"),
        ("of_a_stream", json!({ "stream_name": "a-1" }), "partitioned"),
        ("of_partitions", json!({ "aggregated_stream": "thirds" }), "partitioned"),
        ("competing_partitions", json!({ "aggregated_stream": "thirds" }), "competing"),
        ("of_all", json!({ "all": true }), "competing"),
    ] {
        let definition = json!({ "source": source, "mode": mode, "from": "beginning" });
        let answer = app.put(&format!("/v1/subscriptions/{name}"), &definition).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
}

#[tokio::test]
async fn the_same_again_after_each_truncation() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    define(&apps[0]).await;
    for round in 0..8_usize {
        let (app, other) = (&apps[round % 2], &apps[(round + 1) % 2]);
        // Sometimes fewer than before, sometimes more.
        let count = [5, 9, 3, 12][round % 4];
        let expected: Vec<i64> = (0..count as i64).collect();
        let positions = write_to(app, "a-1", count).await;
        assert_eq!(positions, (1..=count as i64).collect::<Vec<_>>(), "round {round}");
        let mut events = app.follow("/v1/all/events?from=beginning").await;
        assert_eq!(events.positions_until(count as i64).await, positions, "round {round}");
        let path = format!("/v1/aggregated-streams/thirds?min_position={count}&wait=10s");
        let status = app.get(&path).await.json()["status"].clone();
        let partitions = status["partitions"].as_array().unwrap().clone();
        let counted: i64 = partitions.iter().map(|one| one["message_count"].as_i64().unwrap()).sum();
        assert_eq!((counted, &status["error"]), (count as i64, &Value::Null), "round {round}: {status}");
        let page = app.get("/v1/aggregated-streams/thirds/partitions/0/messages").await.json();
        let numbers: Vec<i64> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["message"]["data"]["n"].as_i64().unwrap())
            .collect();
        assert_eq!(numbers, expected.iter().copied().filter(|n| n % 3 == 0).collect::<Vec<_>>(), "round {round}");
        let mut projected = other.follow("/v1/aggregated-streams/thirds/events?from=beginning").await;
        for n in &expected {
            assert_eq!(projected.next("message").await.json()["message"]["data"]["n"], *n, "round {round}");
        }
        for name in SUBSCRIPTIONS {
            assert_eq!(fetch(app, name, count).await, expected, "round {round}: {name}");
        }
        sql.batch_execute(TRUNCATE).await.unwrap();
    }
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn a_consumer_s_event_stream_is_told_and_gets_the_new_log_when_it_comes_back() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    define(&app).await;
    for _ in 0..3 {
        write_to(&app, "a-1", 4).await;
        for name in SUBSCRIPTIONS {
            let mut events = app.follow(&format!("/v1/subscriptions/{name}/events?consumer=w1")).await;
            let mut numbers = Vec::new();
            for _ in 0..4 {
                numbers.push(events.next("message").await.json()["message"]["data"]["n"].as_i64().unwrap());
            }
            numbers.sort_unstable();
            assert_eq!(numbers, [0, 1, 2, 3], "{name}");
        }
        let mut events = app.follow("/v1/subscriptions/partitioned/events?consumer=w2").await;
        sql.batch_execute(TRUNCATE).await.unwrap();
        assert_eq!(events.next("closing").await.json(), json!({ "reason": "history-changed" }));
    }
    app.stop().await;
}

#[tokio::test]
async fn what_stands_on_a_message_that_is_another_one_stops_and_says_what_to_do() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    define(&app).await;
    write_to(&app, "b-1", 2).await;
    write_to(&app, "a-1", 8).await;
    for name in SUBSCRIPTIONS {
        let count = if name == "of_all" { 10 } else { 8 };
        fetch(&app, name, count).await;
    }
    app.get("/v1/aggregated-streams/thirds?min_position=10&wait=10s").await;
    // As a restored backup: the first five are there, and other messages have the positions after them.
    sql.batch_execute(
        "BEGIN; DELETE FROM message_store.messages WHERE global_position > 5; \
         SELECT setval('message_store.messages_global_position_seq', 5); \
         INSERT INTO message_store.messages (stream_name, position, type, data) \
         SELECT 'b-2', n, 'Other', '{\"n\": 77}' FROM generate_series(0, 11) AS n; COMMIT",
    )
    .await
    .unwrap();
    app.service.tail.refresh().await;
    let status = app.get("/v1/aggregated-streams/thirds").await.json()["status"].clone();
    assert_eq!(status["state"], "stopped", "{status}");
    let reason = status["error"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("history-changed") && reason.contains("rebuild"), "{reason}");
    for partition in 0..3 {
        let page = app.get(&format!("/v1/aggregated-streams/thirds/partitions/{partition}/messages")).await.json();
        assert_eq!(page["messages"], json!([]), "another category's messages");
    }
    for name in SUBSCRIPTIONS {
        let status = app.get(&format!("/v1/subscriptions/{name}")).await.json()["status"].clone();
        assert_eq!(
            (&status["state"], &status["stopped"]["cause"]),
            (&json!("stopped"), &json!("history_changed")),
            "{name}"
        );
        assert!(status["stopped"]["reason"].as_str().unwrap().contains("seek"), "{name}: {status}");
    }
    // What it says helps.
    app.post("/v1/aggregated-streams/thirds/resume", &json!(null)).await;
    assert_eq!(app.get("/v1/aggregated-streams/thirds").await.json()["status"]["state"], "stopped");
    assert_eq!(app.post("/v1/aggregated-streams/thirds/rebuild", &json!(null)).await.status, 200);
    let page = app.get("/v1/aggregated-streams/thirds/partitions/0/messages?wait=10s").await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{page}");
    for name in ["competing", "of_all"] {
        let path = format!("/v1/subscriptions/{name}");
        assert_eq!(app.post(&format!("{path}/seek"), &json!({ "to": "beginning" })).await.status, 200);
        assert_eq!(app.post(&format!("{path}/resume"), &json!(null)).await.status, 200);
    }
    assert_eq!(fetch(&app, "competing", 3).await, [0, 1, 2]);
    assert_eq!(fetch(&app, "of_all", 17).await.iter().filter(|n| **n == 77).count(), 12);
    app.stop().await;
}

/// What the service writes to the new log itself, before it has looked, says nothing of the old one.
#[tokio::test]
async fn own_appends_do_not_hide_that_it_was_truncated() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    for (before, by_others) in [(1, 0), (1, 3), (3, 0), (3, 7), (1, 1)] {
        let positions = write_to(&app, "a-1", before).await;
        let mut events = app.follow("/v1/all/events").await;
        events.next("caught-up").await;
        // Nobody is told of what others write.
        let regrow = format!(
            "BEGIN; {TRUNCATE}; INSERT INTO message_store.messages (stream_name, position, type) \
             SELECT 'other-1', n, 'Other' FROM generate_series(0, {by_others} - 1) AS n; COMMIT"
        );
        sql.batch_execute(&regrow).await.unwrap();
        let own = write_to(&app, "b-1", 2).await;
        assert_eq!(own, [by_others + 1, by_others + 2]);
        let mut event = events.next_event().await;
        // The first of them may stand where nothing stood before.
        while event.is("message") && !positions.contains(&position_of(&event)) {
            event = events.next_event().await;
        }
        assert!(event.is("closing"), "{before}, {by_others}: {event:?}");
        assert_eq!(event.json(), json!({ "reason": "history-changed" }), "{before}, {by_others}");
        // The next round begins with an empty log.
        sql.batch_execute(TRUNCATE).await.unwrap();
        let mut after = app.follow("/v1/all/events").await;
        after.next("caught-up").await;
    }
    app.stop().await;
}

#[tokio::test]
async fn the_tag_of_a_stream_is_another_one_in_another_log() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let path = "/v1/streams/a-1/messages";
    let tag_of = |answer: &Answer| answer.headers["etag"].to_str().unwrap().to_owned();
    let ask = async |tag: &str| {
        let request = app.http.get(format!("{}{path}", app.url)).header("if-none-match", tag);
        Answer::of(request.send().await.unwrap()).await
    };
    write_to(&app, "a-1", 5).await;
    let former = tag_of(&app.get(path).await);
    assert_eq!(ask(&former).await.status, 304);
    sql.batch_execute(TRUNCATE).await.unwrap();
    eventually("it is another log", || async { app.service.tail.history_changed().map(drop) }).await;
    // As many messages as there were, and others.
    write_numbers(&app, "a-1", 5..10).await;
    let answer = ask(&former).await;
    assert_eq!((answer.status, &answer.json()["messages"][0]["data"]["n"]), (200, &json!(5)));
    assert_eq!(ask(&tag_of(&answer)).await.status, 304);
    // All instances have one tag for it.
    let other = TestApp::on(&database).await;
    other.until_ready().await;
    assert_eq!(tag_of(&other.get(path).await), tag_of(&answer));
    other.stop().await;
    app.stop().await;
}
