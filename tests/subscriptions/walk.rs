//! Whatever consumers do, in whatever order: nothing is lost, nothing that was acked comes again, no stream is out of order.

use std::collections::{HashMap, HashSet};

use super::*;

const STREAMS: usize = 9;
const MESSAGES: usize = 120;
const STEPS: usize = 250;

/// What consumers were given and have done.
#[derive(Default)]
struct Seen {
    /// By consumer: what it has in hand.
    in_hand: HashMap<&'static str, Vec<Value>>,
    /// Of each stream, how many of its messages were delivered, in order.
    delivered: HashMap<String, i64>,
    /// Global positions of what was acked, parked or skipped.
    done: HashSet<i64>,
}

impl Seen {
    fn take_in(&mut self, consumer: &'static str, messages: Vec<Value>, in_order: bool) {
        for message in &messages {
            let global_position = message["message"]["global_position"].as_i64().unwrap();
            assert!(!self.done.contains(&global_position), "{message} was done, and came again");
            let stream = message["message"]["stream_name"].as_str().unwrap().to_owned();
            let position = message["message"]["position"].as_i64().unwrap();
            let next = self.delivered.entry(stream).or_insert(0);
            assert!(!in_order || position <= *next, "{message} came before those before it");
            *next = (*next).max(position + 1);
        }
        self.in_hand.entry(consumer).or_default().extend(messages);
    }

    fn done(&mut self, message: &Value) {
        self.done.insert(message["message"]["global_position"].as_i64().unwrap());
    }
}

fn is_done(answer: &Answer, what: &str) -> bool {
    match answer.status {
        200 => answer.json()[what] == 1,
        409 => false,
        other => panic!("{other}: {}", answer.text),
    }
}

/// One random step of one consumer.
async fn step(sub: &Sub<'_>, seen: &mut Seen, random: &mut fastrand::Rng, is_partitioned: bool) {
    let consumer = ["w1", "w2", "w3"][random.usize(..3)];
    match random.u32(..10) {
        0..=3 => {
            let body = json!({ "consumer": consumer, "limit": random.usize(1..20), "backlog": random.u32(..6) == 0 });
            let found = sub.fetch_with(body).await;
            seen.take_in(consumer, found, is_partitioned);
        }
        4..=7 => {
            let Some(hand) = seen.in_hand.get_mut(consumer).filter(|hand| !hand.is_empty()) else { return };
            let message = hand.remove(random.usize(..hand.len()));
            if !is_done(&sub.ack(consumer, std::slice::from_ref(&message)).await, "acked") {
                return;
            }
            seen.done(&message);
            if is_partitioned {
                // It acks everything before it in its partition, as far as that came under the same lease.
                let same = |one: &Value| {
                    one["partition"] == message["partition"]
                        && one["epoch"] == message["epoch"]
                        && one["position"].as_i64() < message["position"].as_i64()
                };
                let before: Vec<Value> = seen.in_hand[consumer].iter().filter(|one| same(one)).cloned().collect();
                before.iter().for_each(|one| seen.done(one));
            }
        }
        8 => {
            let Some(hand) = seen.in_hand.get_mut(consumer).filter(|hand| !hand.is_empty()) else { return };
            let message = hand.remove(random.usize(..hand.len()));
            let action = ["retry", "park", "skip"][random.usize(..3)];
            let more = if action == "retry" {
                json!({ "action": action, "delay": "20ms" })
            } else {
                json!({ "action": action })
            };
            if is_done(&sub.nack(consumer, &message, more).await, "nacked") && action != "retry" {
                seen.done(&message);
            }
        }
        _ => {
            let answer = sub.app.delete(&sub.path(&format!("/consumers/{consumer}"))).await;
            assert!([204, 404].contains(&answer.status), "{}", answer.text);
            if random.bool() {
                seen.in_hand.remove(consumer);
            }
        }
    }
}

async fn walk(mode: &str, seed: u64) {
    let (_database, app) = filled(STREAMS, MESSAGES).await;
    let definition = json!({
        "source": { "category": "a" }, "mode": mode, "partitions": 4, "max_in_flight": 25, "max_deliveries": 1_000_000,
        "ack_timeout": "700ms", "backoff": ["10ms"], "consumer_timeout": "2s"
    });
    let sub = Sub::new(&app, "s", definition).await;
    let is_partitioned = mode == "partitioned";
    let mut random = fastrand::Rng::with_seed(seed);
    let mut seen = Seen::default();
    for _ in 0..STEPS {
        step(&sub, &mut seen, &mut random, is_partitioned).await;
    }
    // At the end one of them works through what is left.
    for consumer in ["w1", "w2"] {
        app.delete(&sub.path(&format!("/consumers/{consumer}"))).await;
    }
    seen.in_hand.clear();
    let deadline = Instant::now() + PATIENCE;
    while sub.status().await["committed_lag"] != 0 {
        assert!(Instant::now() < deadline, "{}", sub.status().await);
        let found = sub.fetch_with(json!({ "consumer": "w3", "wait": "100ms", "backlog": true })).await;
        if !found.is_empty() {
            seen.take_in("w3", found.clone(), is_partitioned);
            let answer = sub.ack("w3", &found).await;
            if answer.status == 200 && answer.json()["fenced"] == 0 && answer.json()["missing"] == 0 {
                found.iter().for_each(|message| seen.done(message));
            }
        }
    }
    let delivered: i64 = seen.delivered.values().sum();
    assert_eq!(delivered, MESSAGES as i64, "{mode}: something never came");
    app.stop().await;
}

#[tokio::test]
async fn a_walk_through_a_partitioned_subscription_loses_nothing() {
    for seed in seeds() {
        println!("seed {seed}");
        walk("partitioned", seed).await;
    }
}

#[tokio::test]
async fn a_walk_through_a_competing_subscription_loses_nothing() {
    for seed in seeds() {
        println!("seed {seed}");
        walk("competing", seed).await;
    }
}

/// Two that are always walked, and more on wish: `HEADWATER_TEST_WALKS=20`.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("HEADWATER_TEST_WALKS").ok().and_then(|count| count.parse().ok()).unwrap_or(2);
    0..count
}
