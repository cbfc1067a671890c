//! A subscription is for those that may use its name and read all of its source: when it is made, and whenever it is used.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Client, Guarded};

async fn put(client: &Client, name: &str, definition: &Value) {
    let answer = client.put(&format!("/v1/subscriptions/{name}"), definition).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

/// Every way to use a subscription of this name.
fn uses(name: &str) -> Vec<(Method, String, Option<Value>)> {
    let path = |rest: &str| format!("/v1/subscriptions/{name}{rest}");
    let place = json!({ "position": 0, "epoch": 0 });
    vec![
        (Method::GET, path(""), None),
        (Method::GET, path("?min_position=1&wait=1s"), None),
        (Method::PATCH, path(""), Some(json!({ "max_in_flight": 7 }))),
        (Method::GET, path("/events?consumer=w1"), None),
        (Method::POST, path("/fetch"), Some(json!({ "consumer": "w1" }))),
        (Method::POST, path("/acks"), Some(json!({ "consumer": "w1", "acks": [place] }))),
        (Method::POST, path("/nacks"), Some(json!({ "consumer": "w1", "nacks": [place] }))),
        (Method::POST, path("/extensions"), Some(json!({ "consumer": "w1", "extensions": [place] }))),
        (Method::GET, path("/pending"), None),
        (Method::GET, path("/pending/summary"), None),
        (Method::POST, path("/claims"), Some(json!({ "consumer": "w1" }))),
        (Method::GET, path("/consumers"), None),
        (Method::DELETE, path("/consumers/w1"), None),
        (Method::POST, path("/seek"), Some(json!({ "to": "beginning" }))),
        (Method::POST, path("/seek"), Some(json!({ "to": "beginning", "dry_run": true }))),
        (Method::POST, path("/pause"), None),
        (Method::POST, path("/resume"), None),
        (Method::GET, path("/parked"), None),
        (Method::POST, path("/parked/replay"), Some(json!({ "all": true }))),
        (Method::DELETE, path("/parked/0/0"), None),
        (Method::DELETE, path(""), None),
    ]
}

#[tokio::test]
async fn one_is_made_by_those_that_may_read_its_whole_source_and_use_its_name() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    let of_accounts = json!({ "categories": ["account"], "partitioner": { "kind": "constant" } });
    assert_eq!(admin.put("/v1/aggregated-streams/accounts", &of_accounts).await.status, 201);
    let caller = guarded.caller(&["subscribe:mine-*", "read:order*"]).await;
    for (source, scope) in [
        (json!({ "all": true }), "read:*"),
        (json!({ "category": "account" }), "read:account*"),
        (json!({ "categories": ["order", "account"] }), "read:account*"),
        (json!({ "stream_name": "account-1" }), "read:account-1"),
        (json!({ "aggregated_stream": "accounts" }), "read:*"),
    ] {
        caller.lacks(scope, Method::PUT, "/v1/subscriptions/mine-x", Some(&json!({ "source": source }))).await;
    }
    let part = guarded.caller(&["subscribe:*", "read:order-*"]).await;
    part.lacks("read:order*", Method::PUT, "/v1/subscriptions/x", Some(&json!({ "source": { "category": "order" } })))
        .await;
    for (name, source) in [("mine-1", json!({ "category": "order" })), ("mine-2", json!({ "stream_name": "order-1" }))]
    {
        put(&caller, name, &json!({ "source": source })).await;
    }
    caller
        .lacks(
            "subscribe:other",
            Method::PUT,
            "/v1/subscriptions/other",
            Some(&json!({ "source": { "category": "order" } })),
        )
        .await;
    // One that is there is not told of by putting another definition.
    put(&admin, "mine-3", &json!({ "source": { "category": "account" } })).await;
    caller
        .lacks(
            "read:account*",
            Method::PUT,
            "/v1/subscriptions/mine-3",
            Some(&json!({ "source": { "category": "order" } })),
        )
        .await;
    guarded.end().await;
}

#[tokio::test]
async fn one_is_used_by_those_that_may_read_all_of_its_source_now() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    admin.write("account-1", json!({ "secret": 1 })).await;
    let selects = json!({ "categories": ["order", "account"], "partitioner": { "kind": "constant" } });
    let keyed = json!({ "categories": ["order", "account"], "partitioner": { "kind": "key", "of": "cardinal_id" } });
    assert_eq!(admin.put("/v1/aggregated-streams/both", &selects).await.status, 201);
    assert_eq!(admin.put("/v1/aggregated-streams/by-id", &keyed).await.status, 201);
    let part = guarded.caller(&["subscribe:*", "read:order*", "append:*"]).await;
    let other_name = guarded.caller(&["subscribe:elsewhere", "read:*", "append:*"]).await;
    for (name, source, scope) in [
        ("of-all", json!({ "all": true }), "read:*"),
        ("of-category", json!({ "category": "account" }), "read:account*"),
        ("of-stream", json!({ "stream_name": "account-1" }), "read:account-1"),
        ("of-both", json!({ "aggregated_stream": "both" }), "read:account*"),
        ("of-keys", json!({ "aggregated_stream": "by-id" }), "read:account*"),
    ] {
        put(&admin, name, &json!({ "source": source, "mode": "competing" })).await;
        for (method, path, body) in uses(name) {
            part.lacks(scope, method.clone(), &path, body.as_ref()).await;
            other_name.lacks(&format!("subscribe:{name}"), method, &path, body.as_ref()).await;
        }
        assert_eq!(admin.get(&format!("/v1/subscriptions/{name}")).await.status, 200, "{name} is there, unchanged");
        let fetched =
            admin.post(&format!("/v1/subscriptions/{name}/fetch"), &json!({ "consumer": "w1", "wait": "5s" })).await;
        assert_eq!(fetched.json()["messages"].as_array().unwrap().len(), 1, "{name}");
    }
    guarded.end().await;
}

#[tokio::test]
async fn one_whose_source_was_deleted_is_for_those_that_may_read_everything() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    let of_accounts = json!({ "categories": ["account"], "partitioner": { "kind": "constant" } });
    assert_eq!(admin.put("/v1/aggregated-streams/accounts", &of_accounts).await.status, 201);
    put(&admin, "x", &json!({ "source": { "aggregated_stream": "accounts" } })).await;
    assert_eq!(admin.delete("/v1/aggregated-streams/accounts").await.status, 204);
    let part = guarded.caller(&["subscribe:*", "read:order*"]).await;
    part.lacks("read:*", Method::GET, "/v1/subscriptions/x/parked", None).await;
    assert_eq!(guarded.caller(&["subscribe:*", "read:*"]).await.get("/v1/subscriptions/x/parked").await.status, 200);
    guarded.end().await;
}

#[tokio::test]
async fn a_name_that_is_made_anew_on_another_instance_is_judged_by_what_is_behind_it() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    admin.write("account-1", json!({ "secret": 1 })).await;
    let caller = guarded.caller(&["subscribe:*", "read:order*"]).await;
    let fetch = json!({ "consumer": "w1", "wait": "100ms" });
    put(&admin, "x", &json!({ "source": { "category": "order" } })).await;
    // From here on this instance has it in memory.
    assert_eq!(caller.post("/v1/subscriptions/x/fetch", &fetch).await.json()["messages"], json!([]));
    // As another instance does it whose signal has not come: without this one being told.
    let sql = guarded.sql().await;
    sql.batch_execute("SELECT headwater.subscription_delete('x')").await.unwrap();
    let definition = json!({ "source": { "category": "account" } });
    put(&admin, "y", &definition).await;
    sql.batch_execute("UPDATE headwater.subscriptions SET name = 'x' WHERE name = 'y'").await.unwrap();
    for (method, path, body) in uses("x") {
        let answer = caller.call(method.clone(), &path, body.as_ref()).await;
        assert!(!answer.text.contains("secret"), "{method} {path}: {}", answer.text);
    }
    caller.lacks("read:account*", Method::POST, "/v1/subscriptions/x/fetch", Some(&fetch)).await;
    guarded.end().await;
}

#[tokio::test]
async fn a_list_has_what_the_caller_may_use() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    for (name, source) in [
        ("a", json!({ "category": "account" })),
        ("b", json!({ "category": "order" })),
        ("c", json!({ "all": true })),
        ("d", json!({ "stream_name": "order-1" })),
        ("e", json!({ "category": "order" })),
    ] {
        put(&admin, name, &json!({ "source": source })).await;
    }
    let listed = async |client: &Client, path: &str| {
        let answer = client.get(path).await.json();
        let names =
            answer["subscriptions"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned());
        (names.collect::<String>(), answer["next"].clone())
    };
    assert_eq!(listed(&admin, "/v1/subscriptions").await, ("abcde".into(), Value::Null));
    let caller = guarded.caller(&["subscribe:b", "subscribe:d", "subscribe:c", "read:order*"]).await;
    assert_eq!(listed(&caller, "/v1/subscriptions").await, ("bd".into(), Value::Null));
    assert_eq!(listed(&caller, "/v1/subscriptions?limit=1").await, ("b".into(), json!("b")));
    assert_eq!(listed(&caller, "/v1/subscriptions?limit=1&after=b").await, ("d".into(), Value::Null));
    assert_eq!(listed(&guarded.caller(&["read:*"]).await, "/v1/subscriptions").await, (String::new(), Value::Null));
    guarded.end().await;
}
