//! Definitions: made once, found again, changed where they may be, and every rule has its name.

use super::*;

#[tokio::test]
async fn a_definition_is_made_once_and_shown_with_its_defaults() {
    let (_database, app) = filled(1, 0).await;
    let path = "/v1/subscriptions/billing";
    let definition = json!({ "source": { "category": "a" } });
    assert_eq!(app.put(path, &definition).await.status, 201);
    let again = app.put(path, &definition).await;
    assert_eq!(again.status, 200);
    let shown = json!({
        "source": { "category": "a" }, "from": "beginning", "types": [], "filter": null, "mode": "partitioned",
        "partitions": 16, "ack": "explicit", "ack_timeout": "30s", "consumer_timeout": "10s", "max_in_flight": 100,
        "max_deliveries": 5, "backoff": ["1s", "5s", "30s"], "on_exhausted": "park"
    });
    assert_eq!((&again.json()["name"], &again.json()["definition"]), (&json!("billing"), &shown));
    // All of it given is the same.
    assert_eq!(app.put(path, &shown).await.status, 200);
    let mut other = shown.clone();
    other["mode"] = json!("competing");
    other["max_in_flight"] = json!(7);
    let problem = app.put(path, &other).await.problem(409, "definition-differs");
    assert_eq!(problem["fields"], json!(["mode", "max_in_flight"]));
    assert_eq!(app.get(path).await.json()["definition"], shown);
    app.stop().await;
}

#[tokio::test]
async fn every_source_can_be_named() {
    let (_database, app) = filled(2, 4).await;
    app.write("b-1", "T", json!({ "n": 4 })).await;
    for (name, source, expected) in [
        ("stream", json!({ "stream_name": "a-1" }), vec![0, 2]),
        ("category", json!({ "category": "a" }), vec![0, 1, 2, 3]),
        ("categories", json!({ "categories": ["a", "b"] }), vec![0, 1, 2, 3, 4]),
        ("all", json!({ "all": true }), vec![0, 1, 2, 3, 4]),
    ] {
        for mode in ["partitioned", "competing"] {
            let sub = Sub::new(&app, &format!("{name}-{mode}"), json!({ "source": source, "mode": mode })).await;
            let mut found = numbers(&sub.drain("w1").await);
            found.sort_unstable();
            assert_eq!(found, expected, "{name} {mode}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn it_begins_where_it_is_told_to() {
    let (_database, app) = filled(1, 5).await;
    let third = app.get("/v1/streams/a-1/messages").await.json()["messages"][2].clone();
    for (at, from, expected) in [
        ("beginning", json!("beginning"), vec![0, 1, 2, 3, 4]),
        ("end", json!("end"), vec![]),
        ("position", json!(3), vec![3, 4]),
        ("text", json!("3"), vec![3, 4]),
        ("time", third["time"].clone(), vec![2, 3, 4]),
    ] {
        let stream =
            Sub::new(&app, &format!("s-{at}"), json!({ "source": { "stream_name": "a-1" }, "from": from })).await;
        assert_eq!(numbers(&stream.drain("w1").await), expected, "{at}");
        let global = Sub::new(&app, &format!("c-{at}"), json!({ "source": { "category": "a" }, "from": from })).await;
        // Global positions begin at 1.
        let expected = if from == 3 || from == "3" { vec![2, 3, 4] } else { expected };
        assert_eq!(numbers(&global.drain("w1").await), expected, "{at}");
    }
    app.write("a-1", "T", json!({ "n": 5 })).await;
    let end = Sub { app: &app, name: "s-end".into() };
    assert_eq!(numbers(&end.drain("w1").await), [5]);
    app.stop().await;
}

#[tokio::test]
async fn settings_may_be_changed_and_the_rest_may_not() {
    let (_database, app) = filled(1, 10).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "max_in_flight": 2 })).await;
    assert_eq!(sub.fetch("w1", 10).await.len(), 2);
    let changed = app.patch(&sub.path(""), &json!({ "max_in_flight": 5, "backoff": [] })).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(changed.json()["definition"]["max_in_flight"], 5);
    assert_eq!(
        (&changed.json()["definition"]["backoff"], &changed.json()["definition"]["ack"]),
        (&json!([]), &json!("explicit"))
    );
    assert_eq!(sub.fetch("w1", 10).await.len(), 3);
    let problem =
        app.patch(&sub.path(""), &json!({ "source": { "all": true } })).await.problem(400, "malformed-request");
    assert_eq!(problem["errors"][0]["field"], "source");
    app.patch(&sub.path(""), &json!({ "max_in_flight": 0 })).await.problem(422, "invalid");
    app.stop().await;
}

#[tokio::test]
async fn a_deleted_subscription_is_gone_with_all_it_held() {
    let (database, app) = filled(1, 5).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    let found = sub.fetch("w1", 5).await;
    sub.nacked("w1", &found[0], json!({ "action": "park" })).await;
    assert_eq!(app.delete(&sub.path("")).await.status, 204);
    app.delete(&sub.path("")).await.problem(404, "not-found");
    app.get(&sub.path("")).await.problem(404, "not-found");
    sub.post("/fetch", &json!({ "consumer": "w1" })).await.problem(404, "not-found");
    sub.ack("w1", &found[1..2]).await.problem(404, "not-found");
    let sql = database.connect().await;
    for table in ["partitions", "consumers", "deliveries", "parked"] {
        let count: i64 =
            sql.query_one(&format!("SELECT count(*) FROM headwater.subscription_{table}"), &[]).await.unwrap().get(0);
        assert_eq!(count, 0, "{table}");
    }
    // Another one of its name begins anew.
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    assert_eq!(sub.fetch("w1", 10).await.len(), 5);
    app.stop().await;
}

#[tokio::test]
async fn they_are_listed_by_name() {
    let (_database, app) = filled(1, 0).await;
    for name in ["c", "a", "b"] {
        Sub::new(&app, name, json!({ "source": { "all": true } })).await;
    }
    let page = app.get("/v1/subscriptions?limit=2").await.json();
    let names: Vec<_> = page["subscriptions"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!((names, &page["next"]), (vec![json!("a"), json!("b")], &json!("b")));
    let page = app.get("/v1/subscriptions?after=b").await.json();
    assert_eq!((&page["subscriptions"][0]["name"], &page["next"]), (&json!("c"), &Value::Null));
    app.stop().await;
}

#[tokio::test]
async fn there_are_as_many_as_there_may_be() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.subscriptions_max = 1;
        settings.subscription_consumers_max = 1;
    })
    .await;
    let sub = Sub::new(&app, "s", json!({ "source": { "all": true } })).await;
    app.put("/v1/subscriptions/t", &json!({ "source": { "all": true } })).await.problem(422, "invalid");
    sub.fetch("w1", 1).await;
    let refused = sub.post("/fetch", &json!({ "consumer": "w2" })).await;
    refused.problem(503, "overloaded");
    app.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_field() {
    let (_database, app) = filled(1, 0).await;
    let source = json!({ "category": "a" });
    for (body, status, field) in [
        (json!({}), 400, "source"),
        (json!([]), 400, "body"),
        (json!({ "source": source, "extra": 1 }), 400, "extra"),
        (json!({ "source": { "stream": "a" } }), 400, "source.stream"),
        (json!({ "source": source, "mode": "both" }), 400, "mode"),
        (json!({ "source": source, "max_in_flight": "7" }), 400, "max_in_flight"),
        (json!({ "source": source, "ack_timeout": "soon" }), 400, "ack_timeout"),
        (json!({ "source": source, "from": "yesterday" }), 400, "from"),
        (json!({ "source": {} }), 422, "source"),
        (json!({ "source": { "category": "a", "all": true } }), 422, "source"),
        (json!({ "source": { "all": false } }), 422, "source.all"),
        (json!({ "source": { "category": "a-1" } }), 422, "source.category"),
        (json!({ "source": { "categories": ["a-1"] } }), 422, "source.categories"),
        (json!({ "source": { "categories": [] } }), 422, "source.categories"),
        (json!({ "source": { "stream_name": "" } }), 422, "source.stream_name"),
        (json!({ "source": { "aggregated_stream": "none" } }), 422, "source.aggregated_stream"),
        (json!({ "source": source, "from": -1 }), 422, "from"),
        (json!({ "source": source, "types": [""] }), 422, "types[0]"),
        (json!({ "source": source, "filter": "1 +" }), 422, "filter"),
        (json!({ "source": source, "partitions": 0 }), 422, "partitions"),
        (json!({ "source": source, "partitions": 1025 }), 422, "partitions"),
        (json!({ "source": source, "max_in_flight": 10_001 }), 422, "max_in_flight"),
        (json!({ "source": source, "max_deliveries": 0 }), 422, "max_deliveries"),
        (json!({ "source": source, "ack_timeout": "0s" }), 422, "ack_timeout"),
        (json!({ "source": source, "consumer_timeout": "2h" }), 422, "consumer_timeout"),
        (json!({ "source": source, "backoff": ["1s", "48h"] }), 422, "backoff[1]"),
    ] {
        let slug = if status == 400 { "malformed-request" } else { "invalid" };
        let problem = app.put("/v1/subscriptions/s", &body).await.problem(status, slug);
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    app.put(&format!("/v1/subscriptions/{}", "x".repeat(201)), &json!({ "source": source }))
        .await
        .problem(422, "invalid");
    app.get("/v1/subscriptions/s").await.problem(404, "not-found");
    app.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_of_a_consumer_is_named_too() {
    let (_database, app) = filled(1, 1).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let entry = json!({ "partition": 0, "position": 1, "epoch": 1 });
    let many = vec![entry.clone(); 1_001];
    for (path, body, status, field) in [
        ("/fetch", json!({}), 400, "consumer"),
        ("/fetch", json!({ "consumer": "" }), 422, "consumer"),
        ("/fetch", json!({ "consumer": "x".repeat(201) }), 422, "consumer"),
        ("/fetch", json!({ "consumer": "w1", "limit": 0 }), 422, "limit"),
        ("/fetch", json!({ "consumer": "w1", "limit": 1_001 }), 422, "limit"),
        ("/fetch", json!({ "consumer": "w1", "max_bytes": 0 }), 422, "max_bytes"),
        ("/fetch", json!({ "consumer": "w1", "wait": "2h" }), 422, "wait"),
        ("/fetch", json!({ "consumer": "w1", "max": 1 }), 400, "max"),
        ("/acks", json!({ "consumer": "w1", "acks": [] }), 422, "acks"),
        ("/acks", json!({ "consumer": "w1", "acks": many }), 422, "acks"),
        ("/acks", json!({ "consumer": "w1", "acks": [{ "position": 1 }] }), 400, "acks[0].epoch"),
        (
            "/nacks",
            json!({ "consumer": "w1", "nacks": [{ "position": 1, "epoch": 1, "action": "drop" }] }),
            400,
            "nacks[0].action",
        ),
        (
            "/nacks",
            json!({ "consumer": "w1", "nacks": [{ "position": 1, "epoch": 1, "action": "park", "delay": "1s" }] }),
            422,
            "nacks[0].delay",
        ),
        (
            "/nacks",
            json!({ "consumer": "w1", "nacks": [{ "position": 1, "epoch": 1, "reason": "a\u{0}" }] }),
            422,
            "nacks[0].reason",
        ),
        ("/extensions", json!({ "consumer": "w1", "extensions": [entry], "ack_timeout": "0s" }), 422, "ack_timeout"),
        ("/claims", json!({ "consumer": "w1" }), 422, "name"),
        ("/seek", json!({ "to": "sideways" }), 400, "to"),
        ("/seek", json!({ "to": -1 }), 422, "to"),
        ("/seek", json!({ "to": "end", "partitions": [99] }), 422, "partitions[0]"),
        ("/parked/replay", json!({}), 422, "positions"),
    ] {
        let slug = if status == 400 { "malformed-request" } else { "invalid" };
        let problem = sub.post(path, &body).await.problem(status, slug);
        assert_eq!(problem["errors"][0]["field"], field, "{path} {body}: {problem}");
    }
    for (path, status, field) in [
        ("/pending?limit=0", 422, "limit"),
        ("/pending?min_idle=x", 400, "min_idle"),
        ("/pending?after=x", 400, "after"),
        ("/parked?after=1:x", 400, "after"),
        ("/events", 400, "consumer"),
        ("/events?consumer=w1&max_in_flight=0", 422, "max_in_flight"),
        ("?wait=1s", 422, "wait"),
    ] {
        let slug = if status == 400 { "malformed-request" } else { "invalid" };
        let problem = app.get(&sub.path(path)).await.problem(status, slug);
        assert_eq!(problem["errors"][0]["field"], field, "{path}: {problem}");
    }
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    app.stop().await;
}
