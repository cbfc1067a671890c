//! A keyed aggregated stream is an index: every value is a partition of its own, and a message is in that of each of its
//! keys.

mod bad_input;
mod events;
mod subscriptions;
mod under_fire;

use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;

/// Keys at `/sku` of the category `order`.
pub fn by_sku() -> Value {
    json!({ "categories": ["order"], "partitioner": { "kind": "key", "of": "data", "pointer": "/sku" } })
}

/// What is listed: key, partition, messages, last global position.
pub type Listed = (String, i32, i64, i64);

pub async fn keys(app: &TestApp, name: &str, query: &str) -> (Vec<Listed>, Value) {
    let page = app.get(&format!("{}/keys?{query}", path_of(name))).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let page = page.json();
    let number = |one: &Value, field: &str| one[field].as_i64().unwrap_or_else(|| panic!("{page}"));
    let listed = page["keys"].as_array().unwrap().iter().map(|one| {
        let key = one["key"].as_str().unwrap().to_owned();
        (key, number(one, "partition") as i32, number(one, "message_count"), number(one, "last_global_position"))
    });
    (listed.collect(), page["next"].clone())
}

/// All keys, page by page.
pub async fn all_keys(app: &TestApp, name: &str) -> Vec<Listed> {
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let (listed, next) = keys(app, name, &format!("limit=1000&from={}", encode(&from))).await;
        found.extend(listed);
        match next.as_str() {
            Some(next) => from = next.to_owned(),
            None => return found,
        }
    }
}

/// The (partition, position, global position) of a key, read page by page.
pub async fn messages_of(app: &TestApp, name: &str, key: &str) -> Vec<Link> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let page = app.get(&format!("{}/keys/{}/messages?from={from}", path_of(name), encode(key))).await;
        assert_eq!(page.status, 200, "{key:?}: {}", page.text);
        let page = page.json();
        found.extend(page["messages"].as_array().unwrap().iter().map(link_of));
        from = page["next"].as_i64().unwrap();
        if page["at_end"] == true {
            return found;
        }
    }
}

/// What an index is by a plain computation: of each message its global position and keys, in global order.
pub fn model(messages: &[(i64, Vec<String>)]) -> HashMap<String, Vec<Link>> {
    let mut index: HashMap<String, Vec<Link>> = HashMap::new();
    for (global_position, keys) in messages {
        let mut seen: Vec<&String> = Vec::new();
        for key in keys {
            if !seen.contains(&key) {
                seen.push(key);
                let next = index.len() as i32;
                let links = index.entry(key.clone()).or_default();
                let partition = links.first().map_or(next, |link| link.0);
                links.push((partition, links.len() as i64, *global_position));
            }
        }
    }
    index
}

/// Asserts that an index is what the model says.
pub async fn is_index_of(app: &TestApp, sql: &Client, name: &str, messages: &[(i64, Vec<String>)]) {
    let model = model(messages);
    let mut expected: Vec<Listed> = model
        .iter()
        .map(|(key, links)| (key.clone(), links[0].0, links.len() as i64, links[links.len() - 1].2))
        .collect();
    expected.sort();
    assert_eq!(all_keys(app, name).await, expected);
    let mut expected: Vec<Link> = model.into_values().flatten().collect();
    expected.sort_unstable();
    let found = links(sql, name).await;
    assert!(found == expected, "{name}: {}", difference(&found, &expected));
    let status = status(app, name).await;
    let count = expected.iter().map(|link| link.0 + 1).max().unwrap_or(0);
    assert_eq!((&status["key_count"], &status["partitions"]), (&json!(count), &json!([])), "{status}");
}

#[tokio::test]
async fn every_value_is_a_partition_numbered_when_it_is_first_seen() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    let write = async |sku: Value| app.write("order-1", "Ordered", json!({ "sku": sku })).await;
    let mut messages = Vec::new();
    let texts = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (sku, keys) in [
        (json!("X2"), texts(&["X2"])),
        (json!("X1"), texts(&["X1"])),
        (json!(["X3", "X1", "X3"]), texts(&["X3", "X1"])),
        (json!(null), texts(&[])),
        (json!([]), texts(&[])),
    ] {
        messages.push((write(sku).await, keys));
    }
    // What there was is projected as history, what comes as it comes.
    define(&app, "skus", &by_sku()).await;
    until_state(&app, "skus", "live").await;
    for (sku, keys) in [
        (json!([7, "7", true, 1.5]), texts(&["7", "true", "1.5"])),
        (json!("X1"), texts(&["X1"])),
        (json!(""), texts(&[""])),
    ] {
        messages.push((write(sku).await, keys));
    }
    let elsewhere = app.write("payment-1", "Paid", json!({ "sku": "X1" })).await;
    projected(&app, "skus", elsewhere).await;
    is_index_of(&app, &sql, "skus", &messages).await;
    let (second, third, live) = (messages[1].0, messages[2].0, messages[6].0);
    assert_eq!(messages_of(&app, "skus", "X1").await, [(1, 0, second), (1, 1, third), (1, 2, live)]);
    let page = app.get(&format!("{}/keys/X1/messages?from=1&limit=1", path_of("skus"))).await.json();
    assert_eq!((&page["next"], &page["at_end"]), (&json!(2), &json!(false)));
    assert_eq!(page["messages"][0]["message"]["data"], json!({ "sku": ["X3", "X1", "X3"] }));
    // By the partition's number it is the same.
    assert_eq!(partition(&app, "skus", 1).await, [(0, second), (1, third), (2, live)]);
    let unknown = app.get(&format!("{}/keys/none/messages?from=3", path_of("skus"))).await.json();
    assert_eq!(unknown, json!({ "messages": [], "next": 3, "at_end": true }));
    let none = app.get(&format!("{}/partitions/2000000000/messages", path_of("skus"))).await.json();
    assert_eq!(none, json!({ "messages": [], "next": 0, "at_end": true }));
    app.stop().await;
}

#[tokio::test]
async fn ids_and_types_are_keys() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    let of = |of: &str| json!({ "categories": ["a"], "partitioner": { "kind": "key", "of": of } });
    let (mut by_id, mut by_type, mut by_tenant) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (stream, id)) in [("a-1", "1"), ("a-2+x", "2"), ("a-1+y", "1")].into_iter().enumerate() {
        let message_type = if number == 1 { "Second" } else { "First" };
        let body =
            json!({ "messages": [{ "type": message_type, "data": {}, "metadata": { "tenant": ["t", number] } }] });
        let answer = app.append(stream, &body).await.json();
        let at = answer["messages"][0]["global_position"].as_i64().unwrap();
        by_id.push((at, vec![id.to_owned()]));
        by_type.push((at, vec![message_type.to_owned()]));
        by_tenant.push((at, vec!["t".to_owned(), number.to_string()]));
    }
    // A stream without an id can be written in SQL only.
    let bare = "SELECT message_store.write_message(gen_random_uuid()::text, 'a', 'First', '{}', '{}')";
    sql.query_one(bare, &[]).await.unwrap();
    let last: i64 = sql.query_one("SELECT max(global_position) FROM message_store.messages", &[]).await.unwrap().get(0);
    by_type.push((last, vec!["First".to_owned()]));
    define(&app, "ids", &of("cardinal_id")).await;
    define(&app, "types", &of("type")).await;
    let tenants = json!({ "partitioner": { "kind": "key", "of": "metadata", "pointer": "/tenant" } });
    define(&app, "tenants", &tenants).await;
    for (name, messages) in [("ids", by_id), ("types", by_type), ("tenants", by_tenant)] {
        projected(&app, name, last).await;
        is_index_of(&app, &sql, name, &messages).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn keys_are_listed_by_prefix_in_the_order_of_their_bytes() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "skus", &by_sku()).await;
    let highest = "\u{10FFFF}".repeat(64);
    let odd = [
        "",
        ".",
        "..",
        "a",
        "a%",
        "a%b",
        "aXb",
        "a_b",
        "a/b",
        "a+b",
        "a b",
        "a\"b",
        "a'b",
        "a\\b",
        "a?b#c&d=e",
        "é",
        "e\u{301}",
        "z",
        "Z",
        "\u{D7FF}",
        "\u{E000}",
        "a\u{10FFFF}",
        "a\u{10FFFF}b",
        "b",
        "\u{FFFF}",
        "𝄞",
        "a\n\t",
        "%2F",
        "日本",
        &highest,
    ];
    for chunk in odd.chunks(16) {
        app.write("order-1", "Ordered", json!({ "sku": chunk })).await;
    }
    let last = app.write("order-2", "Ordered", json!({ "sku": null })).await;
    projected(&app, "skus", last).await;
    let mut sorted = odd.to_vec();
    sorted.sort_unstable();
    let listed: Vec<String> = all_keys(&app, "skus").await.into_iter().map(|one| one.0).collect();
    assert_eq!(listed, sorted);
    for prefix in ["a", "a%", "a_", "a\u{10FFFF}", "\u{10FFFF}", &highest, "e", "Z", "\u{D7FF}", "none", ""] {
        let expected: Vec<&str> = sorted.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        for limit in [1, 2, 1000] {
            let (mut found, mut from) = (Vec::new(), String::new());
            loop {
                let query = format!("prefix={}&from={}&limit={limit}", encode(prefix), encode(&from));
                let (listed, next) = keys(&app, "skus", &query).await;
                assert!(listed.len() <= limit);
                found.extend(listed.into_iter().map(|one| one.0));
                let Some(next) = next.as_str() else { break };
                from = next.to_owned();
            }
            assert_eq!(found, expected, "{prefix:?} by {limit}");
        }
    }
    // Each can be read, but those that no URL can have in its path.
    for (number, key) in odd.iter().enumerate() {
        let partition = number as i32;
        let (found, _) = keys(&app, "skus", &format!("from={}&limit=1", encode(key))).await;
        assert_eq!((found[0].0.as_str(), found[0].1), (*key, partition));
        let mut events = app.follow(&format!("{}/events?key={}&from=beginning", path_of("skus"), encode(key))).await;
        let event = events.next("message").await.json();
        assert_eq!(event["keys"], json!([{ "key": key, "partition": partition, "position": 0 }]));
        if ![".", ".."].contains(key) {
            assert_eq!(messages_of(&app, "skus", key).await, [link_of(&event)], "{key:?}");
        }
    }
    // A plus sign in a path is itself; in a query it is a blank.
    let page = app.get(&format!("{}/keys/a+b/messages", path_of("skus"))).await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn places_are_found_by_time_for_keys_that_are_named() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "skus", &by_sku()).await;
    let first = app.write("order-1", "Ordered", json!({ "sku": ["a", "b"] })).await;
    let second = app.write("order-1", "Ordered", json!({ "sku": "b" })).await;
    projected(&app, "skus", second).await;
    let positions = async |query: &str| app.get(&format!("{}/positions?{query}", path_of("skus"))).await;
    let found = positions(&format!("global_position={second}&key=b&key=a&key=none&key=b")).await.json();
    let place =
        |key: &str, partition: i32, position: i64| json!({ "partition": partition, "position": position, "key": key });
    assert_eq!(found, json!({ "positions": [place("a", 0, 1), place("b", 1, 1)] }));
    let found = positions(&format!("global_position={first}&key=b")).await.json();
    assert_eq!(found, json!({ "positions": [place("b", 1, 0)] }));
    let refused = positions("time=2020-01-01T00:00:00Z").await.problem(422, "invalid");
    assert_eq!(refused["errors"][0]["field"], "key", "{refused}");
    let found = positions("time=2020-01-01T00:00:00Z&key=a").await.json();
    assert_eq!(found, json!({ "positions": [place("a", 0, 0)] }));
    app.stop().await;
}
