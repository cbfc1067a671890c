//! One append is followed through batch, commit, tail and frame, from instance to instance, by what an OpenTelemetry collector
//! receives. Only where the program was built with the feature: `cargo test --features otlp --test promises spans::`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::json;

use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A span as it came over the wire.
#[derive(Debug, Clone, Default)]
struct Received {
    trace_id: String,
    span_id: String,
    parent: String,
    name: String,
    links: Vec<(String, String)>,
    service: String,
    scope: String,
    facts: HashMap<String, u64>,
}

/// What a varint, or the bytes of a field, of a protobuf message are.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)),
            1 | 5 => {
                let (value, rest) = bytes.split_at(if key & 7 == 1 { 8 } else { 4 });
                bytes = rest;
                Value::Bytes(value)
            }
            _ => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(value)
            }
        };
        found.push((key >> 3, value));
    }
    found
}

fn bytes_of<'a>(message: &'a [u8], field: u64) -> Vec<&'a [u8]> {
    let found = fields(message).into_iter();
    found
        .filter_map(
            |(number, value)| {
                if let (true, Value::Bytes(bytes)) = (number == field, value) { Some(bytes) } else { None }
            },
        )
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_of(message: &[u8], field: u64) -> String {
    bytes_of(message, field).first().map_or(String::new(), |bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn hex_of(message: &[u8], field: u64) -> String {
    bytes_of(message, field).first().map_or(String::new(), |bytes| hex(bytes))
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans_of(request: &[u8]) -> Vec<Received> {
    let mut found = Vec::new();
    for resource_spans in bytes_of(request, 1) {
        let attributes = bytes_of(resource_spans, 1).into_iter().flat_map(|resource| bytes_of(resource, 1));
        let service =
            attributes.filter(|one| text_of(one, 1) == "service.name").map(|one| text_of(bytes_of(one, 2)[0], 1));
        let service: String = service.collect();
        for scope_spans in bytes_of(resource_spans, 2) {
            let scope = bytes_of(scope_spans, 1).first().map_or(String::new(), |scope| text_of(scope, 1));
            for span in bytes_of(scope_spans, 2) {
                let fact = |one: &[u8]| {
                    let value = fields(bytes_of(one, 2)[0]).into_iter().find_map(|(_, value)| match value {
                        Value::Number(number) => Some(number),
                        Value::Bytes(_) => None,
                    });
                    (text_of(one, 1), value.unwrap_or_default())
                };
                found.push(Received {
                    trace_id: hex_of(span, 1),
                    span_id: hex_of(span, 2),
                    parent: hex_of(span, 4),
                    name: text_of(span, 5),
                    links: bytes_of(span, 13).into_iter().map(|link| (hex_of(link, 1), hex_of(link, 2))).collect(),
                    service: service.clone(),
                    scope: scope.clone(),
                    facts: bytes_of(span, 9).into_iter().map(fact).collect(),
                });
            }
        }
    }
    found
}

/// A collector: its address, and what it has received.
async fn collector() -> (String, Arc<Mutex<Vec<Received>>>) {
    let received: Arc<Mutex<Vec<Received>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let all = received.clone();
    let take = async move |headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        all.lock().extend(spans_of(&body));
        StatusCode::OK
    };
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

fn start(database: &TestDatabase, collector: &str, name: &str) -> ServiceProcess {
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0"];
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_SERVICE_NAME", name)];
    ServiceProcess::try_start_with(&arguments, "warn", &variables).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_append_is_followed_through_batch_commit_tail_and_frame_and_to_another_instance() {
    let database = TestDatabase::migrated().await;
    let (address, received) = collector().await;
    let (one, two) = (start(&database, &address, "one"), start(&database, &address, "two"));
    let mut here = Events::open(&format!("{}/v1/streams/a-1/events", one.url), &[]).await;
    let mut there = Events::open(&format!("{}/v1/streams/a-1/events", two.url), &[]).await;
    here.next("caught-up").await;
    there.next("caught-up").await;
    let append = |flags: &'static str| {
        let request = http_client().post(format!("{}/v1/streams/a-1/messages", one.url));
        let request = request.json(&json!({ "messages": [{ "type": "T" }] }));
        match flags {
            "" => request.send(),
            flags => request.header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}")).send(),
        }
    };
    // Those that nobody records leave no span.
    for flags in ["", "00", "01"] {
        assert_eq!(append(flags).await.unwrap().status(), 201);
    }
    here.messages(3).await;
    let followed = there.messages(3).await;
    assert_eq!(followed[2]["metadata"]["traceparent"], format!("00-{TRACE}-{CALLER}-01"));
    // What is left is sent before the end.
    for service in [one, two] {
        assert!(service.stop().success());
    }
    let spans = received.lock().clone();
    let named = |name: &str, service: &str| -> Vec<&Received> {
        spans.iter().filter(|span| span.name == name && span.service == service).collect()
    };
    assert!(spans.iter().all(|span| span.scope == "headwater"), "{spans:#?}");
    let counts =
        ["append", "batch", "commit", "tail", "frame"].map(|name| (named(name, "one").len(), named(name, "two").len()));
    assert_eq!(counts, [(1, 0), (1, 0), (1, 0), (1, 1), (1, 1)], "{spans:#?}");
    let (append, batch, commit) = (named("append", "one")[0], named("batch", "one")[0], named("commit", "one")[0]);
    // The caller's trace has the append, and the way to each follower, on whichever instance.
    for span in [append]
        .into_iter()
        .chain(["one", "two"].into_iter().flat_map(|service| [named("tail", service)[0], named("frame", service)[0]]))
    {
        assert_eq!((span.trace_id.as_str(), span.parent.as_str()), (TRACE, CALLER), "{span:?}");
    }
    for service in ["one", "two"] {
        assert_eq!(named("frame", service)[0].facts["headwater.global_position"], 3);
    }
    // The batch has a trace of its own, as it serves many requests; both sides link to each other.
    assert_ne!(batch.trace_id, TRACE);
    assert_eq!(batch.links, [(TRACE.to_owned(), append.span_id.clone())]);
    assert_eq!(append.links, [(batch.trace_id.clone(), batch.span_id.clone())]);
    assert_eq!((&commit.trace_id, &commit.parent), (&batch.trace_id, &batch.span_id));
    assert_eq!(batch.facts["headwater.messages"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_disturbs_nobody() {
    let database = TestDatabase::migrated().await;
    let service = start(&database, "http://127.0.0.1:1", "one");
    for _ in 0..20 {
        let request = http_client().post(format!("{}/v1/streams/a-1/messages", service.url));
        let request = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
        assert_eq!(request.json(&json!({ "messages": [{ "type": "T" }] })).send().await.unwrap().status(), 201);
    }
    assert!(service.stop().success());
}
