//! What a session takes, and what it refuses: by the line, with everything before it written and nothing after it.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{AppendSession, app, message, numbers};
use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::append_session::counted;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_line_that_is_refused_is_named_and_those_before_it_are_written() {
    let (database, app) = app().await;
    let long_type = format!(r#"{{"type":"{}"}}"#, "x".repeat(2_000));
    for (at, (line, status, slug, field, rule)) in [
        ("no JSON", 400, "malformed-request", "body", "line 3, column 2"),
        (r#"{"type":"T""#, 400, "malformed-request", "body", "line 3, column"),
        (r#"{"type":"T"} {"type":"T"}"#, 400, "malformed-request", "body", "nothing after it"),
        (r#"["T"]"#, 400, "malformed-request", "body", "must be an object"),
        ("{}", 400, "malformed-request", "type", "is missing"),
        (r#"{"type":5}"#, 400, "malformed-request", "type", "must be text"),
        (r#"{"type":"T","Data":1}"#, 400, "malformed-request", "Data", "is unknown"),
        (r#"{"type":"T","type":"U"}"#, 400, "malformed-request", "type", "is given twice"),
        (r#"{"type":"T","id":"seven"}"#, 400, "malformed-request", "id", "must be a UUID"),
        (r#"{"type":"T","time":"yesterday"}"#, 400, "malformed-request", "time", "RFC 3339"),
        (r#"{"type":"T","data":"\u0000"}"#, 422, "invalid", "data", "U+0000"),
        (r#"{"type":""}"#, 422, "invalid", "type", "empty"),
        (&*long_type, 422, "invalid", "type", "bytes"),
        (r#"{"type":"T","expected_version":1}"#, 422, "invalid", "expected_version", "first line"),
        (r#"{"type":"T","must_exist":true}"#, 422, "invalid", "must_exist", "first line"),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = format!("a-{at}");
        let mut session = AppendSession::open(&app, &stream).await;
        session.send(format!("{}\n{}\n{line}\n{}\n", message(0), message(1), message(3))).await;
        session.end();
        let problem = session.refused_after(2, status, slug).await;
        assert_eq!((&problem["line"], &problem["errors"][0]["field"]), (&json!(3), &json!(field)), "{line}: {problem}");
        assert!(problem["errors"][0]["message"].as_str().unwrap().contains(rule), "{line}: {problem}");
        assert_eq!(numbers(&database, &stream).await, [0, 1], "{line}");
    }
    let mut session = AppendSession::open(&app, "b-1").await;
    session.send("{\"type\":\"T\",\"expected_version\":-2}\n").await;
    assert_eq!(session.refused_after(0, 422, "invalid").await["line"], 1);
    app.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_refused() {
    let (_database, app) = app().await;
    let mut session = AppendSession::open(&app, "a-1").await;
    session.send(&b"{\"type\":\"T\",\"data\":\"\xff\"}\n"[..]).await;
    assert_eq!(session.refused_after(0, 400, "malformed-request").await["line"], 1);
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_the_limit() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.message_bytes_max = 1_000;
        settings.body_bytes_max = 2_000;
    })
    .await;
    let sized = |bytes: usize| json!({ "type": "T", "data": "x".repeat(bytes - 2) });
    // A body may have more than a request's, its messages may not.
    let mut session = AppendSession::open(&app, "a-1").await;
    session.write(&vec![sized(1_000); 10]).await;
    session.committed(10).await;
    session.write([&sized(1_001)]).await;
    let problem = session.refused_after(0, 413, "message-too-large").await;
    assert_eq!((&problem["limit"], &problem["line"]), (&json!(1_000), &json!(11)));
    // Also one that does not end.
    let mut session = AppendSession::open(&app, "a-2").await;
    session.write([&message(0)]).await;
    for _ in 0..20 {
        session.send(" ".repeat(1_000)).await;
    }
    let problem = session.refused_after(1, 413, "message-too-large").await;
    assert_eq!((&problem["limit"], &problem["line"]), (&json!(1_000), &json!(2)));
    let lines = format!("{}\n", message(0)).repeat(200);
    let announced = app.http.post(format!("{}/v1/streams/a-3/messages", app.url));
    let answer = announced.header("content-type", "application/x-ndjson").body(lines).send().await.unwrap();
    let lines: Vec<Value> =
        Answer::of(answer).await.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(counted(&lines), 200);
}

#[tokio::test]
async fn lines_may_be_empty_end_as_they_like_and_come_in_any_pieces() {
    let (database, app) = app().await;
    let text = format!("\n\r\n  \n{}\r\n\n{}\n \t\n{}", message(0), message(1), message(2));
    for (at, size) in [1, 2, 7, text.len()].into_iter().enumerate() {
        let stream = format!("a-{at}");
        let mut session = AppendSession::open(&app, &stream).await;
        for piece in text.as_bytes().chunks(size) {
            session.send(piece.to_vec()).await;
        }
        session.end();
        assert_eq!(counted(&session.rest().await), 3);
        assert_eq!(numbers(&database, &stream).await, [0, 1, 2]);
    }
    // The lines that say nothing count.
    let mut session = AppendSession::open(&app, "b-1").await;
    session.send(format!("\n{}\n\nwrong\n", message(0))).await;
    assert_eq!(session.refused_after(1, 400, "malformed-request").await["line"], 4);
    for empty in ["", "\n", " \r\n\n"] {
        let mut session = AppendSession::open(&app, "c-1").await;
        session.send(empty).await;
        session.end();
        assert_eq!(session.rest().await, Vec::<Value>::new());
    }
    let lines = app.http.post(format!("{}/v1/streams/c-1/messages", app.url));
    let answer = Answer::of(lines.header("content-type", "application/x-ndjson").send().await.unwrap()).await;
    assert_eq!((answer.status, &*answer.text), (200, ""));
}

#[tokio::test]
async fn what_the_head_says_is_refused_before_the_session_begins() {
    let (_database, app) = app().await;
    let post = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = app.http.post(format!("{}{path}", app.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.body(format!("{}\n", message(0))).send().await.unwrap()).await
    };
    let lines = ("content-type", "application/x-ndjson");
    let path = "/v1/streams/a-1/messages";
    let problem = post(path, &[lines, ("content-encoding", "gzip")]).await.problem(415, "unsupported-media-type");
    assert_eq!(problem["accepted"], json!(["application/json", "application/x-ndjson"]));
    let problem = post(path, &[("content-type", "text/plain")]).await.problem(415, "unsupported-media-type");
    assert_eq!(problem["accepted"], json!(["application/json", "application/x-ndjson"]));
    let problem = post("/v1/subscriptions/s/fetch", &[lines]).await.problem(415, "unsupported-media-type");
    assert_eq!(problem["accepted"], json!(["application/json"]));
    post("/v1/streams/a-1/messages?limit=1", &[lines]).await.problem(400, "malformed-request");
    post(&format!("/v1/streams/{}/messages", "x".repeat(2_000)), &[lines]).await.problem(422, "invalid");
    post(path, &[lines, ("idempotency-key", &"k".repeat(1_001))]).await.problem(422, "invalid");
    post(path, &[lines, ("origin", "http://elsewhere.example")]).await.problem(403, "forbidden");
    let answer = post(path, &[("content-type", "Application/X-NDJSON; charset=utf-8")]).await;
    assert_eq!((answer.status, answer.json()["version"].clone()), (200, json!(0)));
    assert_eq!(app.get(path).await.json()["version"], 0);
}

/// Clients that write first and read then, as Python's do, and one that asks whether it may.
#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_finds_the_problem() {
    let (_database, app) = app().await;
    let address = app.url.strip_prefix("http://").unwrap();
    let line = format!("{{\"type\":\"T\",\"data\":\"{}\"}}\n", "x".repeat(10_000));
    let body = format!("wrong\n{}", line.repeat(1_000));
    let head = "POST /v1/streams/a-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("/problems/malformed-request"), "{answer}");
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    assert_eq!(app.get("/v1/streams/a-1/messages").await.json()["version"], -1);

    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = format!("{}\n", message(0));
        let request = format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut chunk) = (String::new(), [0; 1_000]);
        while !answer.contains("\r\n\r\n") {
            let count = stream.read(&mut chunk).await.unwrap();
            answer.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
        stream.write_all(body.as_bytes()).await.unwrap();
        while !answer.contains("\"version\":0") {
            let count = stream.read(&mut chunk).await.unwrap();
            assert!(count > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}
