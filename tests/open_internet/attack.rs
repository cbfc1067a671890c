//! Under attack the service goes on serving the others, and its memory stays within what its settings say.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::insert_bulk;
use crate::support::app::{Answer, PATIENCE};
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;

const IDLE: usize = 20_000;
const HALF_OPEN: usize = 300;
const SLOW_WRITERS: usize = 100;
const SLOW_READERS: usize = 100;
/// What slow writers send of their bodies, and about what slow readers ask for: several times as much as may be held.
const WRITTEN_BYTES: usize = 1_500_000;
const PAGE_MESSAGES: i64 = 300;
const MESSAGE_BYTES: i32 = 10_000;
const BODIES_BYTES_MAX: usize = 32 << 20;
/// The service without clients, bodies that are held, pages that the pool reads at the same time, buffers of 100 writers
/// and 100 readers, and some kB for each of the idle.
const RESIDENT_MAX_KB: u64 = 400 << 10;

/// Raises the limit of open files, and says how many idle connections that leaves room for, in the service too.
fn idle_connections() -> usize {
    let wanted = (IDLE + 2_000) as libc::rlim_t;
    // SAFETY: the structure is filled by the first call before it is read.
    let limit = unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        let raised = libc::rlimit { rlim_cur: wanted.max(limit.rlim_max), rlim_max: wanted.max(limit.rlim_max) };
        // Refused without the right to; what the hard limit allows is taken then.
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) != 0 {
            libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
        }
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur
    };
    IDLE.min((limit as usize).saturating_sub(2_000))
}

/// The most memory that a process has had, in kB.
fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Connections from several addresses of this machine, each with what it sends at first.
async fn connect(url: &str, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut open = Vec::new();
    for number in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, (2 + number % 4) as u8], 0).into()).unwrap();
        let connecting = tokio::time::timeout(PATIENCE, socket.connect(address));
        let mut socket = connecting.await.expect("connections are accepted").unwrap();
        let _ = tokio::time::timeout(Duration::from_secs(1), socket.write_all(first)).await;
        open.push(socket);
    }
    open
}

/// Somebody who means no harm appends, and what is appended reaches who followed before and who follows only now.
async fn others_are_served(service: &ServiceProcess, number: i64, before: &mut Events) {
    let mut now = Events::open(&format!("{}/v1/streams/account-1/events", service.url), &[]).await;
    now.next("caught-up").await;
    let body = json!({ "messages": [{ "type": "Deposited", "data": { "number": number } }] });
    let url = format!("{}/v1/streams/account-1/messages", service.url);
    let answer = Answer::of(http_client().post(&url).json(&body).send().await.unwrap()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    for events in [before, &mut now] {
        assert_eq!(events.next("message").await.json()["data"]["number"], number);
    }
    let page = Answer::of(http_client().get(format!("{url}?from=0")).send().await.unwrap()).await;
    assert_eq!(page.json()["messages"].as_array().unwrap().len() as i64, number + 1);
}

#[tokio::test]
async fn slow_readers_slow_writers_half_open_and_idle_connections_hinder_nobody() {
    let database = TestDatabase::migrated().await;
    insert_bulk(&database, "bulk-1", PAGE_MESSAGES, MESSAGE_BYTES).await;
    let idle = idle_connections();
    println!("{idle} idle connections");
    let service = ServiceProcess::start(&[
        "--database-url",
        &database.url,
        "--listen",
        "127.0.0.1:0",
        "--bodies-bytes-max",
        &BODIES_BYTES_MAX.to_string(),
        "--page-bytes-max",
        "4194304",
        // So that none of the attackers is gone before all are there.
        "--request-timeout",
        "5m",
        "--write-timeout",
        "5m",
    ]);
    let mut before = Events::open(&format!("{}/v1/streams/account-1/events", service.url), &[]).await;
    before.next("caught-up").await;
    others_are_served(&service, 0, &mut before).await;

    let mut attackers = Vec::new();
    let head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n";
    let mut post = format!("POST /v1/streams/bulk-1/messages HTTP/1.1\r\n{head}").into_bytes();
    post.resize(post.len() + WRITTEN_BYTES, b' ');
    for (number, (count, first)) in [
        (SLOW_WRITERS, &post[..]),
        (SLOW_READERS, b"GET /v1/streams/bulk-1/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (HALF_OPEN, b"GET /v1/all/messages HTTP/1.1\r\nHost: loc"),
        (HALF_OPEN, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (
            HALF_OPEN,
            b"POST /v1/streams/bulk-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
            Transfer-Encoding: chunked\r\n\r\n",
        ),
        (HALF_OPEN, b"GET /v1/all/events HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (idle, b""),
    ]
    .into_iter()
    .enumerate()
    {
        attackers.push(connect(&service.url, count, first).await);
        others_are_served(&service, number as i64 + 1, &mut before).await;
    }
    let peak = peak_kb(service.id());
    println!("{peak} kB at most");
    assert!(peak < RESIDENT_MAX_KB, "{peak} kB");
    // All at once.
    drop(attackers);
    others_are_served(&service, 8, &mut before).await;
    drop(before);
    assert!(service.stop().success());
}
