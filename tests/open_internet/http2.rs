//! What HTTP/2 makes cheap for a client is bounded for the service: resets, floods of small frames, streams that wait.

use std::time::Duration;

use serde_json::json;

use headwater::domain::observation::{Observation, Stalled};

use super::insert_bulk;
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, RST_STREAM, RawHttp2,
    SETTINGS, WINDOW_UPDATE, field, frame, request,
};

const CANCEL: [u8; 4] = 8u32.to_be_bytes();
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

async fn app() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.write_timeout = Duration::from_millis(500)).await;
    (database, app)
}

/// The service goes on for others.
async fn alive(app: TestApp) {
    app.write("alive-1", "Written", json!({})).await;
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    app.stop().await;
}

/// Sends this again and again until the service has closed the connection.
async fn closed_by(connection: &mut RawHttp2, mut bytes: impl FnMut(u32) -> Vec<u8>) {
    for number in 0..100_000 {
        if !connection.send_bytes(&bytes(number)).await {
            return;
        }
    }
    panic!("the connection is still open");
}

/// The stream of a client with this number.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

#[tokio::test]
async fn requests_that_are_given_up_as_fast_as_they_come_end_the_connection() {
    let (_database, app) = app().await;
    let path = "/v1/all/messages?from=1000&wait=30s";
    // In one write each, so that they are reset before they are looked at; and one by one, so that they have begun.
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    closed_by(&mut connection, |number| {
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &request("GET", path));
        [open, frame(RST_STREAM, 0, stream(number), &CANCEL)].concat()
    })
    .await;
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    let mut number = 0;
    while connection.get(stream(number), path).await {
        // Its answer says that what came before was looked at.
        if !connection.send(PING, 0, 0, &[1; 8]).await || connection.next(PING).await.is_none() {
            break;
        }
        if !connection.send(RST_STREAM, 0, stream(number), &CANCEL).await {
            break;
        }
        number += 1;
        assert!(number < 2_000, "the connection is still open");
    }
    assert!(number >= 100, "a client that changes its mind now and then is served: {number}");
    alive(app).await;
}

#[tokio::test]
async fn a_client_that_gives_up_some_of_its_requests_is_served_on() {
    let (_database, app) = app().await;
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    for number in 0..300 {
        assert!(connection.get(stream(2 * number), "/v1/all/messages?from=1000&wait=30s").await);
        assert!(connection.send(RST_STREAM, 0, stream(2 * number), &CANCEL).await);
        assert!(connection.get(stream(2 * number + 1), "/livez").await);
        let answer = connection.next(HEADERS).await.unwrap_or_else(|| panic!("closed after {number}"));
        assert_eq!(answer.stream, stream(2 * number + 1));
    }
    alive(app).await;
}

#[tokio::test]
async fn floods_of_small_frames_that_are_not_read_end_the_connection() {
    let (_database, app) = app().await;
    let mut ended = 0.0;
    for (what, one) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("settings that change", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9])),
    ] {
        let mut connection = RawHttp2::connect(&app.url, &[]).await;
        // The service stops reading when its answers are not read; then it waits no longer than for any client.
        let flood = one.repeat(10_000);
        closed_by(&mut connection, |_| flood.clone()).await;
        assert!(app.metric("headwater_clients_stalled_total{gave_up=\"connection\"}").await > ended, "{what}");
        ended += 1.0;
    }
    // Empty frames that lead nowhere.
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    let post = [request("POST", "/v1/streams/a-1/messages"), field("content-type", "application/json")].concat();
    assert!(connection.send(HEADERS, END_HEADERS, 1, &post).await);
    closed_by(&mut connection, |_| frame(DATA, 0, 1, &[]).repeat(100)).await;
    alive(app).await;
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let (_database, app) = app().await;
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    assert!(connection.send(HEADERS, END_STREAM, 1, &request("GET", "/livez")).await);
    closed_by(&mut connection, |number| frame(CONTINUATION, 0, 1, &field(&format!("x-{number}"), "y"))).await;
    // Small on the wire: one field is kept, and then named a hundred thousand times.
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    let mut bomb = request("GET", "/livez");
    bomb.push(0x40); // kept
    bomb.extend(&field("x-bomb", &"x".repeat(3_000))[1..]);
    bomb.extend([0xbe; 4_000]); // the newest that is kept
    assert!(connection.send(HEADERS, END_STREAM | END_HEADERS, 1, &bomb).await);
    let answer = loop {
        match connection.frame().await {
            Some(frame) if [HEADERS, RST_STREAM, GOAWAY].contains(&frame.kind) => break Some(frame),
            Some(_) => {}
            None => break None,
        }
    };
    if let Some(answer) = answer.filter(|answer| answer.kind == HEADERS) {
        // The status 431, as an index or in letters.
        assert!(String::from_utf8_lossy(&answer.payload).contains("431") || answer.payload[0] & 0x80 == 0);
    }
    alive(app).await;
}

#[tokio::test]
async fn streams_beyond_those_that_are_allowed_are_refused() {
    let (_database, app) = app().await;
    let mut connection = RawHttp2::connect(&app.url, &[]).await;
    let allowed = 1_000;
    for number in 0..allowed + 10 {
        assert!(connection.get(stream(number), "/v1/all/messages?from=1000&wait=30s").await);
    }
    for number in allowed..allowed + 10 {
        let refused = connection.next(RST_STREAM).await.expect("the connection goes on");
        assert_eq!((refused.stream, refused.error_code()), (stream(number), REFUSED_STREAM));
    }
    drop(connection);
    alive(app).await;
}

#[tokio::test]
async fn an_answer_for_which_a_client_opens_no_window_is_let_go_of() {
    let (database, app) = app().await;
    insert_bulk(&database, "bulk-1", 100, 1_000).await;
    let mut watcher = app.service.observer.watch();
    let mut connection = RawHttp2::connect(&app.url, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    for number in 0..20 {
        assert!(connection.get(stream(number), "/v1/streams/bulk-1/messages").await);
    }
    for _ in 0..20 {
        TestApp::observed(&mut watcher, "the answer to be let go of", |what| {
            matches!(what, Observation::ClientStalled { what: Stalled::Answer })
        })
        .await;
    }
    // A window that is opened too late has nothing behind it, and the connection goes on.
    assert!(connection.send(WINDOW_UPDATE, 0, stream(3), &1_000_000u32.to_be_bytes()).await);
    let reset = connection.next(RST_STREAM).await.expect("the connection goes on");
    assert_eq!(reset.stream, stream(3));
    assert!(connection.send(PING, 0, 0, &[1; 8]).await && connection.next(PING).await.is_some());
    drop(connection);
    alive(app).await;
}

#[tokio::test]
async fn a_connection_that_breaks_rules_is_told_and_closed() {
    let (_database, app) = app().await;
    for (what, bytes) in [
        ("a frame that is too long", [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 100]].concat()),
        ("data for no stream", frame(DATA, 0, 0, b"x")),
        ("a stream of the service", frame(HEADERS, END_STREAM | END_HEADERS, 2, &request("GET", "/livez"))),
        ("headers that are none", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
        ("a window that is too large", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[])),
    ] {
        let mut connection = RawHttp2::connect(&app.url, &[]).await;
        connection.send_bytes(&bytes).await;
        if let Some(told) = connection.next(GOAWAY).await {
            assert!((1..=ENHANCE_YOUR_CALM).contains(&told.error_code()), "{what}");
            let closed = async { while connection.frame().await.is_some() {} };
            tokio::time::timeout(PATIENCE, closed).await.unwrap_or_else(|_| panic!("{what}: still open"));
        }
    }
    alive(app).await;
}
