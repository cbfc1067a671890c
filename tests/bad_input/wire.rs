//! What is wrong with a request as HTTP: paths, methods, headers, and bodies that never come whole.

use std::time::Duration;

use serde_json::json;

use super::{Guarded, STREAM, names};
use crate::support::app::{Answer, TestApp};
use crate::support::raw_http::RawHttp;

const HEAD: &str =
    "POST /v1/streams/account-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let guarded = Guarded::new().await;
    for path in [
        "/nothing",
        "/v1",
        "/v1/",
        "/v2/all/messages",
        "/V1/all/messages",
        "/v1/all/messages/",
        "/v1/streams",
        "/v1/streams/account-1/messages/first",
        "/v1/streams/a/b/messages",
        "/problems/",
        "/problems/nothing",
        "/docs/nothing",
        "/openapi.yaml",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/docs/%2e%2e/%2e%2e/etc/passwd",
    ] {
        let problem = guarded.app.get(path).await.problem(404, "not-found");
        assert!(problem["what"].is_string(), "{problem}");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_path_says_which_methods_it_takes() {
    let guarded = Guarded::new().await;
    for (method, path, allowed) in [
        ("PUT", STREAM, &["GET", "HEAD", "POST"][..]),
        ("DELETE", STREAM, &["GET", "HEAD", "POST"]),
        ("OPTIONS", STREAM, &["GET", "HEAD", "POST"]),
        ("BREW", STREAM, &["GET", "HEAD", "POST"]),
        ("POST", "/v1/all/messages", &["GET", "HEAD"]),
        ("POST", "/v1/all/events", &["GET", "HEAD"]),
        ("PATCH", "/v1/streams/account-1", &["GET", "HEAD"]),
        ("PUT", "/v1/messages/0192f1c2-0000-7000-8000-000000000000", &["DELETE", "GET", "HEAD"]),
        ("DELETE", "/v1/appends", &["POST"]),
        ("POST", "/livez", &["GET", "HEAD"]),
        ("POST", "/", &["GET", "HEAD"]),
        ("PUT", "/openapi.json", &["GET", "HEAD"]),
        ("POST", "/docs/", &["GET", "HEAD"]),
    ] {
        let request = guarded.app.http.request(method.parse().unwrap(), format!("{}{path}", guarded.app.url));
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.problem(405, "method-not-allowed");
        let allow = answer.headers.get("allow").unwrap_or_else(|| panic!("{method} {path}: no Allow"));
        let mut methods: Vec<_> = allow.to_str().unwrap().split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods, allowed, "{method} {path}");
    }
    guarded.end().await;
}

#[tokio::test]
async fn head_answers_as_get_does_without_a_body() {
    let guarded = Guarded::new().await;
    for (path, status) in [
        (STREAM, 200),
        ("/v1/all/messages", 200),
        ("/v1/streams/account-1", 200),
        ("/v1/streams/nothing-1", 404),
        ("/v1/all/messages?limit=0", 422),
        ("/livez", 200),
    ] {
        let get = guarded.app.get(path).await;
        let head = Answer::of(guarded.app.http.head(format!("{}{path}", guarded.app.url)).send().await.unwrap()).await;
        assert_eq!((get.status, head.status), (status, status), "{path}");
        assert_eq!(head.text, "");
        for name in ["content-type", "content-length", "etag"] {
            assert_eq!(head.headers.get(name), get.headers.get(name), "{path} {name}");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn an_event_stream_that_is_asked_for_by_head_leaves_no_follower() {
    let guarded = Guarded::new().await;
    let url = format!("{}/v1/all/events", guarded.app.url);
    let head = Answer::of(guarded.app.http.head(url).send().await.unwrap()).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(guarded.app.metric("headwater_followers").await, 0.0);
    guarded.end().await;
}

#[tokio::test]
async fn half_a_body_is_no_request() {
    let guarded = Guarded::new().await;
    let body = json!({ "messages": [{ "type": "T" }] }).to_string();
    for sent in [0, 1, body.len() - 1] {
        let mut raw = RawHttp::connect(&guarded.app.url).await;
        let head = format!("{HEAD}Content-Length: {}\r\n\r\n", body.len());
        raw.send(head.as_bytes()).await;
        raw.send(&body.as_bytes()[..sent]).await;
        raw.end_sending().await;
        if let Some(answer) = raw.answer().await {
            names(&answer.problem(400, "malformed-request"), "body", "received completely");
        }
    }
    // The whole JSON is there, but more was announced.
    let mut raw = RawHttp::connect(&guarded.app.url).await;
    raw.send(format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len() + 10).as_bytes()).await;
    raw.end_sending().await;
    if let Some(answer) = raw.answer().await {
        names(&answer.problem(400, "malformed-request"), "body", "received completely");
    }
    // The same in chunks, without the last one.
    let mut raw = RawHttp::connect(&guarded.app.url).await;
    let chunk = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len());
    raw.send(chunk.as_bytes()).await;
    raw.end_sending().await;
    if let Some(answer) = raw.answer().await {
        names(&answer.problem(400, "malformed-request"), "body", "received completely");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_body_that_stops_coming_times_out() {
    let guarded = Guarded::with(|settings| settings.request_timeout = Duration::from_millis(300)).await;
    let mut raw = RawHttp::connect(&guarded.app.url).await;
    raw.send(format!("{HEAD}Content-Length: 1000\r\n\r\n{{\"messages\": [").as_bytes()).await;
    let answer = raw.answer().await.expect("an answer");
    answer.problem(408, "request-timeout");
    raw.closed(Duration::from_secs(5)).await;
    guarded.end().await;
}

#[tokio::test]
async fn a_head_that_stops_coming_is_not_waited_for() {
    let guarded = Guarded::with(|settings| settings.request_timeout = Duration::from_millis(300)).await;
    let mut raw = RawHttp::connect(&guarded.app.url).await;
    raw.send(b"GET /v1/all/messages HTTP/1.1\r\nHost: localhost\r\nX-Half: ").await;
    raw.closed(Duration::from_secs(5)).await;
    guarded.end().await;
}

#[tokio::test]
async fn ten_thousand_headers_are_too_many() {
    let guarded = Guarded::new().await;
    for count in [101, 10_000] {
        let lines: String = (0..count).map(|n| format!("x-{n}: 1\r\n")).collect();
        let mut raw = RawHttp::connect(&guarded.app.url).await;
        raw.send(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").as_bytes()).await;
        let problem = raw.answer().await.expect("an answer").problem(431, "headers-too-large");
        assert_eq!(problem["limit"], 100);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_header_of_a_hundred_kilobytes_is_too_long() {
    let guarded = Guarded::new().await;
    for header in [format!("x-long: {}", "x".repeat(100_000)), format!("{}: 1", "x".repeat(60_000))] {
        let mut raw = RawHttp::connect(&guarded.app.url).await;
        raw.send(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n").as_bytes()).await;
        let problem = raw.answer().await.expect("an answer").problem(431, "headers-too-large");
        assert_eq!(problem["limit"], 32 << 10);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_url_of_twenty_kilobytes_is_too_long() {
    let guarded = Guarded::new().await;
    for path in
        [format!("/v1/streams/{}/messages", "x".repeat(20_000)), format!("{STREAM}?types={}", "x".repeat(20_000))]
    {
        let problem = guarded.app.get(&path).await.problem(414, "url-too-long");
        assert_eq!(problem["limit"], 8 << 10);
    }
    guarded.end().await;
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection_and_nothing_else() {
    let guarded = Guarded::new().await;
    for bytes in
        [&b"hello\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0"]
    {
        let mut raw = RawHttp::connect(&guarded.app.url).await;
        raw.send(bytes).await;
        raw.end_sending().await;
        raw.closed(Duration::from_secs(5)).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_harms_nobody() {
    let guarded = Guarded::new().await;
    for path in ["/v1/all/messages", "/v1/all/events?from=beginning", "/v1/all/messages?from=100&wait=30s"] {
        for _ in 0..20 {
            let mut raw = RawHttp::connect(&guarded.app.url).await;
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        }
    }
    let mut watcher = guarded.app.service.observer.watch();
    if guarded.app.metric("headwater_followers").await > 0.0 {
        TestApp::observed(&mut watcher, "a follower that leaves", |observation| {
            matches!(observation, headwater::domain::observation::Observation::FollowerLeft)
        })
        .await;
    }
    guarded.end().await;
}
