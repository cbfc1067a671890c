//! The stream consumers of coredis, a Redis client: its document's examples over several streams and in a group.
//!
//! What the document has and HTTP has not: `RedisCluster` (any instance serves every stream), `xconsumer` without a
//! connection of its own (an event stream or a fetch is one), and the library's buffer (here `limit` and
//! `max_in_flight` bound what is on its way). A subscription's source of several streams is categories: `one` is the
//! stream of that name, and would be `one-1` too. Consumers' entries are pending for as long as they are away in Redis;
//! here they are until `ack_timeout`, then any consumer gets them. `xadd` trims as it adds; here a trim is a request of
//! its own, or the retention of a category does it in the background.

mod trimming;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::subscriptions::{Sub, counts, numbers};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;

const STREAMS: [&str; 3] = ["one", "two", "three"];

async fn service() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    (database, app)
}

/// `[await client.xadd(stream, {"id": i}) for i in range(count)]`
async fn add(app: &TestApp, stream: &str, ids: std::ops::Range<i64>) {
    for id in ids {
        app.write(stream, "Entry", json!({ "n": id })).await;
    }
}

/// `client.xconsumer(streams=["one", "two", "three"])`
async fn xconsumer(app: &TestApp, more: &str) -> Events {
    app.follow(&format!("/v1/events?stream_name=one&stream_name=two&stream_name=three{more}")).await
}

/// `client.xconsumer(streams=[…], group="group-a", …)`
async fn group<'a>(app: &'a TestApp, streams: &[&str], more: Value) -> Sub<'a> {
    let mut definition = json!({ "source": { "categories": streams }, "mode": "competing" });
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Sub::new(app, "group-a", definition).await
}

/// Stream and number of an entry.
fn entry(message: &Value) -> (String, i64) {
    (message["stream_name"].as_str().unwrap().to_owned(), message["data"]["n"].as_i64().unwrap())
}

/// `processor(consumer)`: what an iterator over a group's consumer gives.
async fn drain(sub: &Sub<'_>, consumer: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let found = sub.fetch(consumer, limit).await;
        if found.is_empty() {
            return all;
        }
        all.extend(found);
    }
}

#[tokio::test]
async fn a_simple_consumer_reads_several_streams_from_the_latest_entry() {
    let (_database, app) = service().await;
    for stream in STREAMS {
        add(&app, stream, 0..2).await;
    }
    let mut consumer = xconsumer(&app, "").await;
    let blocks = consumer.blocks_until("caught-up").await;
    assert!(blocks.iter().all(|block| !block.is("message")), "what was there before is not read");
    app.write("four", "Entry", json!({ "n": 2 })).await;
    for stream in ["three", "one", "two", "one"] {
        app.write(stream, "Entry", json!({ "n": 3 })).await;
    }
    // `stream, entry = await consumer.get_entry()`
    assert_eq!(entry(&consumer.messages(1).await[0]), ("three".to_owned(), 3));
    let rest = consumer.messages(3).await;
    assert_eq!(rest.iter().map(|message| entry(message).0).collect::<Vec<_>>(), ["one", "two", "one"]);
    app.stop().await;
}

#[tokio::test]
async fn a_simple_consumer_starts_where_it_is_told_to() {
    let (_database, app) = service().await;
    let mut written = Vec::new();
    for n in 0..9 {
        let stream = STREAMS[n % 3];
        written.push((app.write(stream, "Entry", json!({ "n": n })).await, n as i64));
    }
    let time = app.get("/v1/streams/one/messages/last").await.json()["time"].as_str().unwrap().to_owned();
    let position = written[4].0.to_string();
    for (from, first) in [("beginning", 0), ("0", 0), (position.as_str(), 4), (time.as_str(), 6)] {
        let mut consumer = xconsumer(&app, &format!("&from={from}")).await;
        let found = consumer.messages(9 - first).await;
        let ids: Vec<i64> = found.iter().map(|message| entry(message).1).collect();
        assert_eq!(ids, (first as i64..9).collect::<Vec<_>>(), "{from}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_iterator_ends_when_nothing_is_left_and_may_be_begun_again() {
    let (_database, app) = service().await;
    let sub = group(&app, &STREAMS, json!({ "ack": "auto" })).await;
    assert_eq!(drain(&sub, "consumer-1", 10).await.len(), 0);
    for round in 0..3 {
        for stream in STREAMS {
            add(&app, stream, round..round + 1).await;
        }
        assert_eq!(numbers(&drain(&sub, "consumer-1", 10).await), [round; 3]);
    }
    // Without a group: up to `caught-up`, and the next turn goes on after the last id.
    let mut consumer = xconsumer(&app, "&from=beginning").await;
    let mut seen = consumer.blocks_until("caught-up").await;
    let last = consumer.last_id.clone().unwrap();
    drop(consumer);
    add(&app, "two", 3..5).await;
    let mut consumer = xconsumer(&app, &format!("&last_event_id={last}")).await;
    seen.extend(consumer.blocks_until("caught-up").await);
    let seen: Vec<_> = seen.iter().filter(|block| block.is("message")).map(|block| entry(&block.json()).1).collect();
    assert_eq!(seen, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4]);
    app.stop().await;
}

#[tokio::test]
async fn a_timeout_is_waited_for_an_entry_and_no_longer() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let (_database, app) = service().await;
    let sub = group(&app, &STREAMS, json!({})).await;
    let began = Instant::now();
    let nothing = sub.fetch_with(json!({ "consumer": "consumer-1", "wait": "300ms" })).await;
    assert!(nothing.is_empty() && began.elapsed() >= TIMEOUT, "{:?}", began.elapsed());
    // Of thirty seconds only as long as it takes.
    let blocking = sub.fetch_with(json!({ "consumer": "consumer-1", "wait": "30s" }));
    let (found, ()) = tokio::join!(blocking, add(&app, "three", 0..1));
    assert_eq!((found.len(), entry(&found[0]["message"])), (1, ("three".to_owned(), 0)));
    app.stop().await;
}

#[tokio::test]
async fn a_buffer_of_ten_is_a_request_for_eleven() {
    let (_database, app) = service().await;
    add(&app, "one", 0..25).await;
    let sub = group(&app, &["one"], json!({ "ack": "auto" })).await;
    let mut sizes = Vec::new();
    while sizes.last() != Some(&0) {
        sizes.push(sub.fetch("consumer-1", 1 + 10).await.len());
    }
    assert_eq!(sizes, [11, 11, 3, 0]);
    app.stop().await;
}

#[tokio::test]
async fn two_consumers_never_see_the_same_entry_and_together_see_all() {
    let (_database, app) = service().await;
    let sub = group(&app, &STREAMS, json!({ "ack": "auto" })).await;
    for stream in STREAMS {
        add(&app, stream, 0..10).await;
    }
    let (one, two) = tokio::join!(drain(&sub, "consumer-1", 1), drain(&sub, "consumer-2", 1));
    assert_eq!(one.len() + two.len(), 30);
    let all: HashSet<_> = one.iter().chain(&two).map(|delivery| entry(&delivery["message"])).collect();
    assert_eq!(all.len(), 30);
    // What is acked as it is delivered is never pending.
    assert_eq!(sub.get("/pending/summary").await["count"], 0);
    assert_eq!(sub.status().await["committed_lag"], 0);
    app.stop().await;
}

#[tokio::test]
async fn two_connected_consumers_share_what_comes() {
    let (_database, app) = service().await;
    let sub = group(&app, &STREAMS, json!({ "ack": "auto" })).await;
    let mut one = app.follow(&sub.path("/events?consumer=consumer-1")).await;
    let mut two = app.follow(&sub.path("/events?consumer=consumer-2")).await;
    one.next("caught-up").await;
    two.next("caught-up").await;
    let mut seen = HashSet::new();
    for stream in STREAMS {
        add(&app, stream, 0..10).await;
    }
    while seen.len() < 30 {
        let delivery = tokio::select! {
            event = one.next("message") => event.json(),
            event = two.next("message") => event.json(),
        };
        assert!(seen.insert(entry(&delivery["message"])), "{delivery} was seen twice");
    }
    app.stop().await;
}

/// The document's example: half of the entries fail, the consumer is made again under its name, and works them off.
#[tokio::test]
async fn a_consumer_that_is_made_again_works_its_backlog_off_first() {
    let (_database, app) = service().await;
    let sub = group(&app, &["one"], json!({})).await;
    add(&app, "one", 0..10).await;
    let first = sub.fetch_with(json!({ "consumer": "consumer-1", "backlog": true })).await;
    assert_eq!(numbers(&first), (0..10).collect::<Vec<_>>());
    let (good, bad): (Vec<_>, Vec<_>) = first.into_iter().partition(|_| fastrand::bool());
    let (good, bad) = if bad.is_empty() { (Vec::new(), good) } else { (good, bad) };
    for success in &good {
        sub.acked("consumer-1", std::slice::from_ref(success)).await;
    }
    let pending = sub.get("/pending/summary").await;
    assert_eq!(pending["consumers"][0]["consumer"], "consumer-1");
    assert_eq!(pending["consumers"][0]["count"], bad.len());
    // Round two.
    add(&app, "one", 10..12).await;
    let mut worked_off = Vec::new();
    loop {
        let found = sub.fetch_with(json!({ "consumer": "consumer-1", "backlog": true })).await;
        if found.is_empty() {
            break;
        }
        sub.acked("consumer-1", &found).await;
        worked_off.extend(numbers(&found));
    }
    assert_eq!(worked_off, [numbers(&bad), vec![10, 11]].concat());
    assert_eq!(sub.get("/pending/summary").await["consumers"], json!([]));
    app.stop().await;
}

/// The same with two consumers who fail again and again: each comes back under its name, and gets what it has not acked
/// before anything else.
#[tokio::test]
async fn random_failures_end_with_nothing_pending_and_nothing_lost() {
    let (_database, app) = service().await;
    let sub = group(&app, &STREAMS, json!({ "max_deliveries": 1_000 })).await;
    for stream in STREAMS {
        add(&app, stream, 0..10).await;
    }
    let consume = async |consumer: &str| {
        let mut failed: Vec<i64> = Vec::new();
        let mut done = Vec::new();
        loop {
            // Made again: the first that it gets is what it has failed at.
            let backlog = sub.fetch_with(json!({ "consumer": consumer, "limit": 7, "backlog": true })).await;
            let again: Vec<i64> = backlog.iter().map(position).collect();
            if !failed.is_empty() {
                assert_eq!(again, failed, "{consumer}");
                assert!(backlog.iter().all(|delivery| delivery["delivery_count"].as_i64() > Some(1)));
            }
            if backlog.is_empty() {
                return done;
            }
            failed.clear();
            for delivery in backlog {
                match fastrand::bool() {
                    true => {
                        sub.acked(consumer, std::slice::from_ref(&delivery)).await;
                        done.push(entry(&delivery["message"]));
                    }
                    false => failed.push(position(&delivery)),
                }
            }
        }
    };
    let (one, two) = tokio::join!(consume("consumer-1"), consume("consumer-2"));
    let mut times: HashMap<_, usize> = HashMap::new();
    for done in one.into_iter().chain(two) {
        *times.entry(done).or_default() += 1;
    }
    assert_eq!(times.len(), 30);
    assert!(times.values().all(|times| *times == 1), "what is acked does not come again");
    assert_eq!(sub.get("/pending").await["pending"], json!([]));
    assert_eq!(sub.get("/parked").await["parked"], json!([]));
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["oldest_unacked_age"]), (&json!(0), &Value::Null));
    app.stop().await;
}

/// A connection that is cut in the middle: the same, by event stream.
#[tokio::test]
async fn a_connection_that_comes_back_under_its_name_begins_with_its_backlog() {
    let (_database, app) = service().await;
    let sub = group(&app, &["one"], json!({})).await;
    add(&app, "one", 0..10).await;
    let mut pending: Vec<i64> = (0..10).collect();
    for round in 1..=3_i64 {
        let mut consumer = app.follow(&sub.path("/events?consumer=consumer-1")).await;
        let mut came = Vec::new();
        while came.len() < pending.len() {
            came.push(consumer.next("message").await.json());
        }
        assert_eq!(numbers(&came), pending);
        assert!(came.iter().all(|delivery| delivery["delivery_count"] == round), "{came:?}");
        // Every second one succeeds.
        let done: Vec<Value> = came.iter().skip(1).step_by(2).cloned().collect();
        sub.acked("consumer-1", &done).await;
        pending = numbers(&came).into_iter().step_by(2).collect();
        drop(consumer);
        sub.until("it has left", |status| status["consumers"] == json!([])).await;
    }
    assert_eq!(pending, [0, 8]);
    let rest = sub.fetch_with(json!({ "consumer": "consumer-1", "backlog": true })).await;
    assert_eq!(numbers(&rest), pending);
    sub.acked("consumer-1", &rest).await;
    assert_eq!(sub.ack("consumer-1", &rest).await.json(), counts("acked", 0, 0, 2));
    assert_eq!(sub.get("/pending/summary").await["count"], 0);
    app.stop().await;
}

fn position(delivery: &Value) -> i64 {
    delivery["position"].as_i64().unwrap()
}
