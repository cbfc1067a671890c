//! Subscriptions on a keyed aggregated stream: divided by the hash of the key, each key in order, by global positions.

use super::*;

use crate::support::database::connect;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use headwater::domain::partitioner::hashed;

async fn subscribe(app: &TestApp, name: &str, rest: Value) -> Value {
    let mut body = json!({ "source": { "aggregated_stream": "skus" }, "ack_timeout": "30s" });
    body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    let answer = app.put(&format!("/v1/subscriptions/{name}"), &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let again = app.put(&format!("/v1/subscriptions/{name}"), &body).await;
    assert_eq!(again.status, 200, "{}", again.text);
    answer.json()
}

/// Fetches and acks until so many deliveries have come: partition, position, message.
async fn consume(app: &TestApp, name: &str, count: usize) -> Vec<(i64, i64, Value)> {
    let mut found = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} of {count}", found.len());
        let body = json!({ "consumer": "w1", "limit": 7, "wait": "1s" });
        let fetched = app.post(&format!("/v1/subscriptions/{name}/fetch"), &body).await;
        assert_eq!(fetched.status, 200, "{}", fetched.text);
        let fetched = fetched.json();
        let mut acks = Vec::new();
        for one in fetched["messages"].as_array().unwrap() {
            found.push((one["partition"].as_i64().unwrap(), one["position"].as_i64().unwrap(), one["message"].clone()));
            acks.push(json!({ "partition": one["partition"], "position": one["position"], "epoch": one["epoch"] }));
        }
        if !acks.is_empty() {
            let body = json!({ "consumer": "w1", "acks": acks });
            let acked = app.post(&format!("/v1/subscriptions/{name}/acks"), &body).await.json();
            assert_eq!(acked["fenced"], 0, "{acked}");
        }
    }
    found
}

#[tokio::test]
async fn each_key_is_delivered_in_order_in_its_partition() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "skus", &by_sku()).await;
    until_state(&app, "skus", "live").await;
    let defined = subscribe(&app, "parts", json!({ "partitions": 4 })).await;
    assert_eq!(defined["definition"]["source"], json!({ "aggregated_stream": "skus" }));
    assert_eq!(defined["definition"]["partitions"], 4);
    subscribe(&app, "any", json!({ "mode": "competing" })).await;
    let mut messages = Vec::new();
    for number in 0..40 {
        let keys = vec![format!("k{}", number % 5), format!("k{}", number % 7)];
        messages.push((app.write("order-1", "Ordered", json!({ "sku": keys })).await, keys));
        app.write("order-2", "Ordered", json!({ "sku": null })).await;
    }
    let last = messages[39].0;
    // Once for each partition in which it has a key.
    let mut expected: Vec<(i64, i64)> = Vec::new();
    for (at, keys) in &messages {
        let mut partitions: Vec<i64> = keys.iter().map(|key| hashed(key, 4)).collect();
        partitions.sort_unstable();
        partitions.dedup();
        expected.extend(partitions.into_iter().map(|partition| (partition, *at)));
    }
    let lag = app.get("/v1/subscriptions/parts?min_position=0").await;
    assert_eq!(lag.status, 200, "{}", lag.text);
    let mut found: Vec<(i64, i64)> =
        consume(&app, "parts", expected.len()).await.iter().map(|one| (one.0, one.1)).collect();
    for partition in 0..4 {
        let positions: Vec<i64> = found.iter().filter(|one| one.0 == partition).map(|one| one.1).collect();
        assert!(positions.is_sorted_by(|one, next| one < next), "{partition}: {positions:?}");
    }
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let status = app.get(&format!("/v1/subscriptions/parts?min_position={last}&wait=20s")).await.json();
    let lags: i64 = status["status"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["delivered_lag"].as_i64().unwrap())
        .sum();
    assert_eq!(lags, 0, "{status}");
    // Competing: once in all.
    let mut found: Vec<i64> = consume(&app, "any", 40).await.iter().map(|one| one.1).collect();
    found.sort_unstable();
    assert_eq!(found, messages.iter().map(|one| one.0).collect::<Vec<_>>());
    // A rebuild changes nothing: positions are global.
    order(&app, "skus", "rebuild").await;
    until(&app, "skus", "has switched", |status| status["rebuild"].is_null()).await;
    let next = app.write("order-1", "Ordered", json!({ "sku": "k1" })).await;
    let found = consume(&app, "parts", 1).await;
    assert_eq!((found[0].0, found[0].1, found.len()), (hashed("k1", 4), next, 1));
    // From the end of the log on.
    subscribe(&app, "late", json!({ "from": "end", "partitions": 2 })).await;
    let next = app.write("order-1", "Ordered", json!({ "sku": "k1" })).await;
    assert_eq!(consume(&app, "late", 1).await[0].1, next);
    delete(&app, "skus").await;
    let body = json!({ "consumer": "w1", "limit": 1 });
    app.post("/v1/subscriptions/parts/fetch", &body).await.problem(404, "not-found");
    assert_eq!(app.get("/v1/subscriptions/parts").await.json()["status"]["state"], "source_deleted");
    app.stop().await;
}

/// What has been projected so far is all that there is, and a fetch is answered in time. In a process of its own: a service
/// that does not give its thread back could not be ended otherwise.
#[tokio::test]
async fn while_history_is_being_projected_a_fetch_waits_no_longer_than_it_asked_for() {
    let database = TestDatabase::migrated().await;
    let service = ServiceProcess::start(&["--database-url", &database.url, "--listen", "127.0.0.1:0"]);
    let http = http_client();
    let url = |path: &str| format!("{}/v1/{path}", service.url);
    let messages: Vec<Value> = (0..600).map(|_| json!({ "type": "Ordered", "data": { "sku": "k1" } })).collect();
    let written =
        http.post(url("streams/order-1/messages")).json(&json!({ "messages": messages })).send().await.unwrap();
    assert_eq!(written.status(), 201);
    // Nothing is projected while this is held.
    let sql = connect(&database.url).await;
    sql.batch_execute("BEGIN; LOCK TABLE headwater.aggregated_messages IN SHARE MODE").await.unwrap();
    let defined = http.put(url("aggregated-streams/skus")).json(&by_sku()).send().await.unwrap();
    assert_eq!(defined.status(), 201);
    let body = json!({ "source": { "aggregated_stream": "skus" }, "partitions": 2, "ack": "auto" });
    let subscribed = http.put(url("subscriptions/parts")).json(&body).send().await.unwrap();
    assert_eq!(subscribed.status(), 201);
    let fetch = async || {
        let body = json!({ "consumer": "w1", "limit": 1_000, "wait": "500ms" });
        let fetching = http.post(url("subscriptions/parts/fetch")).json(&body).timeout(PATIENCE).send();
        fetching.await.expect("an answer in time").json::<Value>().await.unwrap()["messages"].as_array().unwrap().len()
    };
    for _ in 0..3 {
        assert_eq!(fetch().await, 0);
    }
    let state = http.get(url("aggregated-streams/skus")).send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(state["status"]["state"], "catching_up", "{state}");
    sql.batch_execute("ROLLBACK").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut found = 0;
    while found < messages.len() {
        assert!(Instant::now() < deadline, "{found} messages");
        found += fetch().await;
    }
    assert_eq!(found, messages.len());
    service.kill();
}
