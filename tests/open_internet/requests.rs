//! Requests at random, over raw sockets: whatever is sent, nothing hangs, nothing is a fault of the service, and it is alive
//! afterwards.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::raw_http::RawHttp;
use crate::support::seeds::seeds;

const CLIENTS: u64 = 4;
const REQUESTS: usize = 500;

/// Parts of paths, parameters, headers and bodies. Each is right for something.
const WORDS: [&str; 74] = [
    "",
    "0",
    "1",
    "-1",
    "7",
    "10000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "1e3",
    "NaN",
    "account-1",
    "account",
    "order",
    "a",
    "billing",
    "all",
    "$all",
    "beginning",
    "end",
    "latest_of_each",
    "last",
    "w1",
    "0192f1c2-0000-7000-8000-000000000000",
    "not-a-uuid",
    "2026-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "infinity",
    "9999-12-31T23:59:60Z",
    "100ms",
    "1s",
    "0s",
    "5m",
    "99999999999999d",
    "true",
    "false",
    "null",
    "[]",
    "{}",
    "\"\"",
    "data.n == 1",
    "data.n %",
    "type in ['Opened']",
    "((((((((((",
    "has(data.n) && -data.n > 0",
    "'\\0'",
    "Opened",
    "Opened,Closed",
    "%00",
    "%ff",
    "%2F",
    "%",
    "%zz",
    "..%2f",
    "é",
    "𝄞",
    "\u{feff}",
    "\u{202e}",
    "A\u{300}",
    "a b",
    "a+b",
    "a;b",
    "a=b&c",
    "a#b",
    "account-%",
    "%%%%",
    "1017~5f3a09c1",
    "0~00000000",
    "1.1~5f3a09c1",
    "W/\"x\"",
    "*",
    "x\u{7f}",
    "~",
    "\u{0}",
];
const PARAMETERS: [&str; 36] = [
    "from",
    "to",
    "limit",
    "wait",
    "types",
    "filter",
    "from_time",
    "to_time",
    "direction",
    "cursor",
    "last_event_id",
    "heartbeat",
    "event_names",
    "stream_name",
    "category",
    "aggregated_stream",
    "partition",
    "key",
    "prefix",
    "consumer",
    "max_in_flight",
    "min_idle",
    "min_position",
    "time",
    "global_position",
    "correlation",
    "consumer_group_member",
    "consumer_group_size",
    "reason",
    "max_bytes",
    "from_last",
    "max_age",
    "ticket",
    "order",
    "after",
    "unknown",
];
const HEADERS: [&str; 22] = [
    "Accept",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Expect",
    "Forwarded",
    "Host",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Origin",
    "Range",
    "Sec-Fetch-Site",
    "TE",
    "Trailer",
    "Upgrade",
    "X-Forwarded-For",
    "X-HTTP-Method-Override",
    "Prefer",
];
const HEADER_VALUES: [&str; 24] = [
    "text/event-stream",
    "application/x-ndjson",
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "*/*",
    "Bearer",
    "Bearer x",
    "Bearer ....",
    "Bearer eyJhbGciOiJub25lIn0.e30.",
    "bearer \u{e9}",
    "Basic YTpi",
    "100-continue",
    "keep-alive",
    "close",
    "upgrade, h2c",
    "gzip",
    "chunked",
    "localhost",
    "127.0.0.1:1",
    "null",
    "same-origin",
    "bytes=0-10",
    "ticket=x; ticket=y",
];
const FIELDS: [&str; 40] = [
    "messages",
    "type",
    "data",
    "metadata",
    "id",
    "time",
    "expected_version",
    "must_exist",
    "appends",
    "stream_name",
    "conditions",
    "ack",
    "query",
    "categories",
    "types",
    "filter",
    "after",
    "key",
    "aggregated_stream",
    "stream_wildcards",
    "partitioner",
    "kind",
    "pointer",
    "method",
    "partitions",
    "max_partition",
    "on_error",
    "source",
    "from",
    "mode",
    "ack_timeout",
    "max_in_flight",
    "consumer",
    "acks",
    "nacks",
    "positions",
    "before_position",
    "keep_last",
    "max_age",
    "unknown",
];

struct Fuzz {
    random: Rng,
    /// Paths of the document, with their methods.
    operations: Vec<(String, String)>,
}

impl Fuzz {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.random.usize(..of.len())]
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(..100) < percent
    }

    fn word(&mut self) -> String {
        match self.random.u8(..20) {
            0 => self.one(&WORDS).repeat(self.random.usize(..400)),
            1 => (0..self.random.usize(..30)).map(|_| self.random.char(..)).collect(),
            2 => format!("{}{}", self.one(&WORDS), self.one(&WORDS)),
            _ => self.one(&WORDS).to_owned(),
        }
    }

    /// Mostly encoded as it should be.
    fn encoded(&mut self) -> String {
        let word = self.word();
        if self.chance(80) { crate::support::app::encode(&word) } else { word.replace([' ', '\0', '\n', '\r'], "_") }
    }

    fn target(&mut self) -> (String, String) {
        let (path, method) = self.operations[self.random.usize(..self.operations.len())].clone();
        let mut target = String::new();
        for segment in path.split('/').skip(1) {
            target.push('/');
            if segment.contains('{') && self.chance(40) || self.chance(2) {
                let word = self.encoded();
                target.push_str(&word);
            } else {
                target.push_str(match segment {
                    "{stream_name}" => "account-1",
                    "{category}" => "account",
                    "{id}" => "0192f1c2-0000-7000-8000-000000000000",
                    "{partition}" | "{position}" => "0",
                    "{name}" if path.contains("subscriptions") => "billing",
                    "{name}" => "all",
                    "{consumer}" => "w1",
                    "{key}" => "X1",
                    "{problem}" => "forbidden",
                    other => other,
                });
            }
        }
        let mut separator = '?';
        while self.chance(45) {
            let (name, value) = (self.one(&PARAMETERS), self.encoded());
            target.push_str(&format!("{separator}{name}={value}"));
            separator = '&';
        }
        let method =
            if self.chance(10) { self.one(&["GET", "PUT", "PATCH", "DELETE", "POST", "BREW"]).into() } else { method };
        (method, target)
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.random.u8(..if depth > 3 { 6 } else { 10 }) {
            0 => Value::Null,
            1 => self.random.bool().into(),
            2 => self.random.i64(..).into(),
            3 => self.random.i64(-2..10).into(),
            4 | 5 => self.word().into(),
            6 => (0..self.random.usize(..4)).map(|_| self.value(depth + 1)).collect(),
            _ => {
                let fields = (0..self.random.usize(..5)).map(|_| (self.one(&FIELDS).to_owned(), self.value(depth + 1)));
                Value::Object(fields.collect())
            }
        }
    }

    /// Something that is right for some path, now and then with another value in it.
    fn document(&mut self) -> Value {
        let mut document = match self.random.u8(..9) {
            0 => json!({ "messages": [{ "type": "Opened", "data": { "n": 1 } }], "expected_version": 3 }),
            1 => json!({ "appends": [{ "stream_name": "account-2", "messages": [{ "type": "T" }] }],
                "conditions": [{ "query": { "categories": ["account"], "types": ["T"], "filter": "data.n == 1" }, "after": 0 }] }),
            2 => {
                json!({ "categories": ["account"], "partitioner": { "kind": "cel", "expression": "position % 3" }, "max_partition": 2 })
            }
            3 => {
                json!({ "stream_wildcards": ["account-%"], "partitioner": { "kind": "key", "of": "data", "pointer": "/n" } })
            }
            4 => {
                json!({ "source": { "category": "account" }, "mode": "competing", "filter": "true", "ack_timeout": "30s" })
            }
            5 => json!({ "consumer": "w1", "limit": 10, "wait": "100ms" }),
            6 => json!({ "consumer": "w1", "acks": [{ "partition": 0, "position": 1, "epoch": 1 }] }),
            7 => json!({ "to": "beginning", "dry_run": true }),
            _ => self.value(0),
        };
        while self.chance(50) {
            let (field, value) = (self.one(&FIELDS).to_owned(), self.value(1));
            self.change(&mut document, field, value);
        }
        document
    }

    /// Puts a value somewhere into a document.
    fn change(&mut self, document: &mut Value, field: String, value: Value) {
        match document {
            Value::Array(items) if !items.is_empty() => {
                let number = self.random.usize(..items.len());
                self.change(&mut items[number], field, value);
            }
            Value::Object(fields) if !fields.is_empty() && self.chance(70) => {
                let number = self.random.usize(..fields.len());
                if let Some(inner) = fields.values_mut().nth(number) {
                    self.change(inner, field, value);
                }
            }
            Value::Object(fields) => {
                fields.insert(field, value);
            }
            other => *other = value,
        }
    }

    fn body(&mut self) -> Vec<u8> {
        let mut bytes = match self.random.u8(..10) {
            0 => (0..self.random.usize(..200)).map(|_| self.random.u8(..)).collect(),
            1 => "[".repeat(self.random.usize(..2_000)).into_bytes(),
            2 => (0..self.random.usize(..5)).map(|_| format!("{}\n", self.document())).collect::<String>().into_bytes(),
            3 => b"{\"type\":\"T\"}\n{\"type\":\"T\",\"data\":1}\r\n\n".repeat(self.random.usize(1..4)),
            _ => self.document().to_string().into_bytes(),
        };
        while self.chance(15) && !bytes.is_empty() {
            let at = self.random.usize(..bytes.len());
            match self.random.u8(..3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = self.random.u8(..),
                _ => bytes.insert(at, self.random.u8(..)),
            }
        }
        bytes
    }

    /// The bytes of a request.
    fn request(&mut self) -> Vec<u8> {
        let (method, target) = self.target();
        let body = if method == "GET" && self.chance(95) { Vec::new() } else { self.body() };
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if self.chance(98) {
            head.push_str("Host: localhost\r\n");
        }
        if self.chance(90) && !body.is_empty() {
            head.push_str(if self.chance(80) {
                "Content-Type: application/json\r\n"
            } else {
                "Content-Type: application/x-ndjson\r\n"
            });
        }
        while self.chance(40) {
            let value = if self.chance(60) { self.one(&HEADER_VALUES).to_owned() } else { self.word() };
            let name = self.one(&HEADERS);
            head.push_str(&format!("{name}: {}\r\n", value.replace(['\r', '\n', '\0'], "_")));
        }
        let mut bytes = head.into_bytes();
        if body.is_empty() {
            bytes.extend(b"\r\n");
        } else if self.chance(30) {
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(self.random.usize(1..100)) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            bytes.extend(body);
        }
        while self.chance(3) {
            let at = self.random.usize(..bytes.len());
            bytes[at] = self.random.u8(..);
        }
        bytes
    }
}

fn operations() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&headwater::http::openapi::document()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|key| !["parameters", "summary"].contains(&key.as_str()));
        found.extend(methods.map(|method| (path.clone(), method.to_uppercase())));
    }
    found
}

/// Sends requests on connections of its own until all are answered.
async fn fuzz(url: String, seed: u64) {
    let mut fuzz = Fuzz { random: Rng::with_seed(seed), operations: operations() };
    let mut raw = RawHttp::connect(&url).await;
    for _ in 0..REQUESTS {
        let request = fuzz.request();
        raw.send(&request).await;
        // As a client that has no more to say would: a body that is shorter than announced ends here.
        let _ = raw.try_end_sending().await;
        let mut answer = raw.answer_within(PATIENCE).await;
        // `Expect: 100-continue` is answered on the way: the answer proper comes behind it.
        while answer.as_ref().is_some_and(|answer| answer.status == 100) {
            answer = raw.answer_within(PATIENCE).await;
        }
        if let Some(answer) = answer {
            let place = || format!("seed {seed}: {}", String::from_utf8_lossy(&request));
            // A server that is so busy that it does not hear itself is not ready, and says so.
            let is_unready = answer.status == 503 && answer.text.contains("\"checks\"");
            assert!(answer.status < 500 || is_unready, "{}\n{}", answer.text, place());
            let header = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("x-content-type-options"), Some("nosniff"), "{}\n{}", answer.status, place());
            if answer.status >= 400 {
                assert_eq!(header("content-type"), Some("application/problem+json"), "{}\n{}", answer.status, place());
            }
        }
        raw = RawHttp::connect(&url).await;
    }
}

/// Tokens of every form, none of which is a credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_at_random_open_nothing() {
    let seed = seeds(1).next().expect("a seed");
    let mut fuzz = Fuzz { random: Rng::with_seed(seed), operations: operations() };
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let key = app.make_key(&["read:*"]).await;
    let ticket = app.post("/v1/tickets", &json!({ "scopes": ["read:*"], "ttl": "1m" })).await.json();
    let ticket = ticket["ticket"].as_str().unwrap();
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6ImFkbWluIiwiZXhwIjo5OTk5OTk5OTk5fQ.c2lnbmF0dXJl";
    for _ in 0..400 {
        let mut token = match fuzz.random.u8(..6) {
            0 => fuzz.word(),
            1 | 2 => key.clone(),
            3 | 4 => ticket.to_owned(),
            _ => jwt.to_owned(),
        }
        .into_bytes();
        let is_right = [key.as_bytes(), ticket.as_bytes()];
        for _ in 0..=fuzz.random.usize(..3) {
            let at = fuzz.random.usize(..=token.len());
            match fuzz.random.u8(..4) {
                0 => token.truncate(at),
                1 if at < token.len() => token[at] = fuzz.random.u8(0x21..0x7f),
                2 => token.insert(at, fuzz.random.u8(0x21..0x7f)),
                _ => token.extend(fuzz.one(&WORDS).bytes()),
            }
        }
        if is_right.contains(&token.as_slice()) {
            continue;
        }
        let shown: String = String::from_utf8_lossy(&token).replace(['\r', '\n', '\0'], "_");
        let encoded = crate::support::app::encode(&shown);
        for head in [
            format!("GET /v1/all/messages HTTP/1.1\r\nAuthorization: Bearer {shown}\r\n"),
            format!("GET /v1/all/messages HTTP/1.1\r\nAuthorization: {shown}\r\n"),
            format!("GET /v1/all/events?ticket={encoded} HTTP/1.1\r\n"),
            format!("GET /v1/all/messages?ticket={encoded} HTTP/1.1\r\n"),
            format!("GET /v1/all/events HTTP/1.1\r\nCookie: a=b; headwater_ticket={}\r\n", shown.replace(';', "+")),
        ] {
            let mut raw = RawHttp::connect(&app.url).await;
            raw.send(format!("{head}Host: localhost\r\n\r\n").as_bytes()).await;
            let answer =
                raw.answer_within(PATIENCE).await.unwrap_or_else(|| panic!("seed {seed}: no answer to {head:?}"));
            assert!([400, 401, 414, 422, 431].contains(&answer.status), "seed {seed}: {} to {head:?}", answer.status);
            assert!(!answer.text.contains(&key) && !answer.text.contains(ticket), "seed {seed}: {head:?}");
        }
    }
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_random_find_no_fault() {
    let seed = seeds(1).next().expect("a seed");
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.request_timeout = Duration::from_secs(2);
        settings.wait_max = Duration::from_secs(1);
    })
    .await;
    app.write("account-1", "Opened", json!({ "n": 1 })).await;
    let keyed = json!({ "categories": ["account"], "partitioner": { "kind": "key", "of": "data", "pointer": "/n" } });
    assert_eq!(app.put("/v1/aggregated-streams/all", &keyed).await.status, 201);
    assert_eq!(app.put("/v1/subscriptions/billing", &json!({ "source": { "category": "account" } })).await.status, 201);
    let clients = (0..CLIENTS).map(|number| tokio::spawn(fuzz(app.url.clone(), seed.wrapping_add(number))));
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    assert_eq!(app.metric("headwater_store_errors_total{kind=\"bug\"}").await, 0.0);
    assert_eq!(app.metric("headwater_store_errors_total{kind=\"refused\"}").await, 0.0);
    let mut events = app.follow("/v1/streams/alive-1/events").await;
    events.next("caught-up").await;
    app.write("alive-1", "Written", json!({})).await;
    events.next("message").await;
    app.stop().await;
}
