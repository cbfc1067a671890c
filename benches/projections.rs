//! Rows on aggregated streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::follows::{Seen, follow, paced};
use crate::load::{Http, closed_loop, data, post};
use crate::peers::{Service, Stand, connect};
use crate::reads::fill;
use crate::report::{Report, rate};

const MESSAGES: i64 = 400_000;
const KEYED_MESSAGES: i64 = 1_000_000;
const DEFINITIONS: usize = 50;
const CONNECTIONS: usize = 64;

pub async fn run(stand: &Stand, report: &mut Report, span: Duration) {
    if report.wants("projection, catching up") {
        catching_up(stand, report).await;
    }
    if report.wants("projection, catching up, keyed") {
        catching_up_keyed(stand, report).await;
    }
    if report.wants("POST to frame, aggregated") {
        post_to_frame(stand, report, span).await;
    }
    if report.wants("definitions that match nothing") {
        matching_nothing(stand, report, span).await;
    }
}

async fn define(service: &Service, name: &str, definition: &str) {
    let mut http = Http::connect(&service.address).await;
    let mut request = post(&service.address, &format!("/v1/aggregated-streams/{name}"), definition);
    request.splice(0..4, *b"PUT");
    assert_eq!(http.send(&request).await.0, 201);
}

/// From the definition until all of history is projected.
async fn catching_up(stand: &Stand, report: &mut Report) {
    for (database, row, partitioner) in [
        ("catching_up_id", "projection, catching up, by cardinal id", r#"{"kind":"cardinal_id","partitions":16}"#),
        (
            "catching_up_cel",
            "projection, catching up, by a CEL expression",
            r#"{"kind":"cel","expression":"data.amount % 16"}"#,
        ),
    ] {
        let service = stand.service(database).await;
        let client = connect(&service.database_url).await;
        fill(&client, MESSAGES).await;
        let begun = Instant::now();
        define(&service, "all", &format!(r#"{{"categories":["account"],"partitioner":{partitioner}}}"#)).await;
        let sum = "SELECT coalesce(sum(message_count), 0)::bigint FROM headwater.aggregated_partitions";
        while client.query_one(sum, &[]).await.unwrap().get::<_, i64>(0) < MESSAGES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = begun.elapsed();
        report.row(row, rate(MESSAGES as f64 / took.as_secs_f64()), String::new(), "≥ 40,000/s");
    }
}

/// A million keys, and then a thousand.
async fn catching_up_keyed(stand: &Stand, report: &mut Report) {
    let service = stand.service("catching_up_keyed").await;
    let client = connect(&service.database_url).await;
    let numbered = format!(
        "INSERT INTO message_store.messages (stream_name, type, position, data) SELECT 'account-' || n % 1000, 'Deposited', \
         n / 1000, jsonb_build_object('sku', n, 'shop', n % 1000, 'note', rpad('fill', 54, '-')) \
         FROM generate_series(0, {KEYED_MESSAGES} - 1) AS n; ANALYZE message_store.messages"
    );
    client.batch_execute(&numbered).await.unwrap();
    for (name, row) in [
        ("sku", "projection, catching up, keyed: every message a new key"),
        ("shop", "projection, catching up, keyed: a thousand keys"),
    ] {
        let begun = Instant::now();
        let key = format!(r#"{{"kind":"key","of":"data","pointer":"/{name}"}}"#);
        define(&service, name, &format!(r#"{{"categories":["account"],"partitioner":{key}}}"#)).await;
        let projected = "SELECT min(projected_position) FROM headwater.projections WHERE is_current";
        while client.query_one(projected, &[]).await.unwrap().get::<_, i64>(0) < KEYED_MESSAGES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = begun.elapsed();
        report.row(row, rate(KEYED_MESSAGES as f64 / took.as_secs_f64()), String::new(), "≥ 40,000/s");
    }
}

async fn post_to_frame(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("post_to_partition").await;
    define(&service, "news", r#"{"categories":["news"],"partitioner":{"kind":"cardinal_id","partitions":4}}"#).await;
    let epoch = Instant::now();
    let seen = Arc::new(Seen::default());
    let path = "/v1/aggregated-streams/news/events".to_owned();
    let follower = tokio::spawn(follow(service.address.clone(), path, seen.clone(), true, epoch));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let path = |n| format!("/v1/streams/news-{}/messages", n % 100);
    paced(&service.address, 100, 1, span, path, epoch).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    seen.is_over.store(true, Ordering::Relaxed);
    follower.await.unwrap();
    let mut times = std::mem::take(&mut *seen.times.lock().await);
    report.row("from POST to frame, aggregated, 100/s", times.show(), String::new(), "p50 ≤ 4, p99 ≤ 10 ms");
}

/// The rate of appends with fifty definitions beside the rate without any; each twice, in turns.
async fn matching_nothing(stand: &Stand, report: &mut Report, span: Duration) {
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0..4 {
        let service = stand.service(&format!("matching_nothing_{turn}")).await;
        let with = turn % 2;
        for n in 0..DEFINITIONS * with {
            let definition = match n % 3 {
                0 => format!(r#"{{"categories":["other{n}"],"partitioner":{{"kind":"constant"}}}}"#),
                1 => format!(r#"{{"stream_wildcards":["other{n}-%"],"partitioner":{{"kind":"constant"}}}}"#),
                _ => format!(r#"{{"types":["Other{n}"],"partitioner":{{"kind":"stream","partitions":8}}}}"#),
            };
            define(&service, &format!("nothing-{n}"), &definition).await;
        }
        let address = service.address.clone();
        let body = format!(r#"{{"messages":[{{"type":"Deposited","data":{}}}]}}"#, data("one"));
        let (own, _) = closed_loop(&service.address, CONNECTIONS, span, 201, move |n| {
            post(&address, &format!("/v1/streams/account-{}/messages", n % 1_000), &body)
        })
        .await;
        rates[with].push(own);
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let (without, with) = (best(&rates[0]), best(&rates[1]));
    report.row(
        "append, beside 50 definitions that match nothing",
        rate(with),
        format!("{:.2} × without {}", with / without, rate(without)),
        "nothing measurable",
    );
}
