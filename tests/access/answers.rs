//! Every operation, tried by nobody, with other scopes than it needs, with those that it needs, and by an admin: the answers
//! are one file that is read when it changes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use headwater::http::access::{RULES, Rule};
use reqwest::Method;
use serde_json::{Value, json};

use super::table::operations;
use super::{Client, Guarded};

const FILE: &str = "tests/fixtures/access.txt";
const WRITE_VARIABLE: &str = "HEADWATER_WRITE_DOCS";
const HEAD: &str = "\
# What every operation answers to a caller without a credential, to one with other scopes than it needs, to one with the scopes
# that it needs, and to an admin: the status, and of a refusal the problem and the missing scope. Written by a test, which
# compares it: read what has changed, then
# HEADWATER_WRITE_DOCS=1 cargo test --test promises access::answers
";

/// What the requests are about. It is made again before each of them, as far as the one before has taken it away.
struct World {
    guarded: Guarded,
    admin: Client,
}

impl World {
    async fn new() -> Self {
        let guarded = Guarded::new().await;
        let admin = guarded.admin().await;
        let world = Self { guarded, admin };
        for data in [json!({ "n": 0 }), json!({ "n": 1 })] {
            world.admin.write("order-1", data).await;
        }
        world.mend().await;
        world
    }

    async fn mend(&self) {
        let orders = json!({ "categories": ["order"], "partitioner": { "kind": "constant" } });
        let by_id = json!({ "categories": ["order"], "partitioner": { "kind": "key", "of": "cardinal_id" } });
        let source = json!({ "source": { "category": "order" }, "mode": "competing" });
        for (path, body) in [
            ("/v1/aggregated-streams/orders", orders),
            ("/v1/aggregated-streams/by-id", by_id),
            ("/v1/subscriptions/billing", source),
            ("/v1/categories/order/retention", json!({ "max_count": 1_000_000 })),
        ] {
            let status = self.admin.put(path, &body).await.status;
            assert!([200, 201].contains(&status), "{path}: {status}");
        }
    }

    /// A message that can be erased, or a key that can be revoked.
    async fn id(&self, path: &str) -> String {
        match path.starts_with("/v1/keys") {
            true => {
                let made = self.admin.post("/v1/keys", &json!({ "name": "n", "scopes": ["read:a"] })).await;
                made.json()["id"].as_str().unwrap().to_owned()
            }
            false => self.admin.write("order-1", json!({})).await,
        }
    }

    /// The position of a dead letter.
    async fn parked(&self) -> String {
        self.admin.write("order-1", json!({})).await;
        let fetch = json!({ "consumer": "w1", "limit": 1, "wait": "5s" });
        let fetched = self.admin.post("/v1/subscriptions/billing/fetch", &fetch).await.json();
        let message = &fetched["messages"][0];
        let nack = json!({ "position": message["position"], "epoch": message["epoch"], "action": "park" });
        let parked = json!({ "consumer": "w1", "nacks": [nack] });
        let answer = self.admin.post("/v1/subscriptions/billing/nacks", &parked).await;
        assert_eq!(answer.json()["nacked"], 1, "{fetched}");
        message["position"].to_string()
    }

    /// The path with its parameters, and with the query that it cannot do without.
    async fn path(&self, path: &str) -> String {
        let name = if path.contains("/keys") { "by-id" } else { "orders" };
        let name = if path.starts_with("/v1/subscriptions") { "billing" } else { name };
        let mut filled = path.to_owned();
        for (parameter, value) in [
            ("stream_name", "order-1"),
            ("category", "order"),
            ("name", name),
            ("partition", "0"),
            ("key", "1"),
            ("consumer", "w1"),
            ("problem", "forbidden"),
            ("*rest", "swagger-ui.css"),
            ("*path", "style.css"),
        ] {
            filled = filled.replace(&format!("{{{parameter}}}"), value);
        }
        if path.contains("{consumer}") {
            // A lease may have run out, or the consumer was removed.
            let joined = self.admin.post("/v1/subscriptions/billing/fetch", &json!({ "consumer": "w1" })).await;
            assert_eq!(joined.status, 200, "{}", joined.text);
        }
        if filled.contains("{position}") {
            filled = filled.replace("{position}", &self.parked().await);
        }
        if filled.contains("{id}") {
            filled = filled.replace("{id}", &self.id(path).await);
        }
        let query = match path {
            "/v1/events" => "?stream_name=order-1",
            "/v1/aggregated-streams/{name}/positions" => "?global_position=1",
            "/v1/subscriptions/{name}/events" => "?consumer=w1",
            _ => "",
        };
        filled + query
    }
}

/// A body that is right, of an operation that has one.
fn body(method: &str, path: &str) -> Option<Value> {
    let place = json!({ "position": 0, "epoch": 0 });
    Some(match (method, path) {
        ("POST", "/v1/streams/{stream_name}/messages") => json!({ "messages": [{ "type": "T" }] }),
        ("POST", "/v1/streams/{stream_name}/trim") => json!({ "keep_last": 1000 }),
        ("POST", "/v1/appends") => json!({ "appends": [{ "stream_name": "order-1", "messages": [{ "type": "T" }] }] }),
        ("PUT", "/v1/categories/{category}/retention") => json!({ "max_count": 1_000_000 }),
        ("PUT", "/v1/aggregated-streams/{name}") => {
            json!({ "categories": ["order"], "partitioner": { "kind": "constant" } })
        }
        ("PUT", "/v1/subscriptions/{name}") => json!({ "source": { "category": "order" }, "mode": "competing" }),
        ("PATCH", "/v1/subscriptions/{name}") => json!({ "max_in_flight": 100 }),
        ("POST", "/v1/subscriptions/{name}/fetch") => json!({ "consumer": "w1" }),
        ("POST", "/v1/subscriptions/{name}/acks") => json!({ "consumer": "w1", "acks": [place] }),
        ("POST", "/v1/subscriptions/{name}/nacks") => json!({ "consumer": "w1", "nacks": [place] }),
        ("POST", "/v1/subscriptions/{name}/extensions") => json!({ "consumer": "w1", "extensions": [place] }),
        ("POST", "/v1/subscriptions/{name}/claims") => json!({ "consumer": "w1" }),
        ("POST", "/v1/subscriptions/{name}/seek") => json!({ "to": "beginning" }),
        ("POST", "/v1/subscriptions/{name}/parked/replay") => json!({ "all": true }),
        ("POST", "/v1/keys") => json!({ "name": "n", "scopes": ["read:a"] }),
        ("POST", "/v1/tickets") => json!({ "scopes": ["read:order-1"] }),
        _ => return None,
    })
}

/// Scopes that are not enough, as near to enough as they can be, and scopes that are just enough.
fn scopes(rule: Rule, path: &str) -> [&'static [&'static str]; 2] {
    match rule {
        Rule::Public => [&["read:elsewhere-*"], &["read:elsewhere-*"]],
        Rule::Credentials => [&["append:*"], &["read:order-1"]],
        Rule::ReadStream => [&["read:order-2", "append:*", "subscribe:*"], &["read:order-1"]],
        Rule::ReadCategory => [&["read:account*", "append:*", "subscribe:*"], &["read:order-1"]],
        Rule::ReadLog => [&["append:*", "subscribe:*"], &["read:order-1"]],
        Rule::ReadSources | Rule::ReadMessage => [&["read:order-2", "append:*", "subscribe:*"], &["read:order-1"]],
        Rule::ReadAggregated => [&["read:order-*", "append:*", "subscribe:*"], &["read:order*"]],
        Rule::ReadEverything => [&["read:a*", "append:*", "subscribe:*"], &["read:*"]],
        Rule::AppendToStream | Rule::AppendToStreams => {
            [&["append:order-2", "read:*", "subscribe:*"], &["append:order-1"]]
        }
        Rule::Subscribe if path.starts_with("/v1/subscriptions") => {
            [&["subscribe:billing", "read:order-*", "append:*"], &["subscribe:billing", "read:order*"]]
        }
        Rule::Subscribe => [&["subscribe:orders", "read:order-*", "append:*"], &["subscribe:orders", "read:order*"]],
        Rule::Admin => [&["read:*", "append:*", "subscribe:*"], &["admin"]],
    }
}

/// The status; of a refusal the problem, and the scope that is missing.
async fn answer(client: &Client, method: &str, path: &str, body: Option<&Value>) -> String {
    let request = client.request(Method::from_bytes(method.as_bytes()).unwrap(), path);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let response = request.send().await.unwrap();
    let mut said = response.status().as_u16().to_string();
    // An event stream does not end.
    if response.headers().get("content-type").is_some_and(|kind| kind == "application/problem+json") {
        let problem: Value = response.json().await.unwrap();
        let _ = write!(said, " {}", problem["type"].as_str().unwrap().trim_start_matches("/problems/"));
        if let Some(scope) = problem["scope"].as_str() {
            let _ = write!(said, " ({scope})");
        }
    }
    said
}

#[tokio::test]
async fn every_operation_answers_each_caller_as_the_reviewed_file_says() {
    let world = World::new().await;
    let rules: Vec<(String, String, Rule)> =
        RULES.iter().map(|(method, path, rule)| ((*method).to_owned(), (*path).to_owned(), *rule)).collect();
    let mut untried: BTreeSet<_> = operations().into_iter().map(|(method, path, _)| (method, path)).collect();
    let mut said = String::from(HEAD);
    for (method, path, rule) in rules {
        untried.remove(&(method.clone(), path.clone()));
        let _ = write!(said, "\n{method} {path}\n");
        let [wrong, right] = scopes(rule, &path);
        let (wrong_caller, right_caller) = (world.guarded.caller(wrong).await, world.guarded.caller(right).await);
        let callers = [
            ("nobody".to_owned(), &world.guarded.nobody()),
            (wrong.join(" "), &wrong_caller),
            (right.join(" "), &right_caller),
            ("admin".to_owned(), &world.admin),
        ];
        // Where that is what is needed, an admin is tried once.
        let tried = if rule == Rule::Admin { 0..3 } else { 0..4 };
        for (name, client) in &callers[tried] {
            let filled = world.path(&path).await;
            let answered = answer(client, &method, &filled, body(&method, &path).as_ref()).await;
            let _ = writeln!(said, "  {name:<44} {answered}");
            if method != "GET" && answered.starts_with('2') {
                world.mend().await;
            }
        }
    }
    assert!(untried.is_empty(), "these operations have no rule: {untried:?}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        std::fs::write(&file, &said).unwrap();
    }
    let reviewed = std::fs::read_to_string(&file).unwrap_or_default();
    let changed: Vec<_> = reviewed.lines().zip(said.lines()).filter(|(was, is)| was != is).take(20).collect();
    assert!(reviewed == said, "{FILE} says otherwise: (file, service) {changed:#?}");
    world.guarded.end().await;
}
