//! Appends go where the caller may append, and what they are refused for tells nothing of what the caller may not read.

use reqwest::Method;
use serde_json::{Value, json};

use super::Guarded;
use crate::support::app::encode;

fn appends(streams: &[&str], more: &Value) -> Value {
    let streams: Vec<_> =
        streams.iter().map(|name| json!({ "stream_name": name, "messages": [{ "type": "T" }] })).collect();
    let mut body = json!({ "appends": streams });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_stream_is_appended_to_by_those_that_may_append_to_it_who_need_not_read_it() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    let caller = guarded.caller(&["append:order-*", "read:account-*", "subscribe:*"]).await;
    caller.write("order-1", json!({})).await;
    let message = json!({ "messages": [{ "type": "T" }] });
    for stream in ["account-1", "order", "orders-1"] {
        let path = format!("/v1/streams/{}/messages", encode(stream));
        caller.lacks(&format!("append:{stream}"), Method::POST, &path, Some(&message)).await;
        assert_eq!(admin.get(&path).await.json()["version"], -1);
    }
    // Whatever else is wrong with the request, that is what is said.
    caller
        .lacks("append:account-1", Method::POST, "/v1/streams/account-1/messages", Some(&json!({ "nonsense": 1 })))
        .await;
    let lines =
        caller.request(Method::POST, "/v1/streams/account-1/messages").header("content-type", "application/x-ndjson");
    assert_eq!(lines.body("{\"type\":\"T\"}\n").send().await.unwrap().status(), 403);
    caller.lacks("read:order-1", Method::GET, "/v1/streams/order-1/messages", None).await;
    // The version of a stream that it writes to is its own business.
    let wrong = json!({ "expected_version": 7, "messages": [{ "type": "T" }] });
    assert_eq!(caller.append("order-1", &wrong).await.problem(409, "wrong-expected-version")["current_version"], 0);
    guarded.end().await;
}

#[tokio::test]
async fn several_streams_are_appended_to_or_none() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    let caller = guarded.caller(&["append:order-*", "append:stock-1"]).await;
    caller
        .lacks("append:account-1", Method::POST, "/v1/appends", Some(&appends(&["order-1", "account-1"], &json!({}))))
        .await;
    assert_eq!(admin.get("/v1/streams/order-1/messages").await.json()["version"], -1);
    assert_eq!(caller.post("/v1/appends", &appends(&["order-1", "stock-1"], &json!({}))).await.status, 201);
    guarded.caller(&["read:*"]).await.lacks("append:*", Method::POST, "/v1/appends", Some(&json!({}))).await;
    guarded.end().await;
}

#[tokio::test]
async fn a_condition_is_about_what_the_caller_may_read() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    admin.write("account-1", json!({ "secret": "X1" })).await;
    let by_id = json!({ "categories": ["account"], "partitioner": { "kind": "key", "of": "cardinal_id" } });
    assert_eq!(admin.put("/v1/aggregated-streams/by-id", &by_id).await.status, 201);
    assert_eq!(
        admin.put("/v1/subscriptions/billing", &json!({ "source": { "category": "account" } })).await.status,
        201
    );
    let conditions = |condition: Value| json!({ "conditions": [condition] });
    let asked = [
        // True or false makes no difference.
        (conditions(json!({ "stream_name": "account-1", "version": 0 })), "read:account-1"),
        (conditions(json!({ "stream_name": "account-1", "version": 5 })), "read:account-1"),
        (conditions(json!({ "categories": ["account"], "types": ["T"] })), "read:account*"),
        (conditions(json!({ "categories": ["order", "account"], "filter": "data.secret == 'X1'" })), "read:account*"),
        (conditions(json!({ "aggregated_stream": "by-id", "key": "1" })), "read:*"),
        (conditions(json!({ "aggregated_stream": "by-id", "key": "2" })), "read:*"),
        (
            json!({ "ack": { "subscription": "billing", "consumer": "w1", "position": 1, "epoch": 1 } }),
            "subscribe:billing",
        ),
    ];
    let caller = guarded.caller(&["append:order-*", "read:order*", "read:account-2"]).await;
    for (more, scope) in &asked {
        caller.lacks(scope, Method::POST, "/v1/appends", Some(&appends(&["order-1"], more))).await;
    }
    let named = guarded.caller(&["append:order-*", "subscribe:*"]).await;
    for (more, _) in &asked[4..] {
        named.lacks("read:account*", Method::POST, "/v1/appends", Some(&appends(&["order-1"], more))).await;
    }
    // A part of a category is not enough: a match elsewhere would be told.
    let part = guarded.caller(&["append:order-*", "read:account-*"]).await;
    part.lacks("read:account*", Method::POST, "/v1/appends", Some(&appends(&["order-1"], &asked[2].0))).await;
    assert_eq!(admin.get("/v1/streams/order-1/messages").await.json()["version"], -1, "nothing was written");
    let reader = guarded.caller(&["append:order-*", "read:account*"]).await;
    let refused = reader.post("/v1/appends", &appends(&["order-1"], &asked[1].0)).await;
    assert_eq!(refused.problem(409, "condition-failed")["current_version"], 0);
    assert_eq!(reader.post("/v1/appends", &appends(&["order-1"], &asked[0].0)).await.status, 201);
    guarded.end().await;
}

#[tokio::test]
async fn an_id_that_a_hidden_message_has_is_refused_without_its_place() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    let hidden = admin.write("account-1", json!({ "secret": 1 })).await;
    let shown = admin.write("stock-1", json!({})).await;
    let own = admin.write("order-1", json!({ "n": 1 })).await;
    let caller = guarded.caller(&["append:order-*", "read:stock-*"]).await;
    let with = |id: &str| json!({ "messages": [{ "id": id, "type": "T", "data": { "n": 2 } }] });
    let problem = caller.append("order-2", &with(&hidden)).await.problem(409, "message-id-reused");
    assert_eq!(problem["message_id"], hidden);
    assert!(problem.get("stream_name").is_none() && problem.get("position").is_none(), "{problem}");
    assert!(!problem.to_string().contains("account"), "{problem}");
    let problem = caller.append("order-2", &with(&shown)).await.problem(409, "message-id-reused");
    assert_eq!((&problem["stream_name"], &problem["position"]), (&json!("stock-1"), &json!(0)));
    let problem = caller.append("order-1", &with(&own)).await.problem(409, "message-id-reused");
    assert_eq!(problem["stream_name"], "order-1", "a stream that it writes to");
    let several = json!({ "appends": [{ "stream_name": "order-2", "messages": [{ "id": hidden, "type": "T" }] }] });
    let problem = caller.post("/v1/appends", &several).await.problem(409, "message-id-reused");
    assert!(!problem.to_string().contains("account"), "{problem}");
    let line = format!("{{\"id\":\"{hidden}\",\"type\":\"T\"}}\n");
    let session =
        caller.request(Method::POST, "/v1/streams/order-2/messages").header("content-type", "application/x-ndjson");
    let told = session.body(line).send().await.unwrap().text().await.unwrap();
    assert!(told.contains("message-id-reused") && !told.contains("account"), "{told}");
    guarded.end().await;
}
