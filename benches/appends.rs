//! Rows on appending.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{closed_loop, data, post};
use crate::peers::{Peer, Service, Stand, connect, processor_time};
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
    if report.wants("append session, one client") {
        session(stand, report, span).await;
    }
}

/// Processor time that the service and its PostgreSQL use from now on.
struct Spent<'a> {
    stand: &'a Stand,
    service: &'a Service,
    before: (Duration, Duration),
}

impl<'a> Spent<'a> {
    fn begin(stand: &'a Stand, service: &'a Service) -> Self {
        Self { stand, service, before: (processor_time(service.id()), stand.postgres_time()) }
    }

    /// In microseconds for each of so many.
    fn each(&self, count: f64) -> String {
        let micros = |now: Duration, before: Duration| (now - before).as_secs_f64() * 1e6 / count;
        let service = micros(processor_time(self.service.id()), self.before.0);
        format!("{service:.1} µs, PostgreSQL {:.1} µs", micros(self.stand.postgres_time(), self.before.1))
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
    let spent = Spent::begin(stand, &service);
    let address = service.address.clone();
    let (own, mut times) = closed_loop(&service.address, CONNECTIONS, span, 201, move |n| {
        post(&address, &format!("/v1/streams/account-{}/messages", n % 1_000), &body())
    })
    .await;
    let spent = spent.each(times.len() as f64);
    drop(service);
    let peer = stand.pgbench("pgbench_one", &write_message("'account-' || :a"), CONNECTIONS, span).await;
    let peer = peer.map(|(tps, _)| tps);
    report.row("append, one category, 64 connections", rate(own), ratio(own, peer, "pgbench"), "≥ 10 ×");
    report.row("  its latency", times.show(), String::new(), "");
    report.row("  processor a message: the service's", spent, String::new(), "≤ 12 µs, ≤ 18 µs");
}

async fn many_categories(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("append_many").await;
    let spent = Spent::begin(stand, &service);
    let address = service.address.clone();
    let (own, times) = closed_loop(&service.address, CONNECTIONS, span, 201, move |n| {
        post(&address, &format!("/v1/streams/c{}-{}/messages", n % 200, n % 1_000), &body())
    })
    .await;
    let spent = spent.each(times.len() as f64);
    drop(service);
    let script = write_message("'c' || :b || '-' || :a");
    let peer = stand.pgbench("pgbench_many", &script, CONNECTIONS, span).await.map(|(tps, _)| tps);
    report.row("append, 200 categories, 64 connections", rate(own), ratio(own, peer, "pgbench"), "≥ 3 ×");
    report.row("  processor a message: the service's", spent, String::new(), "≤ 12 µs, ≤ 18 µs");
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
    let peer = copy(&stand.database("copy").await, span).await;
    let own = requests * BATCH as f64;
    let name = "append, 100 messages a request, 8 connections";
    report.row(name, rate(own), ratio(own, Some(peer), "COPY"), "≥ 60,000/s, ≥ 1.1 ×");
}

/// `COPY` of the same rows by the hundred, each hundred a transaction, from 8 connections.
async fn copy(url: &str, span: Duration) -> f64 {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..8)
        .map(|connection| {
            let url = url.to_owned();
            tokio::spawn(async move {
                let client = connect(&url).await;
                let data = data("batch").replace('\\', "\\\\");
                let sql = "COPY message_store.messages (id, stream_name, type, position, data) FROM STDIN";
                let statement = client.prepare(sql).await.unwrap();
                let mut count = 0;
                while begun.elapsed() < span {
                    let (stream, round) = (count / BATCH % 125, count / BATCH / 125);
                    let mut rows = String::with_capacity(200 * BATCH);
                    for at in 0..BATCH {
                        let id = uuid::Uuid::now_v7();
                        let position = round * BATCH + at;
                        rows +=
                            &format!("{id}\taccount-{}\tDeposited\t{position}\t{data}\n", connection * 125 + stream);
                    }
                    let mut sink = std::pin::pin!(client.copy_in::<_, bytes::Bytes>(&statement).await.unwrap());
                    sink.send(rows.into()).await.unwrap();
                    assert_eq!(sink.finish().await.unwrap(), BATCH as u64);
                    count += BATCH;
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

/// One client that sends as fast as it is read, and counts what is answered.
async fn session(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("append_session").await;
    let spent = Spent::begin(stand, &service);
    let (mut read, mut write) = TcpStream::connect(&service.address).await.unwrap().into_split();
    let head = format!(
        "POST /v1/streams/account-1/messages HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        service.address
    );
    write.write_all(head.as_bytes()).await.unwrap();
    let lines = format!("{{\"type\":\"Deposited\",\"data\":{}}}\n", data("session")).repeat(BATCH);
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    let begun = Instant::now();
    let writing = tokio::spawn(async move {
        while begun.elapsed() < span {
            write.write_all(chunk.as_bytes()).await.unwrap();
        }
        write.write_all(b"0\r\n\r\n").await.unwrap();
        write
    });
    let (mut count, mut commits, mut rest, mut buffer) = (0, 0, String::new(), vec![0; 64 << 10]);
    loop {
        let length = read.read(&mut buffer).await.unwrap();
        if length == 0 {
            break;
        }
        rest.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        while let Some((line, after)) = rest.split_once('\n') {
            if let Some((_, after)) = line.split_once("\"count\":") {
                count += after.split(',').next().unwrap().parse::<u64>().unwrap();
                commits += 1;
            }
            rest = after.to_owned();
        }
    }
    let own = count as f64 / begun.elapsed().as_secs_f64();
    drop(writing.await.unwrap());
    let beside = format!("{:.0} messages a commit", count as f64 / commits as f64);
    report.row("append session, one client", rate(own), beside, "≥ 20,000/s");
    report.row("  processor a message: the service's", spent.each(count as f64), String::new(), "");
}
