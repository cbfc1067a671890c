//! How an instance leaves: its balancers are told first, and connections end in order.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::app::{PATIENCE, TestApp};
use crate::support::certificate::PemPair;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::http_client;
use crate::support::raw_http::RawHttp;
use crate::support::raw_http2::{DATA, GOAWAY, HEADERS, RawHttp2};
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::eventually;

const GET: &[u8] = b"GET /v1/streams/a-1/messages HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn an_instance_that_leaves_says_so_and_serves_on_until_it_stops() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut kept = RawHttp::connect(&app.url).await;
    kept.send(GET).await;
    let before = kept.answer().await.unwrap();
    assert!(!before.headers.contains_key("connection"), "{before:?}");
    let mut open = app.follow("/v1/all/events").await;
    open.next("caught-up").await;
    assert_eq!(app.get("/readyz").await.status, 200);

    app.leave();
    app.get("/readyz").await.problem(503, "draining");
    assert_eq!(app.get("/livez").await.status, 200);
    // The answer is the connection's last: a balancer sends nothing more on it.
    kept.send(GET).await;
    let last = kept.answer().await.unwrap();
    assert_eq!((last.status, &last.headers["connection"]), (200, &"close".parse().unwrap()));
    kept.closed(PATIENCE).await;
    // New ones are served all the same, appends and event streams too.
    let mut new = app.follow("/v1/all/events").await;
    new.next("caught-up").await;
    app.write("a-1", "Written", json!({})).await;
    for events in [&mut open, &mut new] {
        events.next("message").await;
    }

    app.drain();
    for events in [&mut open, &mut new] {
        let closing = events.blocks_until("closing").await;
        assert_eq!(closing.last().unwrap().json(), json!({ "reason": "draining" }));
        assert!(closing.iter().filter_map(|block| block.retry).all(|retry| (1_000..=6_000).contains(&retry)));
    }
    app.stop().await;
}

#[tokio::test]
async fn an_http2_connection_is_told_to_go_after_what_it_has_asked_was_answered() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    connection.get(1, "/v1/streams/a-1/messages").await;
    connection.next(DATA).await.unwrap();
    app.leave();
    // Answered, and the connection goes on.
    connection.get(3, "/v1/streams/a-1/messages").await;
    assert_eq!(connection.next(HEADERS).await.unwrap().stream, 3);
    connection.next(DATA).await.unwrap();
    connection.get(5, "/v1/streams/a-1/messages?wait=30s").await;
    app.drain();
    // First without a limit, so that nothing that is on its way is lost.
    let going = connection.next(GOAWAY).await.unwrap();
    assert_eq!((going.error_code(), &going.payload[..4]), (0, &[0x7f, 0xff, 0xff, 0xff][..]));
    assert_eq!(connection.next(HEADERS).await.unwrap().stream, 5);
    drop(connection);
    app.stop().await;
}

/// Less than the time that open connections have to end, and more than a busy machine takes.
const AT_ONCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn connections_on_which_nothing_was_asked_hold_up_no_stop() {
    let directory = temporary_dir();
    let pair = PemPair::make(directory.path(), "own");
    let database = TestDatabase::migrated().await;
    for is_encrypted in [false, true] {
        let app = TestApp::with(&database.url, |settings| {
            settings.drain_timeout = 2 * PATIENCE;
            settings.tls_certificate = is_encrypted.then(|| pair.certificate.clone());
            settings.tls_key = is_encrypted.then(|| pair.key.clone());
        })
        .await;
        let address = app.url.split_once("://").unwrap().1.to_owned();
        let silent = TcpStream::connect(&address).await.unwrap();
        let mut begun = TcpStream::connect(&address).await.unwrap();
        let beginning: &[u8] = if is_encrypted { &[0x16, 0x03, 0x01] } else { b"GET /livez HTTP/1.1\r\nHost:" };
        begun.write_all(beginning).await.unwrap();
        // Accepted after those.
        let client = pair.client().build().unwrap();
        let alive = client.get(format!("{}/livez", app.url)).send().await.unwrap();
        assert_eq!(alive.status(), 200);
        tokio::time::timeout(AT_ONCE, app.stop()).await.unwrap_or_else(|_| panic!("held up; TLS: {is_encrypted}"));
        drop((silent, begun));
    }
}

fn start(database: &TestDatabase, grace: &str) -> ServiceProcess {
    ServiceProcess::start(&["--listen", "127.0.0.1:0", "--database-url", &database.url, "--drain-grace", grace])
}

#[tokio::test]
async fn a_service_that_nobody_watches_stops_without_grace() {
    let database = TestDatabase::migrated().await;
    let service = start(&database, "10m");
    let stopping = tokio::task::spawn_blocking(|| service.stop());
    assert!(tokio::time::timeout(PATIENCE, stopping).await.expect("it does not wait").unwrap().success());
}

#[tokio::test]
async fn a_service_that_a_balancer_watches_serves_through_the_grace() {
    let database = TestDatabase::migrated().await;
    let service = start(&database, "5s");
    let (http, url) = (http_client(), service.url.clone());
    let ready = || async { http.get(format!("{url}/readyz")).send().await.unwrap().status().as_u16() };
    eventually("the instance is ready", || async { (ready().await == 200).then_some(()) }).await;
    service.signal(libc::SIGTERM);
    eventually("the instance says that it leaves", || async { (ready().await == 503).then_some(()) }).await;
    let body = json!({ "messages": [{ "type": "Written", "data": {} }] });
    let written = http.post(format!("{url}/v1/streams/a-1/messages")).json(&body).send().await.unwrap();
    assert_eq!(written.status(), 201);
    assert!(tokio::task::spawn_blocking(|| service.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_second_signal_ends_the_grace() {
    let database = TestDatabase::migrated().await;
    let service = start(&database, "10m");
    let http = http_client();
    let url = format!("{}/readyz", service.url);
    let ready = || async { http.get(&url).send().await.unwrap().status().as_u16() };
    eventually("the instance is ready", || async { (ready().await == 200).then_some(()) }).await;
    service.signal(libc::SIGTERM);
    eventually("the instance says that it leaves", || async { (ready().await == 503).then_some(()) }).await;
    service.signal(libc::SIGTERM);
    let ending = tokio::task::spawn_blocking(|| service.wait());
    let status = tokio::time::timeout(Duration::from_secs(20), ending).await.expect("it does not wait").unwrap();
    assert_eq!(status.code(), Some(1));
}
