//! Messages that always fail: they end, and other messages go on, in their order.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

const MESSAGES: i64 = 60;
const STREAMS: i64 = 5;

fn is_poison(message: &Value) -> bool {
    message["message"]["data"]["n"].as_i64().unwrap() % 13 == 4
}

/// How a consumer fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    /// It says so.
    Nacks,
    /// It says nothing until its time is over.
    Hangs,
    /// Its connection breaks.
    Dies,
}

/// What was acked, in order, and how often each poisoned message came.
#[derive(Debug)]
struct Told {
    acked: Vec<Value>,
    deliveries: BTreeMap<i64, i64>,
}

/// Consumes until nothing is left.
async fn consume(group: &Group, failure: Failure) -> Told {
    let mut told = Told { acked: Vec::new(), deliveries: BTreeMap::new() };
    // A consumer that hangs has no other message: an ack of a later one would be one of this one too.
    let credit = if failure == Failure::Hangs { 1 } else { 3 };
    let name = format!("w&max_in_flight={credit}");
    let mut events = group.events(&name).await;
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let next = tokio::time::timeout(Duration::from_millis(100), events.next_block(PATIENCE)).await;
        let Ok(event) = next else {
            let status = group.status().await;
            if status["committed_lag"] == 0 {
                return told;
            }
            assert!(Instant::now() < deadline, "{failure:?}: waited in vain until nothing is left: {told:?}");
            continue;
        };
        let event = event.expect("the stream goes on");
        if !event.is("message") {
            continue;
        }
        // Each comes a few times at most.
        deadline = Instant::now() + PATIENCE;
        let message = event.json();
        if is_poison(&message) {
            *told.deliveries.entry(message["message"]["data"]["n"].as_i64().unwrap()).or_default() += 1;
            match failure {
                Failure::Nacks => group.nacked_if_there("w", &message).await,
                Failure::Hangs => {}
                Failure::Dies => events = group.events(&name).await,
            }
            continue;
        }
        // Not acked if something before it in its partition has failed: then it comes again.
        let answer = group.ack("w", std::slice::from_ref(&message)).await;
        if answer.status == 200 && answer.json()["acked"] == 1 {
            told.acked.push(message);
        }
    }
}

impl Group {
    /// Another one of the partition may have failed before it: then this delivery is over.
    async fn nacked_if_there(&self, consumer: &str, message: &Value) {
        let mut nack = place(message);
        nack["reason"] = json!("poison");
        let answer = self.post("/nacks", &json!({ "consumer": consumer, "nacks": [nack] })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

async fn poisoned(mode: &str, failure: Failure) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write(&database.connect().await, "a", STREAMS, MESSAGES).await;
    // Of a consumer that dies it is not known what has killed it: in each partition, the first in flight is suspected.
    let partitions = if failure == Failure::Dies { 1 } else { 1024 };
    let definition = json!({
        "source": { "category": "a" }, "mode": mode, "partitions": partitions, "max_deliveries": 3, "backoff": ["10ms"],
        "ack_timeout": if failure == Failure::Hangs { "150ms" } else { "1m" }
    });
    let group = Group::new(&app.url, "s", definition).await;
    let told = consume(&group, failure).await;
    let parked: Vec<i64> = (0..MESSAGES).filter(|n| n % 13 == 4).collect();
    let list = group.get("/parked").await["parked"].as_array().unwrap().clone();
    let numbers: Vec<i64> = list.iter().map(|one| one["message"]["data"]["n"].as_i64().unwrap()).collect();
    assert_eq!(sorted(numbers), parked, "{mode} {failure:?}");
    for one in &list {
        let n = one["message"]["data"]["n"].as_i64().unwrap();
        assert_eq!(one["deliveries"], 3, "{mode} {failure:?}: {one}");
        if failure == Failure::Nacks {
            assert_eq!(one["last_error"], "poison", "{one}");
            assert_eq!(told.deliveries[&n], 3, "{mode}: {n}");
        }
    }
    if mode == "partitioned" {
        let mut last: BTreeMap<&str, i64> = BTreeMap::new();
        for message in &told.acked {
            let stream = message["message"]["stream_name"].as_str().unwrap();
            let position = message["message"]["position"].as_i64().unwrap();
            let before = last.insert(stream, position);
            // Where little time is given, one whose ack was late comes once more, and that ack counts too.
            let is_again = failure == Failure::Hangs && before == Some(position);
            assert!(is_again || before.is_none_or(|before| before < position), "{stream}: {before:?}, then {position}");
        }
    }
    // Healed and replayed, they are done.
    assert_eq!(group.done("/parked/replay", &json!({ "all": true })).await["replayed"], parked.len());
    let mut seen = Vec::new();
    while seen.len() < parked.len() {
        let some = group.fetch_some("healed", 10).await;
        group.acked("healed", &some).await;
        seen.extend(some.iter().map(|one| one["message"]["data"]["n"].as_i64().unwrap()));
    }
    assert_eq!(sorted(seen), parked, "{mode} {failure:?}");
    assert_eq!(group.get("/parked").await["parked"], json!([]));
    group.until("nothing is open", |status| status["oldest_unacked_age"].is_null()).await;
    app.stop().await;
}

fn sorted(mut numbers: Vec<i64>) -> Vec<i64> {
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn a_message_that_is_nacked_every_time_is_parked_and_its_neighbours_are_not() {
    poisoned("partitioned", Failure::Nacks).await;
    poisoned("competing", Failure::Nacks).await;
}

#[tokio::test]
async fn a_message_that_is_never_acked_is_parked_and_its_neighbours_are_not() {
    poisoned("partitioned", Failure::Hangs).await;
    poisoned("competing", Failure::Hangs).await;
}

#[tokio::test]
async fn a_message_that_kills_its_consumer_is_parked_and_its_neighbours_are_not() {
    poisoned("partitioned", Failure::Dies).await;
}

/// The subscription stops before what it cannot do, says why, delivers nothing, and goes on from there.
#[tokio::test]
async fn stop_means_stop() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
        write(&database.connect().await, "a", 1, 8).await;
        let definition = json!({
            "source": { "stream_name": "a-1" }, "mode": mode, "max_deliveries": 2, "backoff": ["0s"],
            "on_exhausted": "stop"
        });
        let group = Group::new(&one.url, "s", definition).await;
        let first = group.fetch("w", 3).await;
        group.acked("w", &first[..2]).await;
        group.nacked("w", &first[2], json!({ "reason": "no" })).await;
        let again = group.fetch_some("w", 1).await;
        assert_eq!(positions(&again), [2]);
        group.nacked("w", &again[0], json!({ "reason": "no again" })).await;
        let status = group.status().await;
        assert_eq!((&status["state"], &status["stopped"]["position"]), (&json!("stopped"), &json!(2)), "{status}");
        assert_eq!(status["stopped"]["reason"], "no again");
        for at in [&one, &two] {
            let none = group.on(&at.url).fetch_with("w", json!({ "limit": 10, "wait": "300ms" })).await;
            assert_eq!(none.len(), 0, "{mode}");
        }
        let waiting = tokio::spawn({
            let other = group.on(&two.url);
            async move { other.fetch_some("w", 1).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        group.done("/resume", &json!({})).await;
        // It is tried again, as often as any other.
        let mut message = waiting.await.unwrap();
        assert_eq!((positions(&message), &message[0]["delivery_count"]), (vec![2], &json!(1)), "{mode}");
        group.nacked("w", &message[0], json!({})).await;
        assert_eq!(group.status().await["state"], "running", "{mode}");
        message = group.fetch_some("w", 1).await;
        group.acked("w", &message).await;
        let mut rest = Vec::new();
        while rest.len() < 5 {
            let some = group.fetch_some("w", 10).await;
            group.acked("w", &some).await;
            rest.extend(positions(&some));
        }
        assert_eq!(rest, [3, 4, 5, 6, 7], "{mode}");
        one.stop().await;
        two.stop().await;
    }
}
