//! The streams, consumer groups and time series of walrus, a Redis client: its document's examples.
//!
//! What the document has and HTTP has not: message ids of one's own (`id=`; here a position is given, a uuid may be, and
//! so may a time), `maxlen` of an append (a trim after it, or the retention of a category), trimming that is only
//! approximate (here it is exact) or down to nothing (the newest message stays), `XSETID` of a stream (positions never go
//! back, and only an import chooses them), groups over several streams that are one call (a group in Redis is one of
//! each stream, and so it is here: a subscription a stream; one over a category reads all its streams by one call), and
//! `create`, which needs no stream that exists.

mod standalone;
mod time_series;
mod trimming;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::subscriptions::{Sub, numbers, place, positions};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;

const STREAMS: [&str; 3] = ["stream-a", "stream-b", "stream-c"];

async fn service() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    (database, app)
}

/// `stream.add(data)`: the position is the id.
async fn add(app: &TestApp, stream: &str, data: Value) -> i64 {
    let answer = app.append(stream, &json!({ "messages": [{ "type": "Message", "data": data }] })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["messages"][0]["position"].as_i64().unwrap()
}

/// `range` and `read` of a stream.
async fn range(app: &TestApp, stream: &str, parameters: &str) -> Vec<Value> {
    let answer = app.get(&format!("/v1/streams/{stream}/messages?{parameters}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["messages"].as_array().unwrap().iter().map(|message| message["data"]["message"].clone()).collect()
}

/// `db.consumer_group('cg-abc', stream_keys)`
struct ConsumerGroup<'a>(Vec<Sub<'a>>);

impl<'a> ConsumerGroup<'a> {
    async fn create(app: &'a TestApp, from: &str) -> ConsumerGroup<'a> {
        let mut streams = Vec::new();
        for stream in STREAMS {
            let definition = json!({ "source": { "stream_name": stream }, "mode": "competing", "from": from });
            streams.push(Sub::new(app, &format!("cg-abc:{stream}"), definition).await);
        }
        ConsumerGroup(streams)
    }

    /// `cg.read(count=…)`: of each stream that has any, its new messages.
    async fn read(&self, consumer: &str, count: usize) -> Vec<(String, Vec<Value>)> {
        let mut all = Vec::new();
        for (stream, sub) in STREAMS.iter().zip(&self.0) {
            let found = sub.fetch(consumer, count).await;
            if !found.is_empty() {
                all.push(((*stream).to_owned(), texts(&found)));
            }
        }
        all
    }
}

fn texts(deliveries: &[Value]) -> Vec<Value> {
    deliveries.iter().map(|delivery| delivery["message"]["data"]["message"].clone()).collect()
}

/// `cg.stream_c.pending()`: position, consumer and deliveries.
async fn pending(sub: &Sub<'_>) -> Vec<(i64, String, i64)> {
    let listed = sub.get("/pending").await;
    let listed = listed["pending"].as_array().unwrap().iter().map(|one| {
        let consumer = one["consumer"].as_str().unwrap().to_owned();
        (one["position"].as_i64().unwrap(), consumer, one["delivery_count"].as_i64().unwrap())
    });
    listed.collect()
}

async fn claim(sub: &Sub<'_>, body: Value) -> Value {
    let answer = sub.post("/claims", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn taken(claimed: &Value) -> &[Value] {
    claimed["messages"].as_array().unwrap()
}

/// A milliseconds' number of a span such as `1200ms`.
fn idle_ms(one: &Value) -> f64 {
    let text = one["idle"].as_str().unwrap();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap());
    number.parse::<f64>().unwrap() * if unit == "ms" { 1.0 } else { 1_000.0 }
}

/// Waits until so many messages were left alone for that long.
async fn until_idle(sub: &Sub<'_>, idle: &str, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while sub.get(&format!("/pending?min_idle={idle}")).await["pending"].as_array().unwrap().len() < count {
        assert!(Instant::now() < deadline, "they are not idle");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The document's walk through a consumer group, call by call.
#[tokio::test]
async fn a_consumer_group_reads_acks_and_claims_as_in_the_document() {
    let (_database, app) = service().await;
    for stream in STREAMS {
        add(&app, stream, json!({ "data": "" })).await;
    }
    let cg = ConsumerGroup::create(&app, "end").await;
    assert_eq!(cg.read("c1", 100).await, []);
    add(&app, "stream-a", json!({ "message": "new a" })).await;
    add(&app, "stream-b", json!({ "message": "new for b" })).await;
    for n in 0..10 {
        add(&app, "stream-c", json!({ "message": format!("c-{n}") })).await;
    }
    let of = |stream: &str, text: &str| (stream.to_owned(), vec![json!(text)]);
    let first = [of("stream-a", "new a"), of("stream-b", "new for b"), of("stream-c", "c-0")];
    assert_eq!(cg.read("c1", 1).await, first);
    assert_eq!(cg.read("c1", 1).await, [of("stream-c", "c-1")]);

    let stream_a = &cg.0[0];
    assert_eq!(pending(stream_a).await, [(1, "c1".to_owned(), 1)]);
    let listed = stream_a.get("/pending").await["pending"].as_array().unwrap().clone();
    stream_a.acked("c1", &listed).await;
    assert_eq!(pending(stream_a).await, []);
    assert_eq!(stream_a.ack("c1", &listed).await.json()["acked"], 0, "there is none to ack any more");

    // Another consumer goes on where the group is.
    assert_eq!(cg.read("c2", 1).await, [of("stream-c", "c-2")]);
    let stream_c = &cg.0[2];
    let c = |position, consumer: &str, deliveries| (position, consumer.to_owned(), deliveries);
    assert_eq!(pending(stream_c).await, [c(1, "c1", 1), c(2, "c1", 1), c(3, "c2", 1)]);
    until_idle(stream_c, "50ms", 3).await;
    let claimed = claim(stream_c, json!({ "consumer": "c2", "positions": [1] })).await;
    assert_eq!(texts(taken(&claimed)), ["c-0"]);
    // A claim is a delivery, where Redis counts it only if it is asked to.
    assert_eq!(pending(stream_c).await, [c(1, "c2", 2), c(2, "c1", 1), c(3, "c2", 1)]);
    let listed = stream_c.get("/pending").await;
    assert!(idle_ms(&listed["pending"][0]) < idle_ms(&listed["pending"][1]), "its age begins anew: {listed}");
    // The consumer that had it has lost it.
    stream_c.ack("c1", &[json!({ "partition": 0, "position": 1, "epoch": 1 })]).await.problem(409, "fenced");
    stream_c.acked("c2", taken(&claimed)).await;
    app.stop().await;
}

#[tokio::test]
async fn a_group_is_created_at_the_beginning_or_at_the_end() {
    let (_database, app) = service().await;
    for n in 0..3 {
        add(&app, "stream-a", json!({ "n": n })).await;
    }
    let source = json!({ "stream_name": "stream-a" });
    for (name, from, expected) in [("zero", "0", vec![0, 1, 2]), ("dollar", "end", vec![]), ("third", "2", vec![2])] {
        let definition = json!({ "source": source, "mode": "competing", "from": from });
        let sub = Sub::new(&app, name, definition.clone()).await;
        assert_eq!(numbers(&sub.fetch("c1", 10).await), expected, "{name}");
        // Redis says BUSYGROUP; the same again is no error here, and changes nothing.
        assert_eq!(app.put(&sub.path(""), &definition).await.status, 200);
        assert_eq!(numbers(&sub.fetch("c1", 10).await), Vec::<i64>::new(), "{name}");
    }
    // A stream need not exist.
    let early = json!({ "source": { "stream_name": "stream-z" }, "mode": "competing" });
    let early = Sub::new(&app, "early", early).await;
    add(&app, "stream-z", json!({ "n": 7 })).await;
    assert_eq!(numbers(&early.fetch("c1", 10).await), [7]);
    app.stop().await;
}

#[tokio::test]
async fn what_is_pending_is_listed_by_range_consumer_and_age_and_summed_up() {
    let (_database, app) = service().await;
    let cg = ConsumerGroup::create(&app, "beginning").await;
    for n in 0..10 {
        add(&app, "stream-c", json!({ "message": n })).await;
    }
    let stream_c = &cg.0[2];
    stream_c.fetch("c1", 4).await;
    stream_c.fetch("c2", 6).await;
    let listed = async |parameters: &str| -> Vec<i64> {
        positions(stream_c.get(&format!("/pending?{parameters}")).await["pending"].as_array().unwrap())
    };
    assert_eq!(listed("").await, (0..10).collect::<Vec<_>>());
    assert_eq!(listed("after=0:2&limit=3").await, [3, 4, 5]);
    assert_eq!(listed("consumer=c2").await, [4, 5, 6, 7, 8, 9]);
    assert_eq!(listed("min_idle=10m").await, Vec::<i64>::new());
    let summary = stream_c.get("/pending/summary").await;
    assert_eq!(summary["count"], 10);
    let by_consumer: Vec<_> =
        summary["consumers"].as_array().unwrap().iter().map(|one| (&one["consumer"], &one["count"])).collect();
    assert_eq!(by_consumer, [(&json!("c1"), &json!(4)), (&json!("c2"), &json!(6))]);
    assert_eq!(
        (&summary["consumers"][0]["first"]["position"], &summary["consumers"][1]["last"]["position"]),
        (&json!(0), &json!(9))
    );
    app.stop().await;
}

#[tokio::test]
async fn only_what_was_left_alone_is_claimed() {
    let (_database, app) = service().await;
    let cg = ConsumerGroup::create(&app, "beginning").await;
    for n in 0..6 {
        add(&app, "stream-a", json!({ "n": n })).await;
    }
    let stream_a = &cg.0[0];
    let old = stream_a.fetch("c1", 3).await;
    until_idle(stream_a, "500ms", 3).await;
    let young = stream_a.fetch("c1", 3).await;
    assert_eq!(numbers(&young), [3, 4, 5]);
    // Asked for by name, a young one stays where it is.
    let body = json!({ "consumer": "c2", "min_idle": "1h", "positions": positions(&young) });
    assert_eq!(taken(&claim(stream_a, body).await).len(), 0);
    let claimed = claim(stream_a, json!({ "consumer": "c2", "min_idle": "500ms", "limit": 3 })).await;
    assert_eq!(numbers(taken(&claimed)), numbers(&old));
    stream_a.acked("c2", taken(&claimed)).await;
    stream_a.acked("c1", &young).await;
    assert_eq!(pending(stream_a).await, []);
    app.stop().await;
}

/// `autoclaim`: a cursor leads through all that is pending, as with `XAUTOCLAIM`.
#[tokio::test]
async fn a_cursor_leads_through_all_that_may_be_claimed() {
    let (_database, app) = service().await;
    let cg = ConsumerGroup::create(&app, "beginning").await;
    for n in 0..7 {
        add(&app, "stream-a", json!({ "n": n })).await;
    }
    let stream_a = &cg.0[0];
    stream_a.fetch("c1", 7).await;
    let (mut pages, mut after) = (Vec::new(), Value::Null);
    loop {
        let page = claim(stream_a, json!({ "consumer": "c2", "limit": 3, "after": after })).await;
        pages.push(numbers(taken(&page)));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(pages, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    assert!(pending(stream_a).await.iter().all(|(_, consumer, deliveries)| consumer == "c2" && *deliveries == 2));
    app.stop().await;
}

/// A page of the cursor's way may hold messages that are not given any more.
#[tokio::test]
async fn the_cursor_passes_what_was_tried_too_often() {
    let (_database, app) = service().await;
    for n in 0..4 {
        add(&app, "stream-a", json!({ "n": n })).await;
    }
    let definition = json!({ "source": { "stream_name": "stream-a" }, "mode": "competing", "max_deliveries": 2,
        "ack_timeout": "1s" });
    let sub = Sub::new(&app, "cg-abc", definition).await;
    let all = sub.fetch("c1", 4).await;
    // The first ones fail, and are tried once more.
    let mut nacks: Vec<Value> = all[..2].iter().map(place).collect();
    for nack in &mut nacks {
        nack["action"] = json!("retry");
        nack["delay"] = json!("0s");
    }
    assert_eq!(sub.post("/nacks", &json!({ "consumer": "c1", "nacks": nacks })).await.status, 200);
    assert_eq!(numbers(&sub.fetch("c1", 2).await), [0, 1]);
    until_idle(&sub, "1010ms", 4).await;
    let (mut claimed, mut after) = (Vec::new(), Value::Null);
    loop {
        let page = claim(&sub, json!({ "consumer": "c2", "limit": 1, "after": after })).await;
        claimed.extend(numbers(taken(&page)));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(claimed, [2, 3]);
    assert_eq!(positions(sub.get("/parked").await["parked"].as_array().unwrap()), [0, 1]);
    app.stop().await;
}

/// `set_id('$')` and `set_id('0-0')`: all is read, all is unread. In Redis what is pending stays so; a seek begins anew.
#[tokio::test]
async fn set_id_is_a_seek() {
    let (_database, app) = service().await;
    for n in 0..5 {
        add(&app, "stream-a", json!({ "n": n })).await;
    }
    let cg = ConsumerGroup::create(&app, "beginning").await;
    let stream_a = &cg.0[0];
    stream_a.fetch("c1", 2).await;
    assert_eq!(stream_a.post("/seek", &json!({ "to": "end" })).await.status, 200);
    assert_eq!(stream_a.fetch("c1", 10).await.len(), 0);
    assert_eq!((pending(stream_a).await.len(), stream_a.status().await["committed_lag"].clone()), (0, json!(0)));
    assert_eq!(stream_a.post("/seek", &json!({ "to": "beginning" })).await.status, 200);
    assert_eq!(numbers(&stream_a.fetch("c1", 10).await), [0, 1, 2, 3, 4]);
    // After the message at 2, in Redis; the first that comes, here.
    assert_eq!(stream_a.post("/seek", &json!({ "to": 3 })).await.status, 200);
    assert_eq!(numbers(&stream_a.fetch("c1", 10).await), [3, 4]);
    app.stop().await;
}

/// `XINFO GROUPS` and `XINFO CONSUMERS`.
#[tokio::test]
async fn its_consumers_its_pending_and_its_lag_are_shown() {
    let (_database, app) = service().await;
    let cg = ConsumerGroup::create(&app, "beginning").await;
    for n in 0..10 {
        add(&app, "stream-c", json!({ "n": n })).await;
    }
    let stream_c = &cg.0[2];
    let first = stream_c.fetch("c1", 3).await;
    stream_c.fetch("c2", 2).await;
    stream_c.acked("c1", &first[..1]).await;
    let status = stream_c.status().await;
    // Not delivered, and not acked.
    assert_eq!((&status["delivered_lag"], &status["committed_lag"]), (&json!(5), &json!(9)));
    assert_eq!(status["partitions"][0]["delivered_position"], 4, "last-delivered-id");
    let consumers = stream_c.get("/consumers").await;
    let consumers: Vec<_> =
        consumers["consumers"].as_array().unwrap().iter().map(|one| (&one["consumer"], &one["in_flight"])).collect();
    assert_eq!(consumers, [(&json!("c1"), &json!(2)), (&json!("c2"), &json!(2))]);
    // `XGROUP DELCONSUMER` loses what is pending; here it goes back to the others.
    assert_eq!(app.delete(&stream_c.path("/consumers/c1")).await.status, 204);
    assert_eq!(numbers(&stream_c.fetch("c2", 2).await), [1, 2]);
    // `destroy()`
    assert_eq!(app.delete(&stream_c.path("")).await.status, 204);
    stream_c.post("/fetch", &json!({ "consumer": "c2" })).await.problem(404, "not-found");
    assert_eq!(app.get("/v1/streams/stream-c").await.json()["message_count"], 10, "the stream stays");
    app.stop().await;
}

#[tokio::test]
async fn a_group_over_a_category_reads_all_its_streams_by_one_call() {
    let (_database, app) = service().await;
    let sub = Sub::new(&app, "cg", json!({ "source": { "category": "stream" }, "mode": "competing" })).await;
    for (n, stream) in STREAMS.iter().cycle().take(9).enumerate() {
        add(&app, stream, json!({ "n": n })).await;
    }
    assert_eq!(numbers(&sub.fetch("c1", 5).await), [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&sub.fetch("c2", 5).await), [5, 6, 7, 8]);
    app.stop().await;
}
