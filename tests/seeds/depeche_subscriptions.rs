//! The aggregated streams of depeche_db and what consumes them: readers, start points and subscriptions.
//!
//! What the document has and HTTP has not: a partitioner that is a Python class (an expression says the same),
//! `update_full` and the executor (the service projects by itself; `min_position` waits for it), messages that are
//! links only (here they come whole), and `LISTEN`, which is the service's own affair.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::subscriptions::{Sub, counts, held, numbers, place, positions};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;

const AGGREGATE: &str = "/v1/aggregated-streams/example_docs_aggregate_me2";

/// The document's aggregated stream, in three partitions.
fn definition() -> Value {
    json!({
        "stream_wildcards": ["aggregate-me-%"],
        "partitioner": { "kind": "cel", "expression": "type == 'EventA' ? data.n % 3 : 0" },
        "max_partition": 2,
    })
}

fn source() -> Value {
    json!({ "aggregated_stream": "example_docs_aggregate_me2" })
}

async fn service() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    assert_eq!(app.put(AGGREGATE, &definition()).await.status, 201);
    (database, app)
}

/// Writes `EventA(num=n)` to `aggregate-me-{n % 5}`, and waits until they are projected; the time of each.
async fn write(app: &TestApp, numbers: std::ops::Range<i64>) -> HashMap<i64, String> {
    let mut times = HashMap::new();
    let mut last = 0;
    for n in numbers {
        let stream = format!("aggregate-me-{}", n % 5);
        let body = json!({ "messages": [{ "type": "EventA", "data": { "n": n } }] });
        let written = app.append(&stream, &body).await.json()["messages"][0].clone();
        last = written["global_position"].as_i64().unwrap();
        times.insert(n, written["time"].as_str().unwrap().to_owned());
    }
    let projected = app.get(&format!("{AGGREGATE}?min_position={last}&wait=20s")).await.json();
    assert_eq!(projected["status"]["projected_position"], last);
    times
}

/// By partition, in the order in which they came.
fn by_partition(deliveries: &[Value]) -> HashMap<i64, Vec<i64>> {
    let mut all: HashMap<i64, Vec<i64>> = HashMap::new();
    for delivery in deliveries {
        let position = delivery["position"].as_i64().unwrap();
        all.entry(delivery["partition"].as_i64().unwrap()).or_default().push(position);
    }
    all
}

/// `next(aggregated_stream.read(partition=2))`, and `reader.get_messages(timeout=1)`.
#[tokio::test]
async fn a_reader_goes_on_where_it_has_been() {
    let (_database, app) = service().await;
    write(&app, 0..20).await;
    let first = app.get(&format!("{AGGREGATE}/partitions/2/messages?limit=1")).await.json()["messages"][0].clone();
    assert_eq!((&first["partition"], &first["position"]), (&json!(2), &json!(0)));
    assert_eq!(first["message"]["stream_name"], "aggregate-me-2");
    let mut reader = app.follow(&format!("{AGGREGATE}/events?from=beginning")).await;
    let all = reader.messages(20).await;
    assert_eq!(by_partition(&all)[&2], (0..6).collect::<Vec<_>>());
    // The next call brings only what was written since.
    let (more, _) = tokio::join!(reader.messages(2), write(&app, 20..22));
    assert_eq!(numbers(&more), [20, 21]);
    app.stop().await;
}

#[tokio::test]
async fn it_starts_at_the_beginning_at_the_next_message_or_at_a_position() {
    let (_database, app) = service().await;
    let times = write(&app, 0..15).await;
    for (name, from, expected) in [
        ("beginning", json!("beginning"), (0..15).collect::<Vec<_>>()),
        ("next", json!("end"), vec![]),
        ("position", json!(4), vec![12, 13, 14]),
        ("time", json!(times[&10]), vec![10, 11, 12, 13, 14]),
        ("later", json!("2100-01-01T00:00:00Z"), vec![]),
    ] {
        let sub = Sub::new(&app, name, json!({ "source": source(), "from": from })).await;
        let mut found = numbers(&sub.drain("w1").await);
        found.sort_unstable();
        assert_eq!(found, expected, "{name}");
    }
    write(&app, 15..17).await;
    for name in ["next", "position", "later"] {
        let sub = Sub { app: &app, name: name.to_owned() };
        assert_eq!(numbers(&sub.drain("w1").await), [15, 16], "{name}");
    }
    app.stop().await;
}

/// A partition that appears after the start holds nothing from before it.
#[tokio::test]
async fn from_the_next_message_means_in_new_partitions_too() {
    let (_database, app) = service().await;
    write(&app, 0..1).await;
    let sub = Sub::new(&app, "next", json!({ "source": source(), "from": "end" })).await;
    assert_eq!(sub.fetch("w1", 10).await.len(), 0);
    write(&app, 1..4).await;
    let found = sub.drain("w1").await;
    assert_eq!((numbers(&found), positions(&found)), (vec![1, 2, 3], vec![0, 0, 1]));
    app.stop().await;
}

#[tokio::test]
async fn three_consumers_get_each_partition_in_its_order() {
    let (_database, app) = service().await;
    write(&app, 0..3).await;
    let sub = Sub::new(&app, "sub", json!({ "source": source(), "from": "end" })).await;
    let names = ["w1", "w2", "w3"];
    let mut consumers = Vec::new();
    for name in names {
        consumers.push(app.follow(&sub.path(&format!("/events?consumer={name}"))).await);
    }
    let status = sub.until("each holds one", |status| names.iter().all(|name| held(status, name).len() == 1)).await;
    write(&app, 3..63).await;
    let each = futures_util::future::join_all(consumers.iter_mut().zip(names).map(async |(events, name)| {
        let found = events.messages(20).await;
        sub.acked(name, &found).await;
        found
    }))
    .await;
    for (name, found) in names.iter().zip(each) {
        let partition = held(&status, name)[0];
        assert_eq!(by_partition(&found), HashMap::from([(partition, (1..21).collect())]), "{name}");
        let expected: Vec<i64> = (3..63).filter(|n| n % 3 == partition).collect();
        assert_eq!(numbers(&found), expected, "{name}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_order_holds_while_consumers_come_and_go() {
    let (_database, app) = service().await;
    write(&app, 0..90).await;
    let sub = Sub::new(&app, "sub", json!({ "source": source() })).await;
    let mut done: HashMap<i64, Vec<i64>> = HashMap::new();
    for turn in 0.. {
        // Another one each time; it takes some, acks them, and goes.
        let name = format!("w{turn}");
        let found = sub.fetch(&name, 7).await;
        if found.is_empty() && sub.status().await["committed_lag"] == 0 {
            break;
        }
        sub.acked(&name, &found).await;
        for (partition, positions) in by_partition(&found) {
            done.entry(partition).or_default().extend(positions);
        }
        assert_eq!(app.delete(&sub.path(&format!("/consumers/{name}"))).await.status, 204);
    }
    let all: Vec<i64> = (0..30).collect();
    assert_eq!(done, HashMap::from([(0, all.clone()), (1, all.clone()), (2, all)]));
    app.stop().await;
}

/// Calls on a service that is a process.
struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    fn of(service: &ServiceProcess) -> Self {
        Self { http: http_client(), url: service.url.clone() }
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let answer = self.http.request(method, format!("{}{path}", self.url)).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send(reqwest::Method::POST, path, body).await
    }

    async fn append(&self, numbers: std::ops::Range<i64>) {
        for n in numbers {
            let body = json!({ "messages": [{ "type": "EventA", "data": { "n": n } }] });
            let path = format!("/v1/streams/aggregate-me-{}/messages", n % 5);
            self.post(&path, body).await;
        }
    }

    /// So many messages; with `backlog`, first what the consumer has not acked.
    async fn fetch(&self, count: usize, backlog: bool) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < count {
            let body = json!({ "consumer": "w1", "limit": count - all.len(), "wait": "20s", "backlog": backlog });
            let answer = self.post("/v1/subscriptions/sub/fetch", body).await;
            let found = answer["messages"].as_array().unwrap();
            assert!(!found.is_empty(), "nothing came after {}", all.len());
            all.extend(found.iter().cloned());
        }
        all
    }

    async fn acked(&self, acks: Vec<Value>) {
        let count = acks.len();
        let answer = self.post("/v1/subscriptions/sub/acks", json!({ "consumer": "w1", "acks": acks })).await;
        assert_eq!(answer, counts("acked", count, 0, 0));
    }
}

#[tokio::test]
async fn its_state_survives_a_restart_of_the_service() {
    let database = TestDatabase::migrated().await;
    let arguments = ["--listen", "127.0.0.1:0", "--database-url", &database.url];
    let service = ServiceProcess::start(&arguments);
    let client = Client::of(&service);
    client.send(reqwest::Method::PUT, AGGREGATE, definition()).await;
    client.send(reqwest::Method::PUT, "/v1/subscriptions/sub", json!({ "source": source() })).await;
    client.append(0..12).await;
    let found = client.fetch(12, false).await;
    // All of partition 0, the first two of partition 1, and of partition 2 none.
    client.acked(places(&found, &[(0, 3), (1, 1)])).await;
    assert!(service.stop().success());

    let service = ServiceProcess::start(&arguments);
    let client = Client::of(&service);
    client.append(12..15).await;
    // What it was at, it may finish.
    client.acked(places(&found, &[(1, 2)])).await;
    // What it has not finished comes again, when it asks for that, and then what is new.
    let again = client.fetch(5, true).await;
    assert_eq!(by_partition(&again), HashMap::from([(1, vec![3]), (2, vec![0, 1, 2, 3])]));
    assert!(again.iter().all(|delivery| delivery["delivery_count"] == 2));
    let new = client.fetch(3, false).await;
    assert_eq!(by_partition(&new), HashMap::from([(0, vec![4]), (1, vec![4]), (2, vec![4])]));
    client.acked(places(&new, &[(0, 4), (1, 4), (2, 4)])).await;
    assert!(service.stop().success());
}

/// The places of deliveries by partition and position.
fn places(deliveries: &[Value], wanted: &[(i64, i64)]) -> Vec<Value> {
    let is_wanted = |delivery: &&Value| {
        wanted
            .iter()
            .any(|(partition, position)| delivery["partition"] == *partition && delivery["position"] == *position)
    };
    deliveries.iter().filter(is_wanted).map(place).collect()
}
