//! Rows on subscriptions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::follows::{Seen, follow};
use crate::load::{Http, closed_loop, data, post};
use crate::peers::{Service, Stand, connect};
use crate::reads::fill;
use crate::report::{Report, Times, rate};

const MESSAGES: i64 = 200_000;
const IDLE: usize = 1_000;
const PENDING: i64 = 100_000;
const CONSUMERS: usize = 4;
const FAR_BEHIND: i64 = 5_000_000;
/// Subscriptions beside the one that is far behind.
const OTHERS: usize = 99;
/// The longest that counting it for the first time may take.
const COUNTING_MAX: Duration = Duration::from_secs(600);

pub async fn run(stand: &Stand, report: &mut Report, span: Duration) {
    if report.wants("subscription, partitioned") {
        consume(stand, report, "partitioned").await;
    }
    if report.wants("subscription, competing") {
        consume(stand, report, "competing").await;
    }
    if report.wants("idle subscriptions") {
        idle(stand, report, span).await;
    }
    if report.wants("fetch and ack beside pending") {
        beside_pending(stand, report).await;
    }
    if report.wants("far behind") {
        let stand = Stand::start_with_statistics().await;
        far_behind(&stand, report).await;
        stand.stop().await;
    }
}

/// Of a delivery, what an ack needs; the message itself is passed over.
#[derive(Deserialize)]
pub struct Delivery {
    partition: i64,
    position: i64,
    epoch: i64,
}

#[derive(Deserialize)]
struct Fetched {
    messages: Vec<Delivery>,
}

async fn define(service: &Service, name: &str, definition: &str) {
    let mut http = Http::connect(&service.address).await;
    let mut request = post(&service.address, &format!("/v1/subscriptions/{name}"), definition);
    request.splice(0..4, *b"PUT");
    let status = http.send(&request).await.0;
    assert_eq!(status, 201, "{}", http.text());
}

/// Four consumers that fetch and ack until all of history is acked.
async fn consume(stand: &Stand, report: &mut Report, mode: &'static str) {
    let service = stand.service(&format!("subscription_{mode}")).await;
    fill(&connect(&service.database_url).await, MESSAGES).await;
    let partitions = if mode == "partitioned" { r#""partitions":16,"# } else { "" };
    let definition = format!(
        r#"{{"source":{{"category":"account"}},"from":"beginning","mode":"{mode}",{partitions}"max_in_flight":10000}}"#
    );
    // The tail has to know of what SQL wrote before it counts.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    define(&service, "all", &definition).await;
    let limit = if mode == "partitioned" { 1_000 } else { 100 };
    let acked = Arc::new(AtomicI64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..CONSUMERS)
        .map(|n| {
            let (address, acked) = (service.address.clone(), acked.clone());
            tokio::spawn(async move {
                let mut http = Http::connect(&address).await;
                while acked.load(Ordering::SeqCst) < MESSAGES && begun.elapsed() < Duration::from_secs(60) {
                    let fetched = fetch(&mut http, &address, "all", n, limit).await;
                    acked.fetch_add(ack(&mut http, &address, "all", n, mode, &fetched).await, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(acked.load(Ordering::SeqCst), MESSAGES, "everything was acked once");
    let own = rate(MESSAGES as f64 / begun.elapsed().as_secs_f64());
    let (row, target) = match mode {
        "partitioned" => ("subscription, partitioned, batches acked", "≥ 25,000/s"),
        _ => ("subscription, competing, acks by the hundred", "≥ 10,000/s"),
    };
    report.row(row, own, format!("{CONSUMERS} consumers"), target);
}

pub async fn fetch(http: &mut Http, address: &str, subscription: &str, consumer: usize, limit: usize) -> Vec<Delivery> {
    // What was not acked is not asked for again: some rows fetch without acks.
    let body = format!(r#"{{"consumer":"w{consumer}","limit":{limit},"wait":"200ms","backlog":false}}"#);
    let (status, _) = http.send(&post(address, &format!("/v1/subscriptions/{subscription}/fetch"), &body)).await;
    assert_eq!(status, 200, "{}", http.text());
    serde_json::from_slice::<Fetched>(http.body()).unwrap().messages
}

/// Acks what was fetched; how many messages that were.
pub async fn ack(
    http: &mut Http,
    address: &str,
    subscription: &str,
    consumer: usize,
    mode: &str,
    fetched: &[Delivery],
) -> i64 {
    if fetched.is_empty() {
        return 0;
    }
    // An ack of a partition is cumulative: its last message stands for all.
    let is_last = |at: usize| fetched[at + 1..].iter().all(|later| later.partition != fetched[at].partition);
    let acks: Vec<String> = fetched
        .iter()
        .enumerate()
        .filter(|(at, _)| mode == "competing" || is_last(*at))
        .map(|(_, one)| {
            format!(r#"{{"partition":{},"position":{},"epoch":{}}}"#, one.partition, one.position, one.epoch)
        })
        .collect();
    let body = format!(r#"{{"consumer":"w{consumer}","acks":[{}]}}"#, acks.join(","));
    let (status, _) = http.send(&post(address, &format!("/v1/subscriptions/{subscription}/acks"), &body)).await;
    assert_eq!(status, 200, "{}", http.text());
    fetched.len() as i64
}

/// Appends beside subscriptions that wait for something else, and without them; each twice, in turns.
async fn idle(stand: &Stand, report: &mut Report, span: Duration) {
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0..4 {
        let service = stand.service(&format!("idle_{turn}")).await;
        let with = turn % 2;
        let seen = Arc::new(Seen::default());
        let mut waiting = Vec::new();
        for n in 0..IDLE * with {
            let definition = format!(r#"{{"source":{{"category":"other{n}"}},"mode":"partitioned","partitions":1}}"#);
            define(&service, &format!("idle-{n}"), &definition).await;
            let path = format!("/v1/subscriptions/idle-{n}/events?consumer=w");
            waiting.push(tokio::spawn(follow(service.address.clone(), path, seen.clone(), false, Instant::now())));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let address = service.address.clone();
        let body = format!(r#"{{"messages":[{{"type":"Deposited","data":{}}}]}}"#, data("one"));
        let (own, _) = closed_loop(&service.address, 64, span, 201, move |n| {
            post(&address, &format!("/v1/streams/account-{}/messages", n % 1_000), &body)
        })
        .await;
        rates[with].push(own);
        seen.is_over.store(true, Ordering::Relaxed);
        for task in waiting {
            task.await.unwrap();
        }
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let (without, with) = (best(&rates[0]), best(&rates[1]));
    report.row(
        "append, beside 1,000 idle subscriptions",
        rate(with),
        format!("{:.2} × without {}", with / without, rate(without)),
        "nothing measurable",
    );
}

/// Fetch and ack by one consumer while others have many messages pending, beside the same with none.
async fn beside_pending(stand: &Stand, report: &mut Report) {
    let mut medians = Vec::new();
    for pending in [0, PENDING] {
        let service = stand.service(&format!("beside_{pending}")).await;
        fill(&connect(&service.database_url).await, MESSAGES).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let definition = r#"{"source":{"category":"account"},"from":"beginning","mode":"competing",
            "max_in_flight":10000,"ack_timeout":"10m","consumer_timeout":"10m"}"#;
        define(&service, "all", definition).await;
        let mut http = Http::connect(&service.address).await;
        let taken = AtomicU64::new(0);
        let mut consumer = 100;
        while (taken.load(Ordering::Relaxed) as i64) < pending {
            let some = fetch(&mut http, &service.address, "all", consumer, 1_000).await;
            taken.fetch_add(some.len() as u64, Ordering::Relaxed);
            if some.is_empty() {
                consumer += 1;
            }
        }
        let mut times = Times::default();
        for _ in 0..300 {
            let begun = Instant::now();
            let some = fetch(&mut http, &service.address, "all", 0, 100).await;
            assert_eq!(some.len(), 100);
            ack(&mut http, &service.address, "all", 0, "competing", &some).await;
            times.add(begun.elapsed());
        }
        medians.push(times);
    }
    let (mut with, mut without) = (medians.pop().unwrap(), medians.pop().unwrap());
    report.row("fetch and ack beside pending 100,000", with.show(), format!("with none {}", without.show()), "flat");
}

/// The status of a subscription that is far behind, and the metrics with it and others.
async fn far_behind(stand: &Stand, report: &mut Report) {
    let service = stand.service("far_behind").await;
    fill(&connect(&service.database_url).await, FAR_BEHIND).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    stand.forget_statements().await;
    let definition = r#"{"source":{"category":"account"},"from":"beginning","mode":"partitioned","partitions":16}"#;
    define(&service, "far", definition).await;
    for n in 0..OTHERS {
        let definition = format!(r#"{{"source":{{"category":"other{n}"}},"mode":"partitioned","partitions":1}}"#);
        define(&service, &format!("near-{n}"), &definition).await;
    }
    let mut http = Http::connect(&service.address).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", service.address).into_bytes();
    let begun = Instant::now();
    loop {
        assert_eq!(http.send(&get("/v1/subscriptions/far")).await.0, 200, "{}", http.text());
        if http.text().contains(r#""lag_exact":true"#) {
            break;
        }
        assert!(begun.elapsed() < COUNTING_MAX, "its lag is never exact: {}", http.text());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let counted = begun.elapsed();
    assert!(http.text().contains(&format!(r#""committed_lag":{FAR_BEHIND}"#)), "{}", http.text());
    for (row, path) in [
        ("status of a subscription far behind", "/v1/subscriptions/far"),
        ("metrics, a subscription far behind", "/metrics"),
    ] {
        let mut times = Times::default();
        for _ in 0..500 {
            let begun = Instant::now();
            assert_eq!(http.send(&get(path)).await.0, 200, "{}", http.text());
            times.add(begun.elapsed());
        }
        report.row(row, times.show(), format!("first counted in {:.0} s", counted.as_secs_f64()), "p99 ≤ 50 ms");
    }
    let slowest = match stand.slowest_statement("far_behind").await {
        Some((time, text)) => (format!("{:.1} ms", time.as_secs_f64() * 1_000.0), text),
        None => ("skipped".to_owned(), "no pg_stat_statements".to_owned()),
    };
    report.row("slowest statement, a subscription far behind", slowest.0, slowest.1, "≤ 20 ms");
    let metrics = http.text();
    let shown = metrics.lines().filter(|line| line.starts_with("headwater_subscription_committed_lag{")).count();
    assert_eq!(shown, OTHERS + 1, "every subscription is in the metrics");
}
