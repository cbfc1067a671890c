//! Memory stays flat, whatever goes through: appends, followers, subscriptions, aggregated streams, keyed ones too.
//!
//! Half a minute, or as long as `HEADWATER_TEST_SOAK_FOR` (`1h`) says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::app::{Answer, PATIENCE};
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::{lasting, until};

const FOR_VARIABLE: &str = "HEADWATER_TEST_SOAK_FOR";
const FOR: Duration = Duration::from_secs(30);
/// How often memory is looked at in all.
const SAMPLES: usize = 120;
/// In the first part of the time caches and pools fill.
const WARM_UP: usize = SAMPLES / 3;
/// What memory may grow by in the rest of the time: buffers of the allocator come and go.
const GROWTH_MAX_KB: f64 = 16.0 * 1024.0;
const WRITERS: usize = 4;
const FOLLOWERS_OF_EACH: usize = 3;

/// The growth from the first sample to the last, by the median of the slopes of all pairs: single peaks count for little.
fn growth(samples: &[f64]) -> f64 {
    let mut slopes = Vec::new();
    for (at, before) in samples.iter().enumerate() {
        slopes.extend(
            samples.iter().enumerate().skip(at + 1).map(|(later, after)| (after - before) / (later - at) as f64),
        );
    }
    slopes.sort_by(f64::total_cmp);
    slopes[slopes.len() / 2] * (samples.len() - 1) as f64
}

#[test]
fn a_leak_is_told_from_noise() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut noise = move || random.f64() * 8_000.0;
    let flat: Vec<f64> = (0..80).map(|_| 90_000.0 + noise()).collect();
    assert!(growth(&flat).abs() < GROWTH_MAX_KB / 2.0, "{}", growth(&flat));
    let peak: Vec<f64> = flat.iter().enumerate().map(|(at, kb)| if at == 40 { kb * 4.0 } else { *kb }).collect();
    assert!(growth(&peak).abs() < GROWTH_MAX_KB / 2.0, "{}", growth(&peak));
    // 24 MB in all, hidden in noise of 8 MB.
    let leak: Vec<f64> = (0..80).map(|at| 90_000.0 + f64::from(at) * 307.2 + noise()).collect();
    assert!(growth(&leak) > GROWTH_MAX_KB, "{}", growth(&leak));
}

/// What all tasks share.
#[derive(Clone)]
struct Soak {
    url: String,
    http: Client,
    ends: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    followed: Arc<AtomicUsize>,
    acked: Arc<AtomicUsize>,
}

impl Soak {
    fn has_ended(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
    }

    async fn put(&self, path: &str, definition: Value) {
        let answer = self.http.put(format!("{}{path}", self.url)).json(&definition).send().await.unwrap();
        let answer = Answer::of(answer).await;
        assert_eq!(answer.status, 201, "{path}: {}", answer.text);
    }

    /// New streams and new keys all the time, as a store gets them.
    async fn write(self, writer: usize) {
        let mut number = 0_usize;
        while !self.has_ended() {
            let stream = format!("soak-{writer}x{}", number / 20);
            let message =
                json!({ "type": "Counted", "data": { "number": number, "key": format!("k{writer}-{}", number / 5) } });
            let path = format!("{}/v1/streams/{stream}/messages", self.url);
            let body = json!({ "messages": [message, { "type": "Other" }] });
            let answer = Answer::of(self.http.post(path).json(&body).send().await.unwrap()).await;
            assert_eq!(answer.status, 201, "{}", answer.text);
            self.written.fetch_add(2, Ordering::SeqCst);
            number += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Follows for a while, goes, and comes back.
    async fn follow(self, path: String) {
        while !self.has_ended() {
            let mut events = Events::open(&format!("{}{path}", self.url), &[]).await;
            let until = Instant::now() + Duration::from_secs(fastrand::u64(2..10));
            while Instant::now() < until && !self.has_ended() {
                let next = tokio::time::timeout(Duration::from_millis(200), events.next_block(PATIENCE)).await;
                if matches!(next, Ok(Some(event)) if event.is("message")) {
                    self.followed.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    async fn consume(self, subscription: &'static str, number: usize) {
        let path = |what: &str| format!("{}/v1/subscriptions/{subscription}/{what}", self.url);
        let consumer = format!("w{number}");
        while !self.has_ended() {
            let body = json!({ "consumer": consumer, "limit": 100, "wait": "500ms", "backlog": false });
            let answer = self.http.post(path("fetch")).json(&body).send().await.unwrap();
            let messages = Answer::of(answer).await.json()["messages"].as_array().unwrap().clone();
            if messages.is_empty() {
                continue;
            }
            let place = |one: &Value| json!({ "partition": one["partition"], "position": one["position"], "epoch": one["epoch"] });
            let acks: Vec<Value> = messages.iter().map(place).collect();
            let body = json!({ "consumer": consumer, "acks": acks });
            let answer = Answer::of(self.http.post(path("acks")).json(&body).send().await.unwrap()).await;
            assert!(answer.status == 200 || answer.status == 409, "{}", answer.text);
            self.acked.fetch_add(messages.len(), Ordering::SeqCst);
        }
    }

    async fn define(&self) {
        let modulo = json!({ "kind": "data", "pointer": "/number", "method": "modulo", "partitions": 4, "missing": 0 });
        self.put("/v1/aggregated-streams/numbers", json!({ "categories": ["soak"], "partitioner": modulo })).await;
        let key = json!({ "kind": "key", "of": "data", "pointer": "/key" });
        let keyed = json!({ "categories": ["soak"], "types": ["Counted"], "partitioner": key });
        self.put("/v1/aggregated-streams/keys", keyed).await;
        for (name, mode, source) in [
            ("partitioned", "partitioned", json!({ "category": "soak" })),
            ("competing", "competing", json!({ "category": "soak" })),
            ("aggregated", "partitioned", json!({ "aggregated_stream": "numbers" })),
        ] {
            self.put(&format!("/v1/subscriptions/{name}"), json!({ "source": source, "mode": mode })).await;
        }
    }

    fn start(&self) -> Vec<JoinHandle<()>> {
        let mut tasks: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(self.clone().write(writer))).collect();
        for path in [
            "/v1/all/events",
            "/v1/categories/soak/events?types=Counted",
            "/v1/streams/soak-0x1/events?from=beginning",
            "/v1/aggregated-streams/numbers/events",
            "/v1/aggregated-streams/keys/events?key=k0-1&key=k1-2&from=beginning",
        ] {
            tasks.extend((0..FOLLOWERS_OF_EACH).map(|_| tokio::spawn(self.clone().follow(path.to_owned()))));
        }
        for name in ["partitioned", "competing", "aggregated"] {
            tasks.extend((0..2).map(|number| tokio::spawn(self.clone().consume(name, number))));
        }
        tasks
    }
}

/// What a process has in memory, in kB.
fn memory_of(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it runs");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_while_everything_is_used() {
    let lasts = std::env::var(FOR_VARIABLE).map_or(FOR, |text| lasting(FOR_VARIABLE, &text));
    let database = TestDatabase::migrated().await;
    // Small caches, which are full soon.
    let service = ServiceProcess::start(&[
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        &database.url,
        "--cache-bytes-max",
        "1048576",
        "--aggregated-cache-bytes-max",
        "1048576",
    ]);
    let soak = Soak {
        url: service.url.clone(),
        http: http_client(),
        ends: Arc::default(),
        written: Arc::default(),
        followed: Arc::default(),
        acked: Arc::default(),
    };
    soak.define().await;
    let tasks = soak.start();
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        tokio::time::sleep(lasts / SAMPLES as u32).await;
        samples.push(memory_of(service.id()));
        if samples.len().is_multiple_of(SAMPLES / 6) {
            println!("{:.0} MB, {} messages", samples.last().unwrap() / 1024.0, soak.written.load(Ordering::SeqCst));
        }
    }
    // Everything was in use all the time: what is written gets to those who follow and consume.
    let (followed, acked) = (soak.followed.load(Ordering::SeqCst), soak.acked.load(Ordering::SeqCst));
    until("followers and consumers go on", PATIENCE, || {
        soak.followed.load(Ordering::SeqCst) > followed && soak.acked.load(Ordering::SeqCst) > acked
    })
    .await;
    soak.ends.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("a client does not fail");
    }
    let grown = growth(&samples[WARM_UP..]);
    println!(
        "{lasts:?}: {} written, {followed} followed, {acked} acked; {:.1} MB at the end, grown by {:.1} MB after the first third",
        soak.written.load(Ordering::SeqCst),
        samples.last().unwrap() / 1024.0,
        grown / 1024.0
    );
    assert!(service.stop().success());
    assert!(grown < GROWTH_MAX_KB, "memory has grown by {grown:.0} kB: {samples:?}");
}
