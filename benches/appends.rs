//! Rows on appending.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{closed_loop, data, post};
use crate::peers::{Peer, Stand};
use crate::report::{Report, Times, rate, ratio};

const CONNECTIONS: usize = 64;
const BATCH: usize = 100;

pub async fn run(stand: &Stand, report: &mut Report, span: Duration) {
    if report.wants("append, one category") {
        one_category(stand, report, span).await;
    }
    if report.wants("append, 200 categories") {
        many_categories(stand, report, span).await;
    }
    if report.wants("append, 100 messages a request") {
        batches(stand, report, span).await;
    }
    if report.wants("append, one client") {
        one_client(stand, report, span).await;
    }
}

fn body() -> String {
    format!(r#"{{"messages":[{{"type":"Deposited","data":{}}}]}}"#, data("one"))
}

fn write_message(stream: &str) -> String {
    format!(
        "\\set a random(1, 1000)\n\\set b random(1, 200)\nSELECT message_store.write_message(\
         gen_random_uuid()::varchar, {stream}, 'Deposited', '{}'::jsonb);\n",
        data("one")
    )
}

async fn one_category(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("append_one").await;
    let address = service.address.clone();
    let (own, mut times) = closed_loop(&service.address, CONNECTIONS, span, 201, move |n| {
        post(&address, &format!("/v1/streams/account-{}/messages", n % 1_000), &body())
    })
    .await;
    drop(service);
    let peer = stand.pgbench("pgbench_one", &write_message("'account-' || :a"), CONNECTIONS, span).await;
    let peer = peer.map(|(tps, _)| tps);
    report.row("append, one category, 64 connections", rate(own), ratio(own, peer, "pgbench"), "≥ 10 ×");
    report.row("  its latency", times.show(), String::new(), "");
}

async fn many_categories(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("append_many").await;
    let address = service.address.clone();
    let (own, _) = closed_loop(&service.address, CONNECTIONS, span, 201, move |n| {
        post(&address, &format!("/v1/streams/c{}-{}/messages", n % 200, n % 1_000), &body())
    })
    .await;
    drop(service);
    let script = write_message("'c' || :b || '-' || :a");
    let peer = stand.pgbench("pgbench_many", &script, CONNECTIONS, span).await.map(|(tps, _)| tps);
    report.row("append, 200 categories, 64 connections", rate(own), ratio(own, peer, "pgbench"), "≥ 3 ×");
    let redis = match Peer::redis(stand).await {
        Some(redis) => Some(xadd(&redis.address, span).await),
        None => None,
    };
    report.row("append, 200 categories beside Redis", rate(own), ratio(own, redis, "XADD always"), "≥ 0.7 ×");
}

/// `XADD` from 64 connections to 1,000 streams, one at a time.
async fn xadd(address: &str, span: Duration) -> f64 {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(&address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let data = data("one");
                let mut answer = [0; 256];
                let mut count = 0;
                while begun.elapsed() < span {
                    let key = format!("account-{}", (count * CONNECTIONS + connection) % 1_000);
                    let words = ["XADD", &key, "*", "data", &data];
                    let mut request = format!("*{}\r\n", words.len());
                    for word in words {
                        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
                    }
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let read = stream.read(&mut answer).await.unwrap();
                    assert_eq!(answer[0], b'$', "{}", String::from_utf8_lossy(&answer[..read]));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn batches(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("append_batches").await;
    let message = format!(r#"{{"type":"Deposited","data":{}}}"#, data("batch"));
    let body = format!(r#"{{"messages":[{}]}}"#, vec![message; BATCH].join(","));
    let address = service.address.clone();
    let (requests, _) = closed_loop(&service.address, 8, span, 201, move |n| {
        post(&address, &format!("/v1/streams/account-{}/messages", n % 1_000), &body)
    })
    .await;
    drop(service);
    let script = format!(
        "\\set a random(1, 1000)\nSELECT headwater.append_batch(ARRAY['account-' || :a], ARRAY[NULL]::bigint[], \
         ARRAY[false], ARRAY[{BATCH}], array_fill(1, ARRAY[{BATCH}]), (SELECT array_agg(g) FROM generate_series(0, {last}) g), \
         array_fill('account-' || :a, ARRAY[{BATCH}]), (SELECT array_agg(gen_random_uuid()) FROM generate_series(1, {BATCH})), \
         array_fill('Deposited'::text, ARRAY[{BATCH}]), array_fill('{data}'::text, ARRAY[{BATCH}]), \
         array_fill(NULL::text, ARRAY[{BATCH}]), array_fill(NULL::timestamp, ARRAY[{BATCH}]), NULL, ARRAY[]::uuid[], true);\n",
        last = BATCH - 1,
        data = data("batch"),
    );
    let peer = stand.pgbench("pgbench_batches", &script, 8, span).await.map(|(tps, _)| tps * BATCH as f64);
    let own = requests * BATCH as f64;
    let name = "append, 100 messages a request, 8 connections";
    report.row(name, rate(own), ratio(own, peer, "pgbench"), "≥ 60,000/s, ≥ 0.9 ×");
}

async fn one_client(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("append_alone").await;
    let address = service.address.clone();
    let (_, mut times): (f64, Times) = closed_loop(&service.address, 1, span, 201, move |n| {
        post(&address, &format!("/v1/streams/account-{}/messages", n % 1_000), &body())
    })
    .await;
    drop(service);
    let peer = stand.pgbench("pgbench_alone", &write_message("'account-' || :a"), 1, span).await;
    let own = times.percentile(50.0);
    let beside = peer.map_or("pgbench: skipped".into(), |(_, latency)| {
        format!("{:.2} × pgbench {:.2} ms", own.as_secs_f64() / latency.as_secs_f64(), latency.as_secs_f64() * 1e3)
    });
    report.row("append, one client, one at a time", times.show(), beside, "p50 ≤ 2 × (pgbench: mean)");
}
