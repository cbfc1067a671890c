//! Rows on following.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::load::{Http, find, post};
use crate::peers::{Peer, Stand};
use crate::report::{Report, Times};

const OPEN: usize = 10_000;

pub async fn run(stand: &Stand, report: &mut Report, span: Duration) {
    crate::fan_out::run(stand, report, span).await;
    if report.wants("open connections") {
        open_connections(stand, report).await;
    }
    if report.wants("own streams") {
        own_streams(stand, report, span).await;
    }
    if report.wants("POST to frame") {
        post_to_frame(stand, report, span).await;
    }
}

/// What followers have seen.
#[derive(Default)]
pub struct Seen {
    deliveries: AtomicU64,
    pub times: Mutex<Times>,
    pub is_over: AtomicBool,
}

/// Reads events for ever. An event is a line `data: …`; where it is measured, it holds `"sent":<microseconds>`.
pub async fn follow(address: String, path: String, seen: Arc<Seen>, measures: bool, epoch: Instant) {
    let mut stream = TcpStream::connect(&address).await.expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; if measures { 64 << 10 } else { 16 << 10 }];
    let mut times = Times::default();
    let mut rest: Vec<u8> = Vec::new();
    while !seen.is_over.load(Ordering::Relaxed) {
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await;
        let Ok(read) = read else { continue };
        let Ok(count @ 1..) = read else { break };
        let now = epoch.elapsed();
        rest.extend_from_slice(&buffer[..count]);
        let mut events = 0;
        let mut at = 0;
        while let Some(found) = find(&rest[at..], b"\"sent\":") {
            let from = at + found + 7;
            let digits = rest[from..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b' ').count();
            if from + digits >= rest.len() {
                break;
            }
            events += 1;
            if measures {
                let text = std::str::from_utf8(&rest[from..from + digits]).unwrap().trim();
                times.add(now.saturating_sub(Duration::from_micros(text.parse().unwrap_or(0))));
            }
            at = from + digits;
        }
        let keep = at.max(rest.len().saturating_sub(32));
        rest.drain(..keep.min(rest.len()));
        seen.deliveries.fetch_add(events, Ordering::Relaxed);
    }
    seen.times.lock().await.join(times);
}

/// The data of a message that says when it was sent.
pub fn payload(epoch: Instant) -> String {
    // A space, because jsonb prints one: both sides are searched for the same text.
    format!(r#"{{"sent": {}, "note": "{:-<60}"}}"#, epoch.elapsed().as_micros(), "fan-out")
}

async fn open_connections(stand: &Stand, report: &mut Report) {
    let service = stand.service("open_connections").await;
    let before = service.resident_bytes();
    let held = open(&service.address, "/v1/streams/news-1/events", OPEN).await;
    let own = (service.resident_bytes() - before) as f64 / OPEN as f64 / 1_000.0;
    drop(held);
    drop(service);
    let beside = match Peer::nchan(stand).await {
        Some(nchan) => {
            let before = nchan.children_resident_bytes();
            let held = open(&nchan.address, "/sub", OPEN).await;
            let each = nchan.children_resident_bytes().saturating_sub(before) as f64 / OPEN as f64 / 1_000.0;
            drop(held);
            format!("Nchan {each:.1} kB")
        }
        None => "Nchan: skipped".into(),
    };
    report.row("open connections, 10,000: memory of each", format!("{own:.1} kB"), beside, "≤ 5 kB");
}

async fn open(address: &str, path: &str, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 256];
        assert!(stream.read(&mut first).await.unwrap() > 0);
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    held
}

async fn own_streams(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("own_streams").await;
    let epoch = Instant::now();
    let seen = Arc::new(Seen::default());
    let mut followers = Vec::with_capacity(OPEN);
    for n in 0..OPEN {
        let path = format!("/v1/streams/page-{n}/events");
        followers.push(tokio::spawn(follow(service.address.clone(), path, seen.clone(), true, epoch)));
        if n % 100 == 99 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = paced(
        &service.address,
        1_000,
        16,
        span,
        move |n| format!("/v1/streams/page-{}/messages", n * 7 % OPEN as u64),
        epoch,
    )
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    seen.is_over.store(true, Ordering::Relaxed);
    for follower in followers {
        let _ = follower.await;
    }
    let delivered = seen.deliveries.load(Ordering::Relaxed);
    let mut times = std::mem::take(&mut *seen.times.lock().await);
    report.row(
        "10,000 connections on own streams, 1,000 appends/s",
        times.show(),
        format!("{delivered} of {sent} delivered"),
        "p99 ≤ 20 ms",
    );
}

async fn post_to_frame(stand: &Stand, report: &mut Report, span: Duration) {
    let service = stand.service("post_to_frame").await;
    let epoch = Instant::now();
    let seen = Arc::new(Seen::default());
    let path = "/v1/streams/news-1/events".to_owned();
    let follower = tokio::spawn(follow(service.address.clone(), path, seen.clone(), true, epoch));
    tokio::time::sleep(Duration::from_millis(300)).await;
    paced(&service.address, 100, 1, span, |_| "/v1/streams/news-1/messages".into(), epoch).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    seen.is_over.store(true, Ordering::Relaxed);
    follower.await.unwrap();
    let mut times = std::mem::take(&mut *seen.times.lock().await);
    report.row("from POST to frame, 100/s, a stream", times.show(), String::new(), "p50 ≤ 2, p99 ≤ 5 ms");
}

/// Appends at a steady rate; returns how many.
pub async fn paced(
    address: &str,
    per_second: u64,
    connections: u64,
    span: Duration,
    path: impl Fn(u64) -> String + Send + Sync + 'static,
    epoch: Instant,
) -> u64 {
    let path = Arc::new(path);
    let begun = Instant::now();
    let interval = Duration::from_secs_f64(connections as f64 / per_second as f64);
    let tasks: Vec<_> = (0..connections)
        .map(|connection| {
            let (path, address) = (path.clone(), address.to_owned());
            tokio::spawn(async move {
                let mut http = Http::connect(&address).await;
                let mut ticks = tokio::time::interval(interval);
                let mut sent = 0;
                while begun.elapsed() < span {
                    ticks.tick().await;
                    let body = format!(r#"{{"messages":[{{"type":"Said","data":{}}}]}}"#, payload(epoch));
                    let request = post(&address, &path(sent * connections + connection), &body);
                    assert_eq!(http.send(&request).await.0, 201);
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    let mut sent = 0;
    for task in tasks {
        sent += task.await.unwrap();
    }
    sent
}
