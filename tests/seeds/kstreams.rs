//! The streams of kstreams, a library over a Kafka consumer: its document's examples.
//!
//! What the document has and HTTP has not: the engine, its decorator and `add_stream`/`remove_stream` (a consumer is
//! there while it is connected), deserializers (data is JSON; what a client makes of it is its own), and
//! `MetricsRebalanceListener` (the service's own metrics need no clearing). A topic is a category, a group is a
//! subscription, and its partitions are an aggregated stream's or its own. `initial_offsets` are a property of each
//! consumer there; here a seek is one of the group, or the application that keeps its offsets itself reads the
//! partitions without a group.

use std::time::Duration;

use serde_json::{Value, json};

use crate::subscriptions::{Sub, held, numbers, positions};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;

const TOPIC: &str = "local_kstreams";

async fn service() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    (database, app)
}

/// `stream_engine.send(topic, value=…, partition=…)`
async fn send(app: &TestApp, topic: &str, values: std::ops::Range<i64>) {
    for n in values {
        app.write(&format!("{topic}-{}", n % 8), "Event", json!({ "n": n })).await;
    }
}

/// Ten messages of a topic in two partitions: even numbers and odd ones.
async fn topic_of_two_partitions(app: &TestApp) {
    let partitioner = json!({ "kind": "cel", "expression": "data.n % 2" });
    let definition = json!({ "categories": [TOPIC], "partitioner": partitioner, "max_partition": 1 });
    assert_eq!(app.put("/v1/aggregated-streams/topic", &definition).await.status, 201);
    send(app, TOPIC, 0..10).await;
    let last = app.get("/v1/all/messages?limit=1000").await.json()["next"].as_i64().unwrap() - 1;
    let path = format!("/v1/aggregated-streams/topic?min_position={last}&wait=20s");
    assert_eq!(app.get(&path).await.json()["status"]["projected_position"], last);
}

async fn topic_group<'a>(app: &'a TestApp, more: Value) -> Sub<'a> {
    let mut definition = json!({ "source": { "aggregated_stream": "topic" } });
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Sub::new(app, "group", definition).await
}

/// A group over a category in two partitions of its own.
async fn group<'a>(app: &'a TestApp) -> Sub<'a> {
    Sub::new(app, "group", json!({ "source": { "category": TOPIC }, "partitions": 2 })).await
}

async fn connect(sub: &Sub<'_>, consumer: &str) -> Events {
    sub.app.follow(&sub.path(&format!("/events?consumer={consumer}"))).await
}

async fn take(events: &mut Events, count: usize) -> Vec<Value> {
    events.messages(count).await
}

fn of_partition(deliveries: &[Value], partition: i64) -> Vec<Value> {
    deliveries.iter().filter(|delivery| delivery["partition"] == partition).cloned().collect()
}

#[tokio::test]
async fn initial_offsets_of_an_application_that_keeps_its_own() {
    let (_database, app) = service().await;
    topic_of_two_partitions(&app).await;
    // `TopicPartitionOffset(topic=…, partition=0, offset=db_table.offset)`: what the application has stored.
    let offset = 3;
    let page = app.get(&format!("/v1/aggregated-streams/topic/partitions/0/messages?from={offset}")).await.json();
    assert_eq!(numbers(page["messages"].as_array().unwrap()), [6, 8]);
    // An event stream counts in global positions, for it may be of several partitions; its ids are what is to be stored.
    let first = page["messages"][0]["message"]["global_position"].as_i64().unwrap();
    let mut followed = app.follow(&format!("/v1/aggregated-streams/topic/events?partition=0&from={first}")).await;
    assert_eq!(numbers(&take(&mut followed, 1).await), [6]);
    let stored = followed.last_id.clone().unwrap();
    let path = format!("/v1/aggregated-streams/topic/events?partition=0&last_event_id={stored}");
    assert_eq!(numbers(&take(&mut app.follow(&path).await, 1).await), [8]);
    app.stop().await;
}

#[tokio::test]
async fn one_partition_is_sought_and_the_others_stay() {
    let (_database, app) = service().await;
    topic_of_two_partitions(&app).await;
    let sub = topic_group(&app, json!({})).await;
    assert_eq!(sub.post("/seek", &json!({ "to": 3, "partitions": [0] })).await.status, 200);
    let found = sub.drain("w1").await;
    assert_eq!(numbers(&of_partition(&found, 0)), [6, 8]);
    assert_eq!(numbers(&of_partition(&found, 1)), [1, 3, 5, 7, 9]);
    app.stop().await;
}

/// There, each consumer seeks what it is assigned and warns of the rest. Here one seek is for the whole group, whoever
/// holds what; a partition that there is not is refused, and then nothing is sought.
#[tokio::test]
async fn a_seek_reaches_each_partition_at_its_consumer_and_refuses_unknown_ones() {
    let (_database, app) = service().await;
    topic_of_two_partitions(&app).await;
    let sub = topic_group(&app, json!({ "from": "end" })).await;
    let mut one = connect(&sub, "w1").await;
    one.next("assigned").await;
    let mut two = connect(&sub, "w2").await;
    two.next("assigned").await;
    let status =
        sub.until("each holds one", |status| held(status, "w1").len() == 1 && held(status, "w2").len() == 1).await;
    let refused = sub.post("/seek", &json!({ "to": 1, "partitions": [0, 7] })).await.problem(422, "invalid");
    assert_eq!(refused["errors"][0]["field"], "partitions[1]");
    assert_eq!(sub.status().await["committed_lag"], 0, "nothing was sought");
    assert_eq!(sub.post("/seek", &json!({ "to": 3, "partitions": [0, 1] })).await.status, 200);
    for (consumer, events) in [("w1", &mut one), ("w2", &mut two)] {
        let own = held(&status, consumer)[0];
        while events.next("revoked").await.json() != json!({ "partition": own, "reason": "reset" }) {}
        assert_eq!(events.next("assigned").await.json()["position"], 2);
        let found = take(events, 2).await;
        assert_eq!((positions(&found), of_partition(&found, own).len()), (vec![3, 4], 2));
    }
    app.stop().await;
}

/// There, `auto_offset_reset` decides without a word. Here it is taken at its word: that position is waited for.
#[tokio::test]
async fn an_offset_that_is_not_there_yet_is_waited_for() {
    let (_database, app) = service().await;
    topic_of_two_partitions(&app).await;
    let sub = topic_group(&app, json!({})).await;
    assert_eq!(sub.post("/seek", &json!({ "to": 7 })).await.status, 200);
    assert_eq!(sub.fetch("w1", 100).await.len(), 0);
    send(&app, TOPIC, 10..16).await;
    let found = sub.fetch_with(json!({ "consumer": "w1", "wait": "20s", "limit": 1 })).await;
    assert_eq!((&found[0]["position"], found[0]["message"]["data"]["n"].as_i64().map(|n| n / 2)), (&json!(7), Some(7)));
    app.stop().await;
}

/// `auto_offset_reset`: where a group begins that has no offsets; once, not at each start.
#[tokio::test]
async fn a_new_group_begins_at_the_earliest_or_at_the_latest() {
    let (_database, app) = service().await;
    send(&app, TOPIC, 0..4).await;
    let source = json!({ "category": TOPIC });
    let earliest = Sub::new(&app, "earliest", json!({ "source": source, "from": "beginning" })).await;
    let latest = json!({ "source": source, "from": "end" });
    let sub = Sub::new(&app, "latest", latest.clone()).await;
    assert_eq!((earliest.drain("w1").await.len(), sub.drain("w1").await.len()), (4, 0));
    send(&app, TOPIC, 4..6).await;
    // The application starts again, and says the same again.
    assert_eq!(app.put(&sub.path(""), &latest).await.status, 200);
    let mut found = numbers(&sub.drain("w1").await);
    found.sort_unstable();
    assert_eq!(found, [4, 5]);
    app.stop().await;
}

#[tokio::test]
async fn several_topics_are_consumed_by_one_subscription() {
    let (_database, app) = service().await;
    send(&app, TOPIC, 0..8).await;
    send(&app, "local_hello_world", 8..16).await;
    send(&app, "another", 16..20).await;
    let source = json!({ "categories": [TOPIC, "local_hello_world"] });
    let sub = Sub::new(&app, "example-group", json!({ "source": source, "partitions": 4 })).await;
    let found = sub.drain("w1").await;
    let mut seen = numbers(&found);
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<_>>());
    for delivery in &found {
        // `cr.topic`
        let topic = delivery["message"]["stream_name"].as_str().unwrap().split('-').next().unwrap();
        let is_first = delivery["message"]["data"]["n"].as_i64().unwrap() < 8;
        assert_eq!(topic, if is_first { TOPIC } else { "local_hello_world" });
    }
    app.stop().await;
}

/// `await store_in_database(payload)`, then `await stream.consumer.commit()`.
#[tokio::test]
async fn what_is_stored_before_it_is_committed_is_never_lost() {
    let (_database, app) = service().await;
    send(&app, TOPIC, 0..6).await;
    let definition = json!({ "source": { "category": TOPIC }, "partitions": 1, "ack_timeout": "300ms" });
    let sub = Sub::new(&app, "group", definition).await;
    let mut stored = Vec::new();
    let first = sub.fetch("w1", 6).await;
    stored.extend(numbers(&first[..3]));
    sub.acked("w1", &first[2..3]).await;
    // It stores the next one and does not commit it.
    stored.extend(numbers(&first[3..4]));
    let again = sub.fetch_some("w1", 6).await;
    assert_eq!((numbers(&again), &again[0]["delivery_count"]), (vec![3], &json!(2)), "at least once");
    sub.acked("w1", &again).await;
    let rest = sub.fetch_some("w1", 6).await;
    sub.acked("w1", &rest).await;
    stored.extend(numbers(&rest));
    assert_eq!(stored, [0, 1, 2, 3, 4, 5]);
    app.stop().await;
}

/// `ManualCommitRebalanceListener`: it commits what it has before its partition goes, and nothing comes twice.
#[tokio::test]
async fn a_commit_before_a_partition_is_given_up_saves_from_duplicates() {
    let database = TestDatabase::migrated().await;
    let app =
        TestApp::with(&database.url, |settings| settings.subscription_revoke_grace = Duration::from_secs(20)).await;
    send(&app, TOPIC, 0..16).await;
    let sub = group(&app).await;
    let mut one = connect(&sub, "w1").await;
    assert_eq!(
        [one.next("assigned").await.json(), one.next("assigned").await.json()].map(|a| a["partition"].clone()),
        [json!(0), json!(1)]
    );
    let mut found = take(&mut one, 16).await;
    let mut two = connect(&sub, "w2").await;
    let revoked = one.next("revoked").await.json();
    assert_eq!(revoked["reason"], "rebalance");
    let partition = revoked["partition"].as_i64().unwrap();
    let last = of_partition(&found, partition).last().unwrap().clone();
    sub.acked("w1", std::slice::from_ref(&last)).await;
    let assigned = two.next("assigned").await.json();
    assert_eq!((&assigned["partition"], &assigned["position"]), (&json!(partition), &last["position"]));
    send(&app, TOPIC, 16..32).await;
    while found.len() < 32 {
        let delivery = tokio::select! {
            event = one.next("message") => event.json(),
            event = two.next("message") => {
                let delivery = event.json();
                assert_eq!(delivery["partition"], partition);
                delivery
            }
        };
        assert_eq!(delivery["delivery_count"], 1, "{delivery}");
        found.push(delivery);
    }
    let mut seen = numbers(&found);
    seen.sort_unstable();
    assert_eq!(seen, (0..32).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test]
async fn who_does_not_commit_within_the_grace_is_too_late() {
    let database = TestDatabase::migrated().await;
    let app =
        TestApp::with(&database.url, |settings| settings.subscription_revoke_grace = Duration::from_millis(200)).await;
    send(&app, TOPIC, 0..16).await;
    let sub = group(&app).await;
    let mut one = connect(&sub, "w1").await;
    let found = take(&mut one, 16).await;
    let mut two = connect(&sub, "w2").await;
    let partition = one.next("revoked").await.json()["partition"].as_i64().unwrap();
    let own = of_partition(&found, partition);
    // `CommitFailedError`, and a duplicate.
    let again = take(&mut two, 1).await;
    assert_eq!((&again[0]["position"], &again[0]["delivery_count"]), (&own[0]["position"], &json!(2)));
    let fenced = sub.ack("w1", &own).await.problem(409, "fenced");
    assert_eq!(fenced["partition"], partition);
    // What it kept is its own still.
    sub.acked("w1", &of_partition(&found, 1 - partition)).await;
    app.stop().await;
}

/// A consumer that crashes consumes nothing more; another one of the group goes on after the last commit.
#[tokio::test]
async fn where_a_consumer_crashes_another_one_goes_on() {
    let (_database, app) = service().await;
    send(&app, TOPIC, 0..8).await;
    let sub = Sub::new(&app, "group", json!({ "source": { "category": TOPIC }, "partitions": 1 })).await;
    let mut crashing = connect(&sub, "w1").await;
    let found = take(&mut crashing, 8).await;
    sub.acked("w1", &found[..3]).await;
    drop(crashing);
    let status = sub.until("it is gone", |status| status["consumers"] == json!([])).await;
    assert_eq!(status["committed_lag"], 5, "what was not committed is there, and nobody consumes it");
    let mut other = connect(&sub, "w2").await;
    let mut went_on = Vec::new();
    while went_on.len() < 5 {
        let delivery = other.next("message").await.json();
        sub.acked("w2", std::slice::from_ref(&delivery)).await;
        went_on.push(delivery);
    }
    assert_eq!(numbers(&went_on), [3, 4, 5, 6, 7]);
    sub.until("all is committed", |status| status["committed_lag"] == 0).await;
    app.stop().await;
}

/// `session_timeout_ms`: a consumer that sends nothing, connected or not, loses its partitions.
#[tokio::test]
async fn a_session_timeout_is_the_groups() {
    let (_database, app) = service().await;
    send(&app, TOPIC, 0..4).await;
    let definition = json!({ "source": { "category": TOPIC }, "partitions": 1, "consumer_timeout": "1s" });
    let sub = Sub::new(&app, "group", definition).await;
    let lost = sub.fetch("w1", 4).await;
    let again = sub.fetch_some("w2", 4).await;
    assert_eq!((&again[0]["position"], &again[0]["delivery_count"]), (&lost[0]["position"], &json!(2)));
    sub.ack("w1", &lost).await.problem(409, "fenced");
    app.stop().await;
}

/// `async with stream as stream_flow: async for value in stream_flow`: when it is left, the lag grows.
#[tokio::test]
async fn values_are_yielded_while_the_stream_is_open() {
    let (_database, app) = service().await;
    let sub = Sub::new(&app, "group", json!({ "source": { "category": TOPIC }, "ack": "auto" })).await;
    let mut flow = connect(&sub, "w1").await;
    flow.next("caught-up").await;
    let (values, ()) = tokio::join!(take(&mut flow, 3), send(&app, TOPIC, 0..3));
    assert_eq!(numbers(&values), [0, 1, 2]);
    assert_eq!(sub.status().await["committed_lag"], 0);
    drop(flow);
    sub.until("it is closed", |status| status["consumers"] == json!([])).await;
    send(&app, TOPIC, 3..8).await;
    assert_eq!(sub.status().await["committed_lag"], 5);
    let mut flow = connect(&sub, "w1").await;
    let mut values = numbers(&take(&mut flow, 5).await);
    values.sort_unstable();
    assert_eq!(values, [3, 4, 5, 6, 7]);
    app.stop().await;
}
