//! An aggregated stream is read whole, or not at all: when it is made, and whenever it is used.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Client, Guarded};
use crate::support::app::PATIENCE;

fn of(selection: &Value) -> Value {
    let mut definition = json!({ "partitioner": { "kind": "constant" } });
    definition.as_object_mut().unwrap().extend(selection.as_object().unwrap().clone());
    definition
}

fn keyed(categories: &[&str]) -> Value {
    json!({ "categories": categories, "partitioner": { "kind": "key", "of": "cardinal_id" } })
}

async fn put(client: &Client, name: &str, definition: &Value) {
    let answer = client.put(&format!("/v1/aggregated-streams/{name}"), definition).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

async fn filled(guarded: &Guarded) -> Client {
    let admin = guarded.admin().await;
    admin.write("order-1", json!({ "secret": 1 })).await;
    admin.write("account-1", json!({ "secret": 2 })).await;
    admin
}

#[tokio::test]
async fn one_is_made_by_those_that_may_read_all_that_it_selects_and_use_its_name() {
    let guarded = Guarded::new().await;
    let caller = guarded.caller(&["subscribe:mine-*", "read:order*", "read:a-*"]).await;
    for (selection, scope) in [
        (json!({}), "read:*"),
        (json!({ "categories": ["account"] }), "read:account*"),
        (json!({ "categories": ["order", "account"] }), "read:account*"),
        (json!({ "stream_wildcards": ["%-1"] }), "read:*-1"),
        (json!({ "stream_wildcards": ["a%"] }), "read:a*"),
        (json!({ "stream_wildcards": ["a-%"], "categories": ["account"] }), "read:account*"),
    ] {
        caller.lacks(scope, Method::PUT, "/v1/aggregated-streams/mine-x", Some(&of(&selection))).await;
    }
    caller
        .lacks(
            "subscribe:other",
            Method::PUT,
            "/v1/aggregated-streams/other",
            Some(&of(&json!({ "categories": ["order"] }))),
        )
        .await;
    put(&caller, "mine-1", &of(&json!({ "categories": ["order"], "stream_wildcards": ["a-%", "orders-1%"] }))).await;
    let again = of(&json!({ "categories": ["order"], "stream_wildcards": ["a-%", "orders-1%"] }));
    assert_eq!(caller.put("/v1/aggregated-streams/mine-1", &again).await.status, 200);
    guarded.end().await;
}

#[tokio::test]
async fn one_is_used_by_those_that_may_read_all_of_it_now() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    put(&admin, "plain", &of(&json!({ "categories": ["order", "account"] }))).await;
    put(&admin, "by-id", &keyed(&["order", "account"])).await;
    let whole = guarded.caller(&["read:order*", "read:account*"]).await;
    let part = guarded.caller(&["read:order*", "read:account-*", "subscribe:*", "append:*"]).await;
    let stranger = guarded.caller(&["read:order*"]).await;
    for path in [
        "plain",
        "plain?min_position=1&wait=1s",
        "plain/partitions/0/messages",
        "plain/partitions/0/messages?wait=1s",
        "plain/positions?global_position=1",
        "plain/events?from=beginning",
        "by-id",
        "by-id/partitions/0/messages",
        "by-id/keys",
        "by-id/keys?prefix=1",
        "by-id/keys/1/messages",
        "by-id/keys//messages",
        "by-id/positions?global_position=1&key=1",
        "by-id/events?key=1&from=beginning",
    ] {
        let path = format!("/v1/aggregated-streams/{path}");
        if !path.contains("/events") {
            assert_eq!(whole.get(&path).await.status, 200, "{path}");
        }
        part.lacks("read:account*", Method::GET, &path, None).await;
        // Somebody that may not use the name does not learn what is behind it.
        stranger.lacks("read:*", Method::GET, &path, None).await;
    }
    for verb in ["pause", "resume", "rebuild"] {
        part.lacks("read:account*", Method::POST, &format!("/v1/aggregated-streams/plain/{verb}"), None).await;
        whole.lacks("subscribe:plain", Method::POST, &format!("/v1/aggregated-streams/plain/{verb}"), None).await;
    }
    part.lacks("read:account*", Method::DELETE, "/v1/aggregated-streams/plain", None).await;
    // Neither together with what may be read.
    part.lacks("read:account*", Method::GET, "/v1/events?stream_name=order-1&aggregated_stream=plain", None).await;
    let mut events = whole.follow("/v1/events?stream_name=order-1&aggregated_stream=plain&from=beginning").await;
    tokio::time::timeout(PATIENCE, events.messages(3)).await.unwrap();
    guarded.end().await;
}

#[tokio::test]
async fn a_name_that_is_made_anew_is_judged_by_what_is_behind_it_now() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let caller = guarded.caller(&["read:order*", "subscribe:*"]).await;
    put(&admin, "x", &of(&json!({ "categories": ["order"] }))).await;
    assert_eq!(caller.get("/v1/aggregated-streams/x/partitions/0/messages").await.status, 200);
    assert_eq!(admin.delete("/v1/aggregated-streams/x").await.status, 204);
    put(&admin, "x", &of(&json!({ "categories": ["account"] }))).await;
    for path in ["x", "x/partitions/0/messages", "x/events"] {
        caller.lacks("read:account*", Method::GET, &format!("/v1/aggregated-streams/{path}"), None).await;
    }
    // Nor does an attempt to define it tell in which fields it differs.
    let definition = of(&json!({ "categories": ["order"], "types": ["T"] }));
    caller.lacks("read:account*", Method::PUT, "/v1/aggregated-streams/x", Some(&definition)).await;
    guarded.end().await;
}

/// The log went back, and ids are given out again.
#[tokio::test]
async fn one_that_has_the_id_of_another_is_judged_by_what_it_selects() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let caller = guarded.caller(&["read:order*", "subscribe:*"]).await;
    put(&admin, "readable", &of(&json!({ "categories": ["order"] }))).await;
    assert_eq!(caller.get("/v1/aggregated-streams/readable/partitions/0/messages").await.status, 200);
    let source = json!({ "source": { "aggregated_stream": "readable" } });
    assert_eq!(caller.put("/v1/subscriptions/s", &source).await.status, 201);
    assert_eq!(caller.post("/v1/subscriptions/s/fetch", &json!({ "consumer": "w" })).await.status, 200);
    assert_eq!(admin.delete("/v1/subscriptions/s").await.status, 204);
    assert_eq!(admin.delete("/v1/aggregated-streams/readable").await.status, 204);
    let again = "ALTER SEQUENCE headwater.aggregated_streams_id_seq RESTART";
    guarded.database.connect().await.batch_execute(again).await.unwrap();
    put(&admin, "secret", &of(&json!({ "categories": ["account"] }))).await;
    for path in ["secret", "secret/partitions/0/messages", "secret/positions?global_position=1", "secret/events"] {
        caller.lacks("read:account*", Method::GET, &format!("/v1/aggregated-streams/{path}"), None).await;
    }
    assert_eq!(
        admin.put("/v1/subscriptions/s", &json!({ "source": { "aggregated_stream": "secret" } })).await.status,
        201
    );
    caller.lacks("read:account*", Method::POST, "/v1/subscriptions/s/fetch", Some(&json!({ "consumer": "w" }))).await;
    guarded.end().await;
}

#[tokio::test]
async fn a_list_has_what_the_caller_may_read_and_its_pages_name_nothing_else() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    for name in ["a", "b", "c", "d", "e"] {
        let category = if ["b", "d"].contains(&name) { "order" } else { "account" };
        put(&admin, name, &of(&json!({ "categories": [category] }))).await;
    }
    let caller = guarded.caller(&["read:order*"]).await;
    let listed = async |client: &Client, path: &str| {
        let answer = client.get(path).await.json();
        let streams = answer["aggregated_streams"].as_array().unwrap();
        let names: Vec<_> = streams.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        (names.join(""), answer["next"].clone())
    };
    assert_eq!(listed(&admin, "/v1/aggregated-streams").await, ("abcde".into(), Value::Null));
    assert_eq!(listed(&caller, "/v1/aggregated-streams").await, ("bd".into(), Value::Null));
    assert_eq!(listed(&caller, "/v1/aggregated-streams?limit=1").await, ("b".into(), json!("b")));
    assert_eq!(listed(&caller, "/v1/aggregated-streams?limit=1&after=b").await, ("d".into(), Value::Null));
    assert_eq!(
        listed(&guarded.caller(&["append:*"]).await, "/v1/aggregated-streams").await,
        (String::new(), Value::Null)
    );
    assert_eq!(guarded.nobody().get("/v1/aggregated-streams").await.status, 401);
    guarded.end().await;
}
