//! The interface of message-db-py: each of its examples as its HTTP call, with the result that its document describes.
//!
//! What the document has and HTTP has not: installing and uninstalling the database (`headwater migrate` does that), the
//! connection pool (the service has its own), and `ValueError` for a stream without a hyphen (the path says what is
//! meant).

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::subscriptions::{Sub, held};
use crate::support::app::{TestApp, encode};
use crate::support::database::TestDatabase;

/// `MessageDB`, with the methods of the document in the order in which it lists them.
struct MessageDb {
    app: TestApp,
    database: TestDatabase,
}

impl MessageDb {
    async fn new() -> Self {
        let database = TestDatabase::migrated().await;
        Self { app: TestApp::on(&database).await, database }
    }

    /// `write(stream_name, message_type, data, metadata, expected_version) -> int`
    async fn write(&self, stream_name: &str, message_type: &str, data: Value, metadata: Value, expected: Value) -> i64 {
        let message = json!({ "type": message_type, "data": data, "metadata": metadata });
        let answer =
            self.app.append(stream_name, &json!({ "expected_version": expected, "messages": [message] })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["messages"][0]["position"].as_i64().unwrap()
    }

    /// `read(stream_name, position=0, no_of_messages=1000)`: a stream, a category or `$all`, as its name says.
    async fn read(&self, stream_name: &str, position: i64, no_of_messages: usize) -> Vec<Value> {
        let name = encode(stream_name);
        let path = match stream_name {
            "$all" => "/v1/all/messages".to_owned(),
            _ if stream_name.contains('-') => format!("/v1/streams/{name}/messages"),
            _ => format!("/v1/categories/{name}/messages"),
        };
        self.messages(&format!("{path}?from={position}&limit={no_of_messages}")).await
    }

    /// `read_last_message(stream_name)`
    async fn read_last_message(&self, stream_name: &str) -> Option<Value> {
        let answer = self.app.get(&format!("/v1/streams/{}/messages/last", encode(stream_name))).await;
        if answer.status == 404 {
            answer.problem(404, "not-found");
            return None;
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
        Some(answer.json())
    }

    async fn messages(&self, path: &str) -> Vec<Value> {
        let answer = self.app.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["messages"].as_array().unwrap().clone()
    }
}

fn positions(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["position"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn quickstart() {
    let store = MessageDb::new().await;
    store.write("user_stream", "register", json!({ "name": "John Doe" }), Value::Null, Value::Null).await;
    let message = store.read_last_message("user_stream").await.unwrap();
    assert_eq!(message["type"], "register");
    assert_eq!(message["data"], json!({ "name": "John Doe" }));
    assert_eq!(message["metadata"], Value::Null);
    store.app.stop().await;
}

#[tokio::test]
async fn write_returns_the_position() {
    let store = MessageDb::new().await;
    let data = json!({ "user_id": 123, "username": "example" });
    let metadata = json!({ "source": "web_app" });
    for expected in 0..3 {
        let position = store.write("user_updates", "UserCreated", data.clone(), metadata.clone(), Value::Null).await;
        assert_eq!(position, expected);
    }
    let message = store.read_last_message("user_updates").await.unwrap();
    assert_eq!((&message["data"], &message["metadata"]), (&data, &metadata));
    store.app.stop().await;
}

#[tokio::test]
async fn write_with_an_expected_version_is_refused_unless_the_stream_is_there() {
    let store = MessageDb::new().await;
    assert_eq!(store.write("user-1", "A", json!({}), Value::Null, json!(-1)).await, 0);
    assert_eq!(store.write("user-1", "B", json!({}), Value::Null, json!(0)).await, 1);
    let body = json!({ "expected_version": 0, "messages": [{ "type": "C", "data": {} }] });
    let problem = store.app.append("user-1", &body).await.problem(409, "wrong-expected-version");
    assert_eq!(problem["stream_name"], "user-1");
    assert_eq!(problem["expected_version"], 0);
    assert_eq!(problem["current_version"], 1);
    assert_eq!(positions(&store.read("user-1", 0, 1_000).await), [0, 1]);
    store.app.stop().await;
}

#[tokio::test]
async fn read_takes_a_position_and_a_number_of_messages() {
    let store = MessageDb::new().await;
    for n in 0..70 {
        store.write("user-updates", "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
    }
    assert_eq!(positions(&store.read("user-updates", 10, 50).await), (10..60).collect::<Vec<_>>());
    assert_eq!(positions(&store.read("user-updates", 60, 50).await), (60..70).collect::<Vec<_>>());
    assert_eq!(store.read("user-updates", 0, 1_000).await.len(), 70);
    assert_eq!(store.read("user-updates", 70, 50).await, Vec::<Value>::new());
    // A message has all that the document lists.
    let message = &store.read("user-updates", 10, 1).await[0];
    let fields: HashSet<&str> = message.as_object().unwrap().keys().map(String::as_str).collect();
    let listed = ["id", "stream_name", "type", "position", "global_position", "data", "metadata", "time"];
    assert_eq!(fields, HashSet::from(listed));
    store.app.stop().await;
}

#[tokio::test]
async fn read_all_reads_across_all_streams() {
    let store = MessageDb::new().await;
    for (stream, message_type) in [("user-1", "A"), ("order-1", "B"), ("user", "C"), ("user-2", "D")] {
        store.write(stream, message_type, json!({}), Value::Null, Value::Null).await;
    }
    let all = store.read("$all", 0, 1_000).await;
    assert_eq!(all.iter().map(|message| message["type"].clone()).collect::<Vec<_>>(), ["A", "B", "C", "D"]);
    let second = all[1]["global_position"].as_i64().unwrap();
    assert_eq!(store.read("$all", second, 2).await, all[1..3]);
    store.app.stop().await;
}

#[tokio::test]
async fn a_custom_query_is_a_filter_here_and_sql_in_the_same_database() {
    let store = MessageDb::new().await;
    for n in 0..12 {
        store.write("user-updates", "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
    }
    // The document's own custom query does what the parameters do; in SQL it goes on working, on the same messages.
    let custom = "SELECT id, position, data FROM message_store.get_stream_messages($1, $2, $3)";
    let sql = store.database.connect().await;
    let rows = sql.query(custom, &[&"user-updates", &10_i64, &50_i64]).await.unwrap();
    let in_sql: Vec<_> = rows
        .iter()
        .map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1), serde_json::from_str(row.get(2)).unwrap()))
        .collect();
    let over_http: Vec<(String, i64, Value)> = store
        .read("user-updates", 10, 50)
        .await
        .into_iter()
        .map(|m| (m["id"].as_str().unwrap().to_owned(), m["position"].as_i64().unwrap(), m["data"].clone()))
        .collect();
    assert_eq!(over_http.len(), 2);
    assert_eq!(in_sql, over_http);
    // What other queries are written for, an expression says.
    let filter = encode("data.n % 5 == 0");
    let filtered = store.messages(&format!("/v1/streams/user-updates/messages?filter={filter}")).await;
    let rows = sql
        .query(
            "SELECT position FROM message_store.messages WHERE stream_name = 'user-updates' \
             AND (data->>'n')::int % 5 = 0 ORDER BY position",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(positions(&filtered), rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>());
    store.app.stop().await;
}

#[tokio::test]
async fn read_last_message_is_none_for_an_empty_stream() {
    let store = MessageDb::new().await;
    assert_eq!(store.read_last_message("user_updates").await, None);
    store.write("user_updates", "A", json!({}), Value::Null, Value::Null).await;
    store.write("user_updates", "B", json!({ "last": true }), Value::Null, Value::Null).await;
    let last = store.read_last_message("user_updates").await.unwrap();
    assert_eq!((&last["type"], &last["position"], &last["data"]), (&json!("B"), &json!(1), &json!({ "last": true })));
    store.app.stop().await;
}

/// What `stream_identifiers(category_name)` sends: it is no function of Message DB, but a statement on its table.
const STREAM_IDENTIFIERS: &str = "SELECT DISTINCT substring(stream_name from position('-' in stream_name) + 1) \
    FROM message_store.messages WHERE stream_name LIKE $1 AND stream_name NOT LIKE $2 ORDER BY 1";

#[tokio::test]
async fn stream_identifiers_are_those_of_the_categorys_streams_in_a_report() {
    let store = MessageDb::new().await;
    for stream in ["account-2", "account-1", "account-1+7", "account-1", "account:snapshot-1", "accounts-9", "account"]
    {
        store.write(stream, "A", json!({}), Value::Null, Value::Null).await;
    }
    let sql = store.database.connect().await;
    let _ = sql.batch_execute("SET ROLE message_store").await;
    let rows = sql.query(STREAM_IDENTIFIERS, &[&"account-%", &"account:snapshot-%"]).await.unwrap();
    let in_sql: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut identifiers = Vec::new();
    let mut from = String::new();
    loop {
        let page = store.app.get(&format!("/v1/reports/streams?category=account&limit=2{from}")).await.json();
        let names = page["streams"].as_array().unwrap().iter().filter_map(|one| one["stream_name"].as_str());
        identifiers.extend(names.filter_map(|name| name.split_once('-')).map(|(_, id)| id.to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        from = format!("&from={}", encode(next));
    }
    identifiers.sort();
    assert_eq!((&in_sql, &identifiers), (&identifiers, &vec!["1".to_owned(), "1+7".into(), "2".into()]));
    store.app.stop().await;
}

#[tokio::test]
async fn read_stream_reads_one_stream_and_a_name_without_hyphen_is_one_too() {
    let store = MessageDb::new().await;
    for n in 0..3 {
        store.write("user-updates-2023", "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
        store.write("user-updates-2024", "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
    }
    let messages = store.read("user-updates-2023", 0, 100).await;
    assert_eq!(positions(&messages), [0, 1, 2]);
    assert!(messages.iter().all(|message| message["stream_name"] == "user-updates-2023"));
    // The document raises ValueError here. A bare category is a stream of its own, and the path says what is meant.
    let answer = store.app.get("/v1/streams/user/messages").await;
    assert_eq!((answer.status, &answer.json()["messages"]), (200, &json!([])));
    store.app.stop().await;
}

#[tokio::test]
async fn read_category_reads_all_its_streams_and_refuses_a_stream() {
    let store = MessageDb::new().await;
    for n in 0..4 {
        store.write(&format!("user_updates-{n}"), "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
        store.write(&format!("other-{n}"), "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
    }
    let messages = store.read("user_updates", 0, 100).await;
    assert_eq!(messages.iter().map(|message| message["data"]["n"].clone()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(store.read("user_updates", 0, 3).await, messages[..3]);
    let problem = store.app.get("/v1/categories/user_updates-1/messages").await.problem(422, "invalid");
    assert_eq!(problem["errors"][0]["field"], "category");
    store.app.stop().await;
}

#[tokio::test]
async fn write_batch_writes_all_or_nothing_and_returns_the_last_position() {
    let store = MessageDb::new().await;
    let data = json!([
        { "type": "OrderCreated", "data": { "order_id": 123, "product_id": 456 }, "metadata": null },
        { "type": "OrderShipped", "data": { "order_id": 123, "shipment_id": 789 }, "metadata": { "priority": "high" } },
        { "type": "OrderDelivered", "data": { "order_id": 123, "delivery_date": "2024-04-23" }, "metadata": null },
    ]);
    let answer = store.app.append("order_events", &json!({ "messages": data })).await;
    assert_eq!((answer.status, &answer.json()["version"]), (201, &json!(2)));
    let again = store.app.append("order_events", &json!({ "expected_version": 2, "messages": data })).await;
    assert_eq!((again.status, &again.json()["version"]), (201, &json!(5)));
    let stale = store.app.append("order_events", &json!({ "expected_version": 2, "messages": data })).await;
    assert_eq!(stale.problem(409, "wrong-expected-version")["current_version"], 5);
    let written = store.messages("/v1/streams/order_events/messages").await;
    let types: Vec<_> = written.iter().map(|message| message["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["OrderCreated", "OrderShipped", "OrderDelivered"].repeat(2));
    assert_eq!(written[1]["metadata"], json!({ "priority": "high" }));
    store.app.stop().await;
}

/// The document's complete example: `process_messages` of each consumer, polling until nothing is left.
#[tokio::test]
async fn three_consumers_poll_until_empty_and_each_stream_is_at_exactly_one() {
    const GROUP_SIZE: usize = 3;
    let store = MessageDb::new().await;
    for n in 0..90 {
        let stream = format!("user_updates-{}", n % 30);
        store.write(&stream, "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
    }
    let process_messages = |consumer_id: usize| {
        let store = &store;
        async move {
            let mut position = 0;
            let mut processed = Vec::new();
            loop {
                let messages = store
                    .messages(&format!(
                        "/v1/categories/user_updates/messages?from={position}&limit=10\
                         &consumer_group_member={consumer_id}&consumer_group_size={GROUP_SIZE}"
                    ))
                    .await;
                let Some(last) = messages.last() else { return processed };
                // A position is inclusive, so the next one is asked for, where the example would read the last again.
                position = last["global_position"].as_i64().unwrap() + 1;
                processed.extend(messages);
            }
        }
    };
    let by_consumer = tokio::join!(process_messages(0), process_messages(1), process_messages(2));
    let mut consumer_of: HashMap<String, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for (consumer, messages) in [by_consumer.0, by_consumer.1, by_consumer.2].iter().enumerate() {
        assert!(!messages.is_empty(), "consumer {consumer} has nothing to do");
        for message in messages {
            let stream = message["stream_name"].as_str().unwrap().to_owned();
            assert_eq!(*consumer_of.entry(stream).or_insert(consumer), consumer);
            assert!(seen.insert(message["data"]["n"].as_i64().unwrap()), "a message was processed twice");
        }
    }
    assert_eq!((seen.len(), consumer_of.len()), (90, 30));
    store.app.stop().await;
}

/// The same group as a subscription: nobody numbers the consumers, and where each is, the service keeps.
#[tokio::test]
async fn three_consumers_of_a_subscription_have_each_stream_at_exactly_one() {
    let store = MessageDb::new().await;
    let sub = Sub::new(&store.app, "group", json!({ "source": { "category": "user_updates" }, "partitions": 3 })).await;
    let names = ["0", "1", "2"];
    let mut consumers = Vec::new();
    for name in names {
        consumers.push(store.app.follow(&sub.path(&format!("/events?consumer={name}"))).await);
    }
    let status = sub.until("each holds one", |status| names.iter().all(|name| held(status, name).len() == 1)).await;
    for n in 0..90 {
        let stream = format!("user_updates-{}", n % 30);
        store.write(&stream, "Updated", json!({ "n": n }), Value::Null, Value::Null).await;
    }
    for (member, (name, events)) in names.iter().zip(&mut consumers).enumerate() {
        // Partitions divide the streams as `consumer_group_member` does: both use the hash of their cardinal ids.
        let partition = held(&status, name)[0];
        let expected = store
            .messages(&format!(
                "/v1/categories/user_updates/messages?limit=1000&consumer_group_member={partition}&consumer_group_size=3"
            ))
            .await;
        assert!(!expected.is_empty(), "consumer {member} has nothing to do");
        let found = events.messages(expected.len()).await;
        assert_eq!(found.iter().map(|delivery| delivery["message"].clone()).collect::<Vec<_>>(), expected);
        sub.acked(name, &found).await;
    }
    // All of it, and nothing twice.
    assert_eq!(sub.status().await["committed_lag"], 0);
    drop(consumers);
    store.app.stop().await;
}

#[tokio::test]
async fn a_consumer_group_needs_both_of_its_parameters() {
    let store = MessageDb::new().await;
    for (parameters, field) in [
        ("consumer_group_member=0", "consumer_group_size"),
        ("consumer_group_size=3", "consumer_group_member"),
        ("consumer_group_member=-1&consumer_group_size=3", "consumer_group_member"),
        ("consumer_group_member=3&consumer_group_size=3", "consumer_group_member"),
        ("consumer_group_member=0&consumer_group_size=0", "consumer_group_size"),
    ] {
        let answer = store.app.get(&format!("/v1/categories/user_updates/messages?{parameters}")).await;
        assert_eq!(answer.problem(422, "invalid")["errors"][0]["field"], field, "{parameters}");
    }
    store.app.stop().await;
}
