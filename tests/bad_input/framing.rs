//! Requests whose beginning and end are told in another way than usual, or in none: answered at once, never guessed at.

use std::time::Duration;

use super::{AT_ONCE, Guarded, STREAM, names};
use crate::support::raw_http::RawHttp;

const GET: &str = "GET /v1/all/messages HTTP/1.1\r\nHost: localhost\r\n";
const POST: &str =
    "POST /v1/streams/account-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

async fn sent(guarded: &Guarded, bytes: impl AsRef<[u8]>) -> RawHttp {
    let mut raw = RawHttp::connect(&guarded.app.url).await;
    raw.send(bytes.as_ref()).await;
    raw
}

#[tokio::test]
async fn lines_that_end_without_a_carriage_return_are_read_at_once() {
    let guarded = Guarded::new().await;
    for request in [
        "GET /v1/all/messages HTTP/1.1\nHost: localhost\n\n",
        "GET /v1/all/messages HTTP/1.1\r\nHost: localhost\r\n\n",
        "GET /v1/all/messages HTTP/1.1\nHost: localhost\r\n\r\n",
        "\r\nGET /v1/all/messages HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let mut raw = sent(&guarded, request).await;
        assert_eq!(raw.answer_within(AT_ONCE).await.expect("an answer").status, 200, "{request:?}");
    }
    for request in
        ["GET /v1/all/events HTTP/1.1\nHost: localhost\n\n", "GET /v1/all/events HTTP/1.1\r\nHost: localhost\r\n\n"]
    {
        let mut raw = sent(&guarded, request).await;
        let answer = raw.answer_within(AT_ONCE).await.expect("an answer");
        assert_eq!((answer.status, &answer.headers["content-type"]), (200, &"text/event-stream".parse().unwrap()));
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_length_that_is_none_or_is_there_in_two_ways_is_refused() {
    let guarded = Guarded::new().await;
    let body = r#"{"messages": [{"type": "T"}]}"#;
    let length = body.len();
    for lines in [
        "Content-Length: -1\r\n".to_owned(),
        "Content-Length: +5\r\n".to_owned(),
        "Content-Length: 0x10\r\n".to_owned(),
        "Content-Length: \r\n".to_owned(),
        "Content-Length: five\r\n".to_owned(),
        format!("Content-Length: {length}, {length}\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: 3\r\n"),
        format!("Content-Length : {length}\r\n"),
        "Transfer-Encoding: gzip\r\n".to_owned(),
        "Transfer-Encoding: chunked, gzip\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
    ] {
        let mut raw = sent(&guarded, format!("{POST}{lines}\r\n{body}")).await;
        raw.answer_within(AT_ONCE).await.unwrap_or_else(|| panic!("{lines}")).problem(400, "malformed-request");
    }
    guarded.end().await;
}

#[tokio::test]
async fn of_a_length_and_chunks_the_chunks_count_and_the_connection_ends() {
    let guarded = Guarded::new().await;
    // A proxy that goes by the length takes the second request for a part of the first body, and another the reverse.
    let request = format!("{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{GET}\r\n");
    let mut raw = sent(&guarded, request).await;
    raw.answer_within(AT_ONCE).await.expect("an answer").problem(400, "malformed-request");
    assert!(raw.answer_within(AT_ONCE).await.is_none(), "the second request was answered");
    guarded.end().await;
}

#[tokio::test]
async fn chunks_that_are_none_are_refused() {
    let guarded = Guarded::new().await;
    for chunks in ["zz\r\nab", "-1\r\nab", "FFFFFFFFFFFFFFFFFFF\r\n", "2\nab", "2\r\nabc\r\n", "\r\n"] {
        let mut raw = sent(&guarded, format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}")).await;
        let answer = raw.answer_within(AT_ONCE).await.unwrap_or_else(|| panic!("{chunks:?}"));
        names(&answer.problem(400, "malformed-request"), "body", "received completely");
    }
    // Long extensions and trailers are no way around the limits.
    for chunks in
        [format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(40_000)), format!("0\r\n{}\r\n", "x: y\r\n".repeat(5_000))]
    {
        let mut raw = sent(&guarded, format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}")).await;
        let answer = raw.answer_within(AT_ONCE).await.expect("an answer");
        names(&answer.problem(400, "malformed-request"), "body", "received completely");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_header_or_a_first_line_that_is_none_is_refused() {
    let guarded = Guarded::new().await;
    for request in [
        format!("{GET}x y: 1\r\n\r\n"),
        format!("{GET}x : 1\r\n\r\n"),
        format!("{GET}no colon\r\n\r\n"),
        format!("{GET}: nameless\r\n\r\n"),
        format!("{GET}x: 1\r\n folded\r\n\r\n"),
        format!("{GET}x: a\0b\r\n\r\n"),
        format!("{GET}x: a\rb\r\n\r\n"),
        "GET /v1/all/events HTTP/1.1\r\nHost: localhost\r\nx: a\0b\r\n\r\n".to_owned(),
        "GET /v1/\0all HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /v1/all messages HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET v1/all/messages HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "G<T / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /livez\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.2\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(),
    ] {
        let mut raw = sent(&guarded, &request).await;
        let answer = raw.answer_within(AT_ONCE).await.unwrap_or_else(|| panic!("{request:?}"));
        answer.problem(400, "malformed-request");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_method_of_any_length_is_answered_briefly() {
    let guarded = Guarded::new().await;
    for method in ["get", "BREW", &"A".repeat(5_000)] {
        let mut raw = sent(&guarded, format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let answer = raw.answer_within(AT_ONCE).await.expect("an answer");
        answer.problem(405, "method-not-allowed");
        assert!(answer.text.len() < 500, "{}", answer.text);
    }
    let mut raw = sent(&guarded, "A".repeat(600_000)).await;
    raw.answer_within(AT_ONCE).await.expect("an answer").problem(431, "headers-too-large");
    guarded.end().await;
}

#[tokio::test]
async fn what_was_pipelined_is_answered_in_turn_and_what_follows_a_request_is_no_part_of_it() {
    let guarded = Guarded::new().await;
    let mut raw = sent(&guarded, format!("{GET}\r\n{GET}\r\nJUNK JUNK\r\n\r\n")).await;
    for status in [200, 200, 400] {
        assert_eq!(raw.answer_within(AT_ONCE).await.expect("an answer").status, status);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_or_not_to() {
    let guarded = Guarded::new().await;
    let expects = format!("{POST}Expect: 100-continue\r\nContent-Length:");
    let mut raw = sent(&guarded, format!("{expects} 2\r\n\r\n")).await;
    assert_eq!(raw.answer_within(AT_ONCE).await.expect("an answer").status, 100);
    raw.send(b"{}").await;
    let answer = raw.answer_within(AT_ONCE).await.expect("an answer");
    names(&answer.problem(400, "malformed-request"), "messages", "missing");
    let mut raw = sent(&guarded, format!("{expects} 99999999\r\n\r\n")).await;
    raw.answer_within(AT_ONCE).await.expect("an answer").problem(413, "body-too-large");
    guarded.end().await;
}

#[tokio::test]
async fn who_does_not_say_what_he_speaks_is_not_waited_for() {
    let guarded = Guarded::with(|settings| settings.request_timeout = Duration::from_millis(300)).await;
    for beginning in
        ["", "\r\n\r\n", "P", "PRI * HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "GET /v1/all/even"]
    {
        let mut raw = sent(&guarded, beginning).await;
        raw.closed(AT_ONCE).await;
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_refusal_before_the_body_has_come_says_that_it_is_the_last_answer() {
    let guarded = Guarded::with(|settings| settings.request_timeout = Duration::from_secs(1)).await;
    let head = |path: &str, media_type: &str, length: usize| {
        let first = format!("POST {path} HTTP/1.1\r\nHost: localhost");
        format!("{first}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n")
    };
    for (request, status, slug) in [
        (head(STREAM, "text/plain", 5), 415, "unsupported-media-type"),
        (head(STREAM, "application/json", 99_999_999), 413, "body-too-large"),
        (head("/v1/nowhere", "application/json", 5), 404, "not-found"),
        // It ends amid the body.
        (head(STREAM, "application/json", 99) + "{", 408, "request-timeout"),
    ] {
        let mut raw = sent(&guarded, &request).await;
        let answer = raw.answer_within(AT_ONCE).await.expect("an answer");
        answer.problem(status, slug);
        assert_eq!(answer.headers["connection"], "close", "{slug}");
    }
    // A body that has come whole is no reason to end the connection.
    let mut raw = sent(&guarded, head(STREAM, "application/json", 2)).await;
    for _ in 0..3 {
        raw.send(b"{}").await;
        let answer = raw.answer_within(AT_ONCE).await.expect("an answer");
        answer.problem(400, "malformed-request");
        assert!(!answer.headers.contains_key("connection"), "{answer:?}");
        raw.send(head(STREAM, "application/json", 2).as_bytes()).await;
    }
    guarded.end().await;
}
