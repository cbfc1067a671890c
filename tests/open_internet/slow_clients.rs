//! Clients that take nothing of their answers, or send their bodies for ever, hold neither a connection nor memory.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use headwater::domain::observation::{Observation, Stalled};

use super::insert_bulk;
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::raw_http::RawHttp;
use crate::support::waiting::eventually;

const PAGE: &[u8] = b"GET /v1/streams/bulk-1/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Larger than what two kernels keep of it for a client that does not read.
const PAGE_MESSAGES: i64 = 900;
const MESSAGE_BYTES: i32 = 10_000;

/// A client with little room for what it does not read.
async fn reluctant(app: &TestApp) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(app.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

async fn with_bulk(change: impl FnOnce(&mut headwater::config::Settings)) -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    insert_bulk(&database, "bulk-1", PAGE_MESSAGES, MESSAGE_BYTES).await;
    let app = TestApp::with(&database.url, change).await;
    (database, app)
}

#[tokio::test]
async fn a_client_that_never_reads_its_page_loses_its_connection() {
    let (_database, app) = with_bulk(|settings| settings.write_timeout = Duration::from_millis(500)).await;
    let mut watcher = app.service.observer.watch();
    let mut socket = reluctant(&app).await;
    socket.write_all(PAGE).await.unwrap();
    TestApp::observed(&mut watcher, "the connection to be given up", |what| {
        matches!(what, Observation::ClientStalled { what: Stalled::Connection })
    })
    .await;
    // What the kernels had is there still; the rest never comes.
    let mut read = Vec::new();
    let reading = socket.read_to_end(&mut read);
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the connection is closed");
    assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(read.len() < PAGE_MESSAGES as usize * MESSAGE_BYTES as usize, "{} bytes", read.len());
    app.stop().await;
}

#[tokio::test]
async fn many_small_answers_that_are_not_read_end_the_connection_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.write_timeout = Duration::from_millis(500)).await;
    let mut watcher = app.service.observer.watch();
    let socket = reluctant(&app).await;
    let (_unread, mut sending) = socket.into_split();
    let sender = tokio::spawn(async move {
        let request = b"GET /console/vendor/uplot/LICENSE HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
        while sending.write_all(&request).await.is_ok() {}
    });
    TestApp::observed(&mut watcher, "the connection to be given up", |what| {
        matches!(what, Observation::ClientStalled { what: Stalled::Connection })
    })
    .await;
    tokio::time::timeout(PATIENCE, sender).await.expect("the connection is closed").unwrap();
    app.stop().await;
}

#[tokio::test]
async fn a_slow_client_that_reads_gets_all_of_its_page() {
    let (_database, app) = with_bulk(|settings| settings.write_timeout = Duration::from_secs(2)).await;
    let expected = app.get("/v1/streams/bulk-1/messages?limit=1000").await.text.len();
    let mut socket = reluctant(&app).await;
    socket
        .write_all(
            b"GET /v1/streams/bulk-1/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    // Longer than the time to write in all, never for as long at once.
    let (mut read, mut chunk, begun) = (0, vec![0; 512 << 10], tokio::time::Instant::now());
    loop {
        match tokio::time::timeout(PATIENCE, socket.read(&mut chunk)).await.unwrap().unwrap() {
            0 => break,
            count => read += count,
        }
        // 2.5 MB a second: what a slow machine delays is made up for.
        tokio::time::sleep_until(begun + Duration::from_nanos(read as u64 * 400)).await;
    }
    assert!(read > expected, "{read} bytes of {expected} and a head");
    app.stop().await;
}

#[tokio::test]
async fn followers_may_be_as_slow_as_they_like_over_http_2_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.write_timeout = Duration::from_millis(300)).await;
    crate::support::http_client(); // installs the provider of TLS
    let client =
        reqwest::Client::builder().http2_prior_knowledge().http2_initial_stream_window_size(1 << 10).build().unwrap();
    let mut slow = Events::of(client.get(format!("{}/v1/all/events", app.url)).send().await.unwrap()).await;
    slow.next("caught-up").await;
    for number in 0..200 {
        app.write("account-1", "Written", json!({ "n": number, "text": "x".repeat(500) })).await;
    }
    // Several times as long as an answer may wait.
    let mut watcher = app.service.observer.watch();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for number in 0..200 {
        assert_eq!(slow.next("message").await.json()["data"]["n"], number);
    }
    while let Ok(what) = watcher.try_recv() {
        assert!(!matches!(what, Observation::ClientStalled { .. }), "{what:?}");
    }
    drop((slow, client));
    app.stop().await;
}

#[tokio::test]
async fn answers_that_nobody_takes_make_room_for_those_that_are_taken() {
    let (_database, app) = with_bulk(|settings| {
        settings.bodies_bytes_max = 20 << 20;
        settings.write_timeout = Duration::from_secs(60);
    })
    .await;
    let mut unread = Vec::new();
    for _ in 0..6 {
        let mut socket = reluctant(&app).await;
        socket.write_all(PAGE).await.unwrap();
        unread.push(socket);
    }
    // Two of the six fit, and the rest were refused, or take the place of those that have stalled by then.
    eventually("a page", async || {
        (app.get("/v1/streams/bulk-1/messages?limit=1000").await.status == 200).then_some(())
    })
    .await;
    eventually("answers that were refused or let go of", async || {
        let refused = app.metric("headwater_bodies_refused_total").await;
        let stalled = app.metric("headwater_clients_stalled_total{gave_up=\"answer\"}").await;
        (refused + stalled >= 1.0).then_some(())
    })
    .await;
    // What is small needs no room.
    app.write("account-1", "Written", json!({})).await;
    drop(unread);
    app.stop().await;
}

#[tokio::test]
async fn bodies_that_do_not_come_make_room_for_those_that_do() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.bodies_bytes_max = 3 << 20).await;
    let head = "POST /v1/streams/account-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 4000000\r\n\r\n";
    let mut halves = Vec::new();
    for _ in 0..2 {
        let mut raw = RawHttp::connect(&app.url).await;
        raw.send(head.as_bytes()).await;
        raw.send(&vec![b' '; 1_400_000]).await;
        halves.push(raw);
    }
    let large = json!({ "messages": [{ "type": "T", "data": "x".repeat(900_000) }] });
    // At once there is no room; a second later those that have stalled make it.
    eventually("the append", async || (app.append("account-2", &large).await.status == 201).then_some(())).await;
    // The one that has stalled for longer goes: the service may have read the second to its end first.
    let [first, second] = &mut halves[..] else { unreachable!("there are two") };
    let answer = tokio::select! {
        answer = first.answer() => answer,
        answer = second.answer() => answer,
    };
    let answer = answer.expect("an answer");
    assert_eq!(answer.problem(503, "overloaded")["setting"], "--bodies-bytes-max");
    drop(halves);
    app.stop().await;
}
