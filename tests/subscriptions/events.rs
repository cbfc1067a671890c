//! The event stream of a consumer: the same as fetching, pushed.

use super::*;
use crate::support::events::Events;

impl Sub<'_> {
    async fn connect(&self, consumer: &str) -> Events {
        self.app.follow(&self.path(&format!("/events?consumer={consumer}"))).await
    }
}

/// The next messages, whole.
async fn take(events: &mut Events, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    while found.len() < count {
        found.push(events.next("message").await.json());
    }
    found
}

#[tokio::test]
async fn what_is_assigned_is_delivered_and_then_it_is_caught_up() {
    let (_database, app) = filled(3, 9).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 2 })).await;
    let mut events = sub.connect("w1").await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let blocks = events.blocks_until("caught-up").await;
    let named = |name: &str| {
        blocks.iter().filter(|block| block.is(name)).map(super::super::support::events::Event::json).collect::<Vec<_>>()
    };
    assert_eq!(named("assigned"), [0, 1].map(|partition| json!({ "partition": partition, "epoch": 1, "position": 0 })));
    let messages = named("message");
    assert_eq!(messages.len(), 9);
    sub.acked("w1", &messages).await;
    app.write("a-1", "T", json!({ "n": 9 })).await;
    let live = take(&mut events, 1).await;
    assert_eq!(numbers(&live), [9]);
    app.stop().await;
}

#[tokio::test]
async fn credit_is_the_same_as_with_fetch() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 20).await;
        let definition = json!({ "source": { "category": "a" }, "mode": mode, "max_in_flight": 5 });
        let sub = Sub::new(&app, "s", definition).await;
        let mut events = app.follow(&sub.path("/events?consumer=w1&max_in_flight=3")).await;
        let first = take(&mut events, 3).await;
        assert_eq!(numbers(&first), [0, 1, 2]);
        assert_eq!(
            sub.status().await["partitions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p["in_flight"].as_i64().unwrap())
                .sum::<i64>(),
            3
        );
        sub.acked("w1", &first[..2]).await;
        assert_eq!(numbers(&take(&mut events, 2).await), [3, 4], "{mode}");
        // Of another face the same consumer has no more.
        let left = sub.fetch("w1", 100).await.len();
        assert_eq!(left, 2, "{mode}: the subscription's own bound is 5");
        app.stop().await;
    }
}

#[tokio::test]
async fn lines_of_json_say_the_same() {
    let (_database, app) = filled(1, 1).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let url = format!("{}{}", app.url, sub.path("/events?consumer=w1"));
    let mut answer = app.http.get(url).header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let mut text = String::new();
    while !text.contains("caught-up") {
        text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().unwrap()).unwrap());
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[0]["data"]["partition"]), (&json!("assigned"), &json!(0)));
    assert_eq!((&lines[1]["event"], &lines[1]["data"]["message"]["data"]["n"]), (&json!("message"), &json!(0)));
    drop(answer);
    app.stop().await;
}

#[tokio::test]
async fn a_connection_that_comes_back_gets_what_it_had_not_acked() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 5).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode });
        let sub = Sub::new(&app, "s", definition).await;
        let mut events = sub.connect("w1").await;
        let first = take(&mut events, 5).await;
        sub.acked("w1", &first[..2]).await;
        drop(events);
        let mut events = sub.connect("w1").await;
        let again = take(&mut events, 1).await;
        assert_eq!((numbers(&again), &again[0]["delivery_count"]), (vec![2], &json!(2)), "{mode}");
        sub.acked("w1", &again).await;
        let rest = take(&mut events, 2).await;
        assert_eq!(numbers(&rest), [3, 4], "{mode}");
        sub.acked("w1", &rest).await;
        app.stop().await;
    }
}

#[tokio::test]
async fn another_connection_of_the_same_name_takes_its_place() {
    let (_database, app) = filled(1, 1).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let mut old = sub.connect("w1").await;
    let first = take(&mut old, 1).await;
    let mut new = sub.connect("w1").await;
    let again = take(&mut new, 1).await;
    assert_eq!(old.next("closing").await.json(), json!({ "reason": "replaced" }));
    sub.ack("w1", &first).await.problem(409, "fenced");
    sub.acked("w1", &again).await;
    drop(old);
    app.write("a-1", "T", json!({ "n": 1 })).await;
    assert_eq!(numbers(&take(&mut new, 1).await), [1]);
    app.stop().await;
}

/// A consumer that is removed or replaced is told so, and never that the subscription is gone; a fetch that waits
/// goes on.
#[tokio::test]
async fn a_consumer_that_is_sent_away_or_replaced_is_not_told_that_its_subscription_is_gone() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 0).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "mode": mode })).await;
        let is_there = |status: &Value| status["consumers"].as_array().unwrap().len() == 1;
        let mut old = sub.connect("w1").await;
        sub.until("it has joined", is_there).await;
        let mut new = sub.connect("w1").await;
        assert_eq!(old.next("closing").await.json(), json!({ "reason": "replaced" }), "{mode}");
        assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204, "{mode}");
        assert_eq!(new.next("closing").await.json(), json!({ "reason": "removed" }), "{mode}");
        let fetch = app.http.post(format!("{}{}", app.url, sub.path("/fetch")));
        let fetching = tokio::spawn(fetch.json(&json!({ "consumer": "w1", "wait": "20s" })).send());
        for _ in 0..5 {
            sub.until("it is there again", is_there).await;
            assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204, "{mode}");
        }
        app.write("a-1", "T", json!({ "n": 0 })).await;
        let answer = Answer::of(fetching.await.unwrap().unwrap()).await;
        assert_eq!(answer.status, 200, "{mode}: {}", answer.text);
        let found = answer.json()["messages"].as_array().unwrap().clone();
        assert_eq!(numbers(&found), [0], "{mode}");
        sub.acked("w1", &found).await;
        app.stop().await;
    }
}

#[tokio::test]
async fn it_is_told_why_it_ends() {
    let (_database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let mut removed = sub.connect("w1").await;
    removed.next("assigned").await;
    assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204);
    assert_eq!(removed.next("closing").await.json(), json!({ "reason": "removed" }));
    let mut deleted = sub.connect("w2").await;
    deleted.next("assigned").await;
    assert_eq!(app.delete(&sub.path("")).await.status, 204);
    assert_eq!(deleted.next("closing").await.json(), json!({ "reason": "deleted" }));
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let mut drained = sub.connect("w1").await;
    drained.next("assigned").await;
    app.drain();
    assert_eq!(drained.next("closing").await.json(), json!({ "reason": "draining" }));
    drop(drained);
    app.stop().await;
}

#[tokio::test]
async fn who_stops_leaves_nothing_behind() {
    let (database, app) = filled(1, 3).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let mut events = sub.connect("w1").await;
    take(&mut events, 3).await;
    app.drain();
    events.next("closing").await;
    drop(events);
    app.stop().await;
    let sql = database.connect().await;
    let left: i64 = sql.query_one("SELECT count(*) FROM headwater.subscription_consumers", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_heartbeat_comes_when_it_is_quiet() {
    let (_database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let mut events = app.follow(&sub.path("/events?consumer=w1&heartbeat=1s")).await;
    assert_eq!(events.next("heartbeat").await.json()["lag"], 0);
    app.stop().await;
}

/// What the database refuses is not waited for without a word.
#[tokio::test]
async fn a_stream_ends_when_waiting_cannot_help() {
    for (mode, function) in [
        ("partitioned", "headwater.subscription_sync(bigint, text, uuid, bigint)"),
        ("competing", "headwater.subscription_claimable(bigint, text, uuid, bigint, bigint)"),
    ] {
        let (database, app) = filled(1, 3).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "mode": mode })).await;
        let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
        events.next("caught-up").await;
        let before = app.metric("headwater_store_errors_total{kind=\"refused\"}").await;
        let sql = database.connect().await;
        sql.batch_execute(&format!("ALTER FUNCTION {function} RENAME TO taken_away")).await.unwrap();
        app.write("a-1", "T", json!({ "n": 3 })).await;
        assert_eq!(events.next("closing").await.json()["reason"], "internal-error", "{mode}");
        assert!(app.metric("headwater_store_errors_total{kind=\"refused\"}").await > before, "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn head_is_refused_and_takes_nothing_from_a_consumer() {
    let (_database, app) = filled(3, 3).await;
    for mode in ["partitioned", "competing"] {
        let sub = Sub::new(&app, mode, json!({ "source": { "category": "a" }, "mode": mode })).await;
        let mut events = sub.connect("w1").await;
        events.blocks_until("caught-up").await;
        let before = sub.status().await;
        for consumer in ["w2", "w1"] {
            let url = format!("{}{}", app.url, sub.path(&format!("/events?consumer={consumer}")));
            let answer = Answer::of(app.http.head(url).send().await.unwrap()).await;
            assert_eq!((answer.status, &answer.headers["allow"]), (405, &"GET".parse().unwrap()), "{mode}");
        }
        let after = sub.status().await;
        let held = |status: &Value| {
            let partitions = status["partitions"].as_array().unwrap().iter();
            partitions.map(|one| (one["consumers"].clone(), one["epoch"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(held(&after), held(&before), "{mode}");
        assert_eq!(after["consumers"].as_array().unwrap().len(), 1, "{mode}: {after}");
        // It is still delivered to.
        app.write("a-1", "T", json!({ "n": 9 })).await;
        assert!(events.blocks_until("message").await.iter().all(|block| !block.is("revoked")), "{mode}");
    }
    app.stop().await;
}
