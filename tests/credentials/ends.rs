//! What is open ends when its credential does: within five seconds of a revocation.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::app::{Answer, PATIENCE, TestApp, TestClient};
use crate::support::append_session::AppendSession;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::raw_http::RawHttp;

const PROMISED: Duration = Duration::from_secs(5);

async fn revoke(app: &TestApp, client: &TestClient) {
    assert_eq!(app.delete(&format!("/v1/keys/{}", &client.token()[3..16])).await.status, 204);
}

#[tokio::test]
async fn every_event_stream_ends_and_the_others_go_on() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let other = TestApp::guarded_with(&database.url, |_| {}).await;
    app.write("a-1", "A", json!({})).await;
    let aggregated = json!({ "categories": ["a"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/all", &aggregated).await.status, 201);
    assert_eq!(app.put("/v1/subscriptions/s", &json!({ "source": { "category": "a" } })).await.status, 201);
    let leaving = app.client_that_may(&["read:*", "subscribe:*"]).await;
    let staying = app.client_that_may(&["read:*", "subscribe:*"]).await;
    let paths = [
        "/v1/streams/a-1/events",
        "/v1/all/events",
        "/v1/events?category=a&stream_name=b-1",
        "/v1/aggregated-streams/all/events",
    ];
    let (mut ending, mut going_on) = (Vec::new(), Vec::new());
    for app in [&app, &other] {
        for path in paths {
            // The connections of one path are a group.
            for _ in 0..3 {
                ending.push(app.client_with(leaving.token()).follow(path).await);
            }
            going_on.push(app.client_with(staying.token()).follow(path).await);
        }
    }
    ending.push(app.client_with(leaving.token()).follow("/v1/subscriptions/s/events?consumer=w1").await);
    for events in ending.iter_mut().take(paths.len() * 6).chain(&mut going_on) {
        events.next("caught-up").await;
    }
    revoke(&app, &leaving).await;
    for events in &mut ending {
        let closing = timeout(PROMISED, events.next("closing")).await.expect("within 5 s");
        assert_eq!(closing.json(), json!({ "reason": "expired" }));
        assert_eq!(events.next_block(PROMISED).await, None, "nothing comes after closing");
    }
    app.write("a-1", "B", json!({})).await;
    for events in &mut going_on {
        assert!(events.next("message").await.json().to_string().contains("\"B\""));
    }
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_client_goes_on_after_the_end_where_it_was() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let leaving = app.client_that_may(&["read:*"]).await;
    let mut events = leaving.follow("/v1/all/events").await;
    events.next("caught-up").await;
    let mut sent = Vec::new();
    for number in 0..50 {
        sent.push(app.write("a-1", "A", json!({ "number": number })).await);
        if number == 25 {
            revoke(&app, &leaving).await;
        }
    }
    let mut found = Vec::new();
    loop {
        let event = events.next_event().await;
        match event.name.as_deref() {
            Some("closing") => break,
            _ => found.extend(event.json()["global_position"].as_i64()),
        }
    }
    let last = events.last_id.clone().expect("an id");
    let mut rest = Events::open(
        &format!("{}/v1/all/events", app.url),
        &[("authorization", &format!("Bearer {}", app.token())), ("last-event-id", &last)],
    )
    .await;
    while found.len() < sent.len() {
        found.push(rest.next("message").await.json()["global_position"].as_i64().unwrap());
    }
    assert_eq!(found, sent);
    app.stop().await;
}

#[tokio::test]
async fn lines_end_too_and_so_does_http_2() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let http2 = crate::support::http2_client_with(None);
    for http in [crate::support::http_client(), http2] {
        lines_end(&app, &http).await;
    }
    app.stop().await;
}

async fn lines_end(app: &TestApp, http: &reqwest::Client) {
    let leaving = app.client_that_may(&["read:*"]).await;
    let request = http.get(format!("{}/v1/all/events", app.url)).header("accept", "application/x-ndjson");
    let request = request.header("authorization", format!("Bearer {}", leaving.token()));
    let mut body = request.send().await.unwrap().bytes_stream();
    body.next().await.expect("it begins").unwrap();
    revoke(app, &leaving).await;
    let rest = async {
        let mut text = String::new();
        while let Some(Ok(bytes)) = body.next().await {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        text
    };
    let rest = timeout(PROMISED, rest).await.expect("within 5 s");
    let last: serde_json::Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["data"]["reason"]), (&json!("closing"), &json!("expired")), "{rest}");
}

#[tokio::test]
async fn a_long_poll_answers_401_instead_of_what_comes_then() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    assert_eq!(app.put("/v1/subscriptions/s", &json!({ "source": { "category": "a" } })).await.status, 201);
    let leaving = app.client_that_may(&["read:*", "subscribe:*"]).await;
    let url = |path: &str| format!("{}{path}", app.url);
    let fetch = json!({ "consumer": "w1", "wait": "60s" });
    let polls = [
        leaving.http.get(url("/v1/all/messages?wait=60s")),
        leaving.http.get(url("/v1/streams/a-1/messages?wait=60s")),
        leaving.http.get(url("/v1/subscriptions/s?min_position=1&wait=60s")),
        leaving.http.post(url("/v1/subscriptions/s/fetch")).json(&fetch),
    ];
    let polls = polls.map(|poll| tokio::spawn(async move { Answer::of(poll.send().await.unwrap()).await }));
    let by_head = tokio::spawn(leaving.http.head(url("/v1/categories/a/messages?wait=60s")).send());
    // The consumer is there, so its fetch waits.
    let joined = async {
        while app.get("/v1/subscriptions/s/consumers").await.json()["consumers"].as_array().unwrap().is_empty() {}
    };
    timeout(Duration::from_secs(20), joined).await.unwrap();
    revoke(&app, &leaving).await;
    for poll in polls {
        timeout(PROMISED, poll).await.expect("within 5 s").unwrap().problem(401, "unauthenticated");
    }
    assert_eq!(timeout(PROMISED, by_head).await.expect("within 5 s").unwrap().unwrap().status(), 401);
    // What was not fetched is fetched by others.
    app.write("a-1", "A", json!({})).await;
    let fetched = app.post("/v1/subscriptions/s/fetch", &json!({ "consumer": "w1", "wait": "20s" })).await.json();
    assert_eq!(fetched["messages"].as_array().unwrap().len(), 1, "{fetched}");
    app.stop().await;
}

#[tokio::test]
async fn an_append_session_answers_what_it_has_and_ends_with_a_problem() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let leaving = app.client_that_may(&["append:*"]).await;
    let mut session = AppendSession::by(&leaving.http, &app, "a-1", &[]).await;
    let mut busy = AppendSession::by(&leaving.http, &app, "b-1", &[]).await;
    session.write(&[json!({ "type": "A" })]).await;
    assert_eq!(session.line().await.unwrap()["count"], 1);
    revoke(&app, &leaving).await;
    let problem = timeout(PROMISED, session.line()).await.expect("within 5 s").unwrap();
    assert_eq!((&problem["type"], &problem["line"]), (&json!("/problems/unauthenticated"), &json!(2)));
    assert_eq!(session.line().await, None);

    // One that is never quiet ends all the same, and says what it wrote.
    let writing = async {
        let mut written = 0;
        loop {
            busy.write(&[json!({ "type": "B" })]).await;
            match busy.line().await.unwrap() {
                line if line["count"].is_i64() => written += line["count"].as_i64().unwrap(),
                problem => break (written, problem),
            }
        }
    };
    let (written, problem) = timeout(PROMISED, writing).await.expect("within 5 s");
    assert_eq!(problem["type"], "/problems/unauthenticated");
    let version = app.get("/v1/streams/b-1/messages").await.json()["version"].as_i64().unwrap();
    assert_eq!(version + 1, written);
    app.stop().await;
}

/// More than one group has room for, while messages come.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_connections_of_one_key_end_together_and_miss_nothing_before() {
    const CONNECTIONS: usize = 400;
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let leaving = app.client_that_may(&["read:*"]).await;
    let staying = app.client_that_may(&["read:*"]).await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut events = leaving.follow("/v1/all/events").await;
        events.next("caught-up").await;
        open.push(events);
    }
    let mut other = staying.follow("/v1/all/events").await;
    other.next("caught-up").await;
    let mut sent = vec![app.write("a-1", "A", json!({})).await];
    let reading: Vec<_> = open
        .into_iter()
        .map(|mut events| {
            tokio::spawn(async move {
                let mut positions = Vec::new();
                loop {
                    let event = events.next_event().await;
                    match event.name.as_deref() {
                        Some("message") => positions.push(event.json()["global_position"].as_i64().unwrap()),
                        Some("closing") => break (positions, event.json()),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        sent.push(app.write("a-1", "A", json!({})).await);
    }
    revoke(&app, &leaving).await;
    sent.push(app.write("a-1", "A", json!({})).await);
    for one in reading {
        let (positions, closing) = timeout(PROMISED, one).await.expect("within 5 s").unwrap();
        assert_eq!(closing, json!({ "reason": "expired" }));
        assert_eq!(positions, sent[..positions.len()], "in order, without holes, as far as it got");
    }
    assert_eq!(other.positions_until(*sent.last().unwrap()).await, sent);
    app.stop().await;
}

/// Reads an event stream more slowly than its log grows, so that there is always something to take, and revokes the key
/// meanwhile. `first`: a request before it on the connection.
async fn one_that_is_behind_ends(app: &TestApp, first: &str) {
    let leaving = app.client_that_may(&["read:busy-1"]).await;
    let mut company = app.follow("/v1/streams/busy-1/events").await;
    let follow = format!(
        "GET /v1/streams/busy-1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        leaving.token()
    );
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut slow = socket.connect(app.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    slow.write_all(format!("{first}{follow}").as_bytes()).await.unwrap();
    let mut found = Vec::new();
    let mut block = vec![0; 64 << 10];
    let text = "x".repeat(20_000);
    let message = json!({ "type": "A", "data": { "text": text } });
    let messages = json!({ "messages": vec![message; 10] });
    let (is_over, is_full) = (CancellationToken::new(), CancellationToken::new());
    let writing = async {
        for number in 0.. {
            assert_eq!(app.append("busy-1", &messages).await.status, 201);
            tokio::time::sleep(Duration::from_millis(20)).await;
            // So much is in no buffer between the two.
            if number == 60 {
                is_full.cancel();
            }
            if is_over.is_cancelled() {
                break;
            }
        }
    };
    let following = async {
        while !is_over.is_cancelled() {
            let _ = timeout(Duration::from_millis(100), company.next("message")).await;
        }
    };
    let reading = async {
        is_full.cancelled().await;
        let (began, mut revoked) = (Instant::now(), None);
        let has_expired = loop {
            // It goes on by itself by then, and always has something to take.
            if revoked.is_none() && began.elapsed() > Duration::from_secs(5) {
                revoke(app, &leaving).await;
                revoked = Some(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            let read = timeout(PATIENCE, slow.read(&mut block)).await.expect("there is always something").unwrap();
            found.extend_from_slice(&block[..read]);
            found.drain(..found.len().saturating_sub(1_000));
            let end = String::from_utf8_lossy(&found);
            // A connection that is kept stays open.
            if end.contains("event: closing") {
                break end.contains("{\"reason\":\"expired\"}");
            }
            if read == 0 || revoked.is_some_and(|at| at.elapsed() > PROMISED * 2) {
                break false;
            }
        };
        is_over.cancel();
        has_expired
    };
    let (has_expired, ..) = tokio::join!(reading, writing, following);
    assert!(has_expired, "it went on, or did not say why it ended");
}

#[tokio::test]
async fn an_event_stream_that_is_behind_a_busy_log_ends_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    for first in ["", "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        one_that_is_behind_ends(&app, first).await;
    }
    app.stop().await;
}

/// Whoever holds back the last byte does not keep the rights.
#[tokio::test]
async fn a_request_whose_body_comes_after_the_end_does_nothing() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let leaving = app.client_that_may(&["admin"]).await;
    let mut waiting = Vec::new();
    for (path, body) in [
        ("/v1/keys", r#"{"name":"heir","scopes":["admin"]}"#),
        ("/v1/streams/a-1/messages", r#"{"messages":[{"type":"A","data":{}}]}"#),
    ] {
        let mut http = RawHttp::connect(&app.url).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            leaving.token(),
            body.len()
        );
        let (most, last) = body.split_at(body.len() - 1);
        http.send(format!("{head}{most}").as_bytes()).await;
        waiting.push((http, last));
    }
    revoke(&app, &leaving).await;
    for (mut http, last) in waiting {
        http.send(last.as_bytes()).await;
        assert_eq!(http.answer().await.expect("an answer").status, 401);
    }
    let keys = app.get("/v1/keys").await.text;
    assert!(!keys.contains("heir"), "{keys}");
    assert_eq!(app.get("/v1/streams/a-1").await.status, 404);
    app.stop().await;
}
