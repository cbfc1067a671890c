//! The aggregated stream of depeche_db's document: five streams, twenty numbers, three partitions, read and followed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::aggregated::{define, path_of, projected};
use crate::support::app::{TestApp, encode};
use crate::support::database::TestDatabase;
use crate::support::events::{Event, Events};

const NAME: &str = "example_docs_aggregate_me2";

/// A message as the document writes it: its stream and its number.
#[derive(Debug, Clone, PartialEq)]
struct Written {
    id: String,
    stream: String,
    version: i64,
    global_position: i64,
    num: i64,
}

struct Example {
    app: TestApp,
    written: Vec<Written>,
    _database: TestDatabase,
}

impl Example {
    /// Messages of other streams and of `EventB` are between them, as in the chapter before.
    async fn new() -> Self {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        app.write("user-1", "EventA", json!({ "num": 1 })).await;
        app.write("aggregate-you-1", "EventA", json!({ "num": 1 })).await;
        let mut example = Self { app, written: Vec::new(), _database: database };
        for _ in 0..20 {
            example.write(fastrand::i64(0..=200)).await;
            example.app.write("user-1", "EventB", json!({})).await;
        }
        example
    }

    /// `message_store.write(stream=f"aggregate-me-{n % 5}", message=EventA(num=n))`
    async fn write(&mut self, num: i64) -> Written {
        let stream = format!("aggregate-me-{}", num % 5);
        let answer =
            self.app.append(&stream, &json!({ "messages": [{ "type": "EventA", "data": { "num": num } }] })).await;
        let message = &answer.json()["messages"][0];
        let written = Written {
            id: message["id"].as_str().unwrap().to_owned(),
            version: message["position"].as_i64().unwrap(),
            global_position: message["global_position"].as_i64().unwrap(),
            stream,
            num,
        };
        self.written.push(written.clone());
        written
    }

    /// `message_store.aggregated_stream(…)` and `projector.update_full()`
    async fn define(&self) {
        let definition = json!({
            "stream_wildcards": ["aggregate-me-%"],
            "partitioner": { "kind": "cel", "expression": "type == 'EventA' ? data.num % 3 : 0" },
            "max_partition": 2
        });
        define(&self.app, NAME, &definition).await;
        projected(&self.app, NAME, self.written.last().unwrap().global_position).await;
    }

    /// The `(partition, position, message)` of each message, in the order of the log.
    fn expected(&self) -> Vec<(i64, i64, Written)> {
        let mut next: HashMap<i64, i64> = HashMap::new();
        let place = |written: &Written| {
            let position = next.entry(written.num % 3).or_default();
            *position += 1;
            (written.num % 3, *position - 1, written.clone())
        };
        self.written.iter().map(place).collect()
    }

    /// `aggregated_stream.read(partition)`
    async fn read(&self, partition: i64) -> Vec<(i64, i64, Written)> {
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            let path = format!("{}/partitions/{partition}/messages?from={from}&limit=3", path_of(NAME));
            let page = self.app.get(&path).await.json();
            found.extend(page["messages"].as_array().unwrap().iter().map(placed));
            from = page["next"].as_i64().unwrap();
            if page["at_end"] == true {
                return found;
            }
        }
    }

    async fn events(&self, parameters: &str) -> Events {
        self.app.follow(&format!("{}/events?{parameters}", path_of(NAME))).await
    }
}

fn placed(one: &Value) -> (i64, i64, Written) {
    let message = &one["message"];
    assert_eq!(message["type"], "EventA");
    let written = Written {
        id: message["id"].as_str().unwrap().to_owned(),
        stream: message["stream_name"].as_str().unwrap().to_owned(),
        version: message["position"].as_i64().unwrap(),
        global_position: message["global_position"].as_i64().unwrap(),
        num: message["data"]["num"].as_i64().unwrap(),
    };
    (one["partition"].as_i64().unwrap(), one["position"].as_i64().unwrap(), written)
}

async fn take(events: &mut Events, count: usize) -> Vec<(i64, i64, Written)> {
    events.messages(count).await.iter().map(placed).collect()
}

#[tokio::test]
async fn each_partition_is_read_with_positions_and_messages() {
    let example = Example::new().await;
    example.define().await;
    let expected = example.expected();
    for partition in 0..3 {
        let of_it: Vec<_> = expected.iter().filter(|one| one.0 == partition).cloned().collect();
        assert_eq!(example.read(partition).await, of_it);
    }
    assert_eq!(example.read(3).await, [], "no partition is above get_max()");
    example.app.stop().await;
}

#[tokio::test]
async fn what_is_written_after_update_full_is_appended_in_the_right_order() {
    let mut example = Example::new().await;
    example.define().await;
    for num in [176, 4, 9] {
        let written = example.write(num).await;
        projected(&example.app, NAME, written.global_position).await;
        assert_eq!(example.read(num % 3).await.last().unwrap().2, written);
    }
    example.app.stop().await;
}

#[tokio::test]
async fn a_reader_gets_the_messages_there_are_and_then_only_new_ones() {
    let mut example = Example::new().await;
    example.define().await;
    let mut reader = example.events("from=beginning").await;
    assert_eq!(take(&mut reader, 20).await, example.expected());
    let Event { id, .. } = reader.next("caught-up").await;
    assert_eq!(id, reader.last_id);
    example.write(176).await;
    assert_eq!(take(&mut reader, 1).await, example.expected()[20..]);
    // reader.stop(), and a later one goes on where it was.
    let last_id = reader.last_id.clone().unwrap();
    drop(reader);
    example.write(177).await;
    let mut reader = Events::resume(&format!("{}{}/events", example.app.url, path_of(NAME)), &last_id).await;
    assert_eq!(take(&mut reader, 1).await, example.expected()[21..]);
    example.app.stop().await;
}

#[tokio::test]
async fn get_messages_with_a_timeout_is_a_long_poll() {
    let mut example = Example::new().await;
    example.define().await;
    let next = example.read(2).await.len();
    let path = format!("{}/partitions/2/messages?from={next}&wait=1s", path_of(NAME));
    let asked = Instant::now();
    assert_eq!(example.app.get(&path).await.json(), json!({ "messages": [], "next": next, "at_end": true }));
    assert!(asked.elapsed() >= Duration::from_secs(1), "it waits that long for new messages");
    let path = path.replace("wait=1s", "wait=20s");
    let (http, url) = (example.app.http.clone(), format!("{}{path}", example.app.url));
    let polling = tokio::spawn(async move { http.get(url).send().await.unwrap().json::<Value>().await.unwrap() });
    // One for another partition does not answer it.
    example.write(3).await;
    let written = example.write(176).await;
    let page = polling.await.unwrap();
    assert_eq!(placed(&page["messages"][0]), (2, next as i64, written));
    assert_eq!(page["next"], next + 1);
    example.app.stop().await;
}

#[tokio::test]
async fn a_reader_begins_at_its_start_point() {
    let mut example = Example::new().await;
    let split =
        example.app.get("/v1/all/messages").await.json()["messages"].as_array().unwrap().last().cloned().unwrap();
    let time = split["time"].as_str().unwrap().to_owned();
    for num in [5, 6, 7] {
        example.write(num).await;
    }
    example.define().await;
    let expected = example.expected();
    let mut end = example.events("from=end").await;
    end.next("caught-up").await;
    let mut by_default = example.events("").await;
    by_default.next("caught-up").await;
    let position = expected[10].2.global_position;
    let mut at_position = example.events(&format!("from={position}")).await;
    assert_eq!(take(&mut at_position, expected.len() - 10).await, expected[10..]);
    let mut at_time = example.events(&format!("from={}", encode(&time))).await;
    assert_eq!(take(&mut at_time, 3).await, expected[20..]);
    let mut of_two = example.events("from=beginning&partition=2&partition=0").await;
    let of_them: Vec<_> = expected.iter().filter(|one| one.0 != 1).cloned().collect();
    assert_eq!(take(&mut of_two, of_them.len()).await, of_them);
    example.write(176).await;
    let next = example.expected()[23..].to_vec();
    for events in [&mut end, &mut by_default, &mut at_position, &mut at_time, &mut of_two] {
        assert_eq!(take(events, 1).await, next);
    }
    // The same as a position in each partition, to read pages from.
    for parameter in [format!("time={}", encode(&time)), format!("global_position={}", expected[20].2.global_position)]
    {
        let found = example.app.get(&format!("{}/positions?{parameter}", path_of(NAME))).await.json();
        let before = |partition: i64| expected[..20].iter().filter(|one| one.0 == partition).count();
        let positions: Vec<Value> = found["positions"].as_array().unwrap().clone();
        for one in positions {
            let partition = one["partition"].as_i64().unwrap();
            assert_eq!(one["position"], before(partition), "{parameter}: {found}");
        }
    }
    example.app.stop().await;
}
