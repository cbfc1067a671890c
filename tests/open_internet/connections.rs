//! So many connections may be open, in all and from one address; what comes beyond is told so and costs nothing.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::raw_http::RawHttp;
use crate::support::waiting::eventually;

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A connection from this address, which has been accepted: it has been answered.
async fn answered(app: &TestApp, from: [u8; 4]) -> (RawHttp, Answer) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let address = app.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut raw = RawHttp::of(socket.connect(address).await.unwrap());
    raw.send(LIVEZ).await;
    let answer = raw.answer().await.expect("an answer");
    (raw, answer)
}

#[track_caller]
fn assert_refused(answer: &Answer, setting: &str) {
    let problem = answer.problem(503, "overloaded");
    assert_eq!(problem["setting"], setting);
    assert!(problem["detail"].as_str().unwrap().contains(setting), "{problem}");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["connection"], "close");
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_a_place_is_free_when_one_ends() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.connections_max = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (raw, answer) = answered(&app, [127, 0, 0, 1]).await;
        assert_eq!(answer.status, 200);
        open.push(raw);
    }
    for from in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let (mut raw, answer) = answered(&app, from).await;
        assert_refused(&answer, "--connections-max");
        raw.closed(PATIENCE).await;
    }
    // Those that are open are served as ever.
    open[1].send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let metrics = open[1].answer().await.unwrap().text;
    assert!(metrics.contains("headwater_connections 3\n"), "{metrics}");
    assert!(metrics.contains("headwater_connections_refused_total 2\n"), "{metrics}");
    drop(open.pop());
    eventually("a free place", async || (answered(&app, [127, 0, 0, 1]).await.1.status == 200).then_some(())).await;
    drop(open);
    app.stop().await;
}

#[tokio::test]
async fn one_address_takes_no_more_than_its_share_and_0_is_no_share() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.connections_per_address_max = 2).await;
    let first = answered(&app, [127, 0, 0, 1]).await;
    let second = answered(&app, [127, 0, 0, 1]).await;
    assert_eq!((first.1.status, second.1.status), (200, 200));
    assert_refused(&answered(&app, [127, 0, 0, 1]).await.1, "--connections-per-address-max");
    assert_eq!(answered(&app, [127, 0, 0, 2]).await.1.status, 200);
    drop((first, second));
    app.stop().await;

    let app = TestApp::with(&database.url, |settings| settings.connections_per_address_max = 0).await;
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(answered(&app, [127, 0, 0, 1]).await);
    }
    assert!(open.iter().all(|(_, answer)| answer.status == 200));
    drop(open);
    app.stop().await;
}

#[tokio::test]
async fn event_streams_count_like_all_connections() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.connections_max = 2).await;
    let mut events = Vec::new();
    for _ in 0..2 {
        let mut raw = RawHttp::connect(&app.url).await;
        raw.send(b"GET /v1/all/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
        events.push(raw);
    }
    assert_refused(&answered(&app, [127, 0, 0, 1]).await.1, "--connections-max");
    drop(events);
    eventually("a free place", async || (answered(&app, [127, 0, 0, 1]).await.1.status == 200).then_some(())).await;
    app.stop().await;
}

/// More of them than are told why, none of which reads or goes away.
#[tokio::test]
async fn refused_connections_that_stay_are_closed() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.connections_max = 1).await;
    let (held, answer) = answered(&app, [127, 0, 0, 1]).await;
    assert_eq!(answer.status, 200);
    let mut refused = Vec::new();
    for _ in 0..200 {
        let mut socket = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
        let _ = socket.write_all(LIVEZ).await;
        refused.push(RawHttp::of(socket));
    }
    for raw in &mut refused {
        raw.closed(PATIENCE).await;
    }
    drop(held);
    eventually("a free place", async || (answered(&app, [127, 0, 0, 1]).await.1.status == 200).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_time_for_a_request() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.request_timeout = Duration::from_millis(300)).await;
    for begun in [&b""[..], b"\r\n", b"G", b"PRI * HTTP/2.0\r\n", b"GET /v1/all/events HTTP/1.1\r\nHost: "] {
        let mut raw = RawHttp::connect(&app.url).await;
        raw.send(begun).await;
        raw.closed(PATIENCE).await;
    }
    // Between two requests, too.
    let (mut raw, _) = answered(&app, [127, 0, 0, 1]).await;
    raw.closed(PATIENCE).await;
    eventually("all have ended", async || (app.metric("headwater_connections").await <= 1.0).then_some(())).await;
    app.write("a-1", "T", json!({})).await;
    app.stop().await;
}
