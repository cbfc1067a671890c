//! The trace of a request is kept with the messages that it writes, comes back with them, and makes no difference to a request
//! that is sent again.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{Answer, TestApp};
use crate::support::append_session::AppendSession;
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const STATE: &str = "congo=t61rcWkgMzE,rojo=\"q\"";

async fn send(app: &TestApp, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = app.http.post(format!("{}{path}", app.url)).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

async fn metadata(app: &TestApp, stream: &str) -> Vec<Value> {
    let page = app.get(&format!("/v1/streams/{stream}/messages")).await.json();
    page["messages"].as_array().unwrap().iter().map(|message| message["metadata"].clone()).collect()
}

const MESSAGES: &str = "/v1/streams/a-1/messages";

#[tokio::test]
async fn a_trace_is_kept_in_metadata_and_comes_back_in_events() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut events = app.follow("/v1/streams/a-1/events?from=beginning").await;
    let own = json!({ "traceparent": OTHER });
    let metadatas = [json!(null), json!({ "user": "ann" }), own.clone(), json!([1]), json!({ "tracestate": "x=1" })];
    let messages: Vec<Value> = metadatas.iter().map(|metadata| json!({ "type": "T", "metadata": metadata })).collect();
    let answer =
        send(&app, MESSAGES, &[("traceparent", PARENT), ("tracestate", STATE)], &json!({ "messages": messages })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let kept = [
        json!({ "traceparent": PARENT, "tracestate": STATE }),
        json!({ "traceparent": PARENT, "tracestate": STATE, "user": "ann" }),
        own,
        json!([1]),
        json!({ "tracestate": "x=1" }),
    ];
    assert_eq!(metadata(&app, "a-1").await, kept);
    let followed: Vec<Value> =
        events.messages(5).await.into_iter().map(|message| message["metadata"].clone()).collect();
    assert_eq!(followed, kept);
    // Without the header nothing is added.
    app.append("a-2", &json!({ "messages": [{ "type": "T" }] })).await;
    assert_eq!(metadata(&app, "a-2").await, [json!(null)]);
}

#[tokio::test]
async fn appends_and_append_sessions_keep_it_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let to = |stream: &str| json!({ "stream_name": stream, "messages": [{ "type": "T", "metadata": { "n": 1 } }] });
    let body = json!({ "appends": [to("a-1"), to("b-1")] });
    assert_eq!(send(&app, "/v1/appends", &[("traceparent", PARENT)], &body).await.status, 201);
    for stream in ["a-1", "b-1"] {
        assert_eq!(metadata(&app, stream).await, [json!({ "traceparent": PARENT, "n": 1 })]);
    }
    let mut session = AppendSession::with(&app, "c-1", &[("traceparent", PARENT)]).await;
    session.write([&json!({ "type": "T" }), &json!({ "type": "T", "metadata": { "traceparent": OTHER } })]).await;
    session.end();
    session.rest().await;
    assert_eq!(metadata(&app, "c-1").await, [json!({ "traceparent": PARENT }), json!({ "traceparent": OTHER })]);
}

#[tokio::test]
async fn an_invalid_header_is_ignored_and_never_refused() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let body = json!({ "messages": [{ "type": "T" }] });
    for invalid in ["", "x", "00-0-0-01", &PARENT.to_uppercase(), &PARENT.replace("00-4", "ff-4"), &"0".repeat(4_000)] {
        let answer = send(&app, MESSAGES, &[("traceparent", invalid), ("tracestate", STATE)], &body).await;
        assert_eq!(answer.status, 201, "{invalid}: {}", answer.text);
    }
    // Two, bytes that are no text, and a state without its parent.
    let mut headers = HeaderMap::new();
    headers.append("traceparent", HeaderValue::from_static(PARENT));
    headers.append("traceparent", HeaderValue::from_static(OTHER));
    let mut bytes = HeaderMap::new();
    bytes.insert("traceparent", HeaderValue::from_bytes(b"00-\xff\xfe").unwrap());
    let state = HeaderMap::from_iter([(HeaderName::from_static("tracestate"), HeaderValue::from_static(STATE))]);
    for headers in [headers, bytes, state] {
        let request = app.http.post(format!("{}{MESSAGES}", app.url)).headers(headers).json(&body);
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
    assert!(metadata(&app, "a-1").await.iter().all(Value::is_null));
    // A state that is invalid, or longer than what is kept, leaves the parent.
    let long = (0..30).map(|n| format!("k{n}={}", "v".repeat(60))).collect::<Vec<_>>().join(",");
    for state in ["no-pair", &long] {
        assert_eq!(send(&app, MESSAGES, &[("traceparent", PARENT), ("tracestate", state)], &body).await.status, 201);
    }
    let kept = metadata(&app, "a-1").await.split_off(9);
    assert_eq!(kept[0], json!({ "traceparent": PARENT }));
    assert!((1..=512).contains(&kept[1]["tracestate"].as_str().unwrap().len()), "{kept:?}");
}

/// Each way of sending a message again, with each trace, and each metadata that may have been there.
#[tokio::test]
async fn a_message_that_is_sent_again_in_another_trace_is_the_same() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let traces: [&[(&str, &str)]; 3] =
        [&[], &[("traceparent", PARENT), ("tracestate", STATE)], &[("traceparent", OTHER)]];
    let own = json!({ "traceparent": "anything", "n": 1 });
    let mut nth = 0;
    for metadata in [json!(null), json!({}), json!({ "n": 1 }), json!([1]), json!("traceparent"), own] {
        for first in traces {
            nth += 1;
            let id = Uuid::new_v4();
            let message = |metadata: &Value| json!({ "id": id, "type": "T", "metadata": metadata });
            let (path, body) =
                (format!("/v1/streams/a-{nth}/messages"), |of: &Value| json!({ "messages": [message(of)] }));
            let written = send(&app, &path, first, &body(&metadata)).await;
            assert_eq!(written.status, 201, "{}", written.text);
            for again in traces {
                let answer = send(&app, &path, again, &body(&metadata)).await;
                assert_eq!(answer.status, 200, "{metadata} with {first:?}, again with {again:?}: {}", answer.text);
                assert_eq!(answer.json()["messages"], written.json()["messages"]);
                let appends =
                    json!({ "appends": [{ "stream_name": format!("a-{nth}"), "messages": [message(&metadata)] }] });
                assert_eq!(send(&app, "/v1/appends", again, &appends).await.status, 200);
                let mut session = AppendSession::with(&app, &format!("a-{nth}"), again).await;
                session.write([&message(&metadata)]).await;
                session.end();
                assert_eq!(session.rest().await[0]["duplicate"], true);
                // What else it has counts as before.
                let other = send(&app, &path, again, &body(&json!({ "n": 2 }))).await;
                other.problem(409, "message-id-reused");
            }
        }
    }
}

#[tokio::test]
async fn a_commit_in_doubt_is_found_whatever_the_trace() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_commit_timeout = Duration::from_secs(5)).await;
    app.write("first-1", "T", json!(0)).await;
    let body = json!({ "messages": [{ "id": Uuid::new_v4(), "type": "T" }, { "type": "U", "metadata": { "a": 1 } }] });
    proxy.lose_answers_of("headwater.append_batch", 1);
    let first = send(&app, MESSAGES, &[("traceparent", PARENT)], &body).await;
    assert_eq!((proxy.lost_answers(), first.status), (1, 201), "{}", first.text);
    let kept = metadata(&app, "a-1").await;
    assert_eq!(kept, [json!({ "traceparent": PARENT }), json!({ "traceparent": PARENT, "a": 1 })]);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_send_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.cors_origin = vec!["https://app.example".parse().unwrap()];
    })
    .await;
    let preflight = app.http.request(reqwest::Method::OPTIONS, format!("{}{MESSAGES}", app.url));
    let preflight = preflight.header("origin", "https://app.example").header("access-control-request-method", "POST");
    let answer = preflight.header("access-control-request-headers", "traceparent,tracestate").send().await.unwrap();
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("traceparent") && allowed.contains("tracestate"), "{allowed}");
}
