//! Definitions, keys and messages that are against a rule.

use super::*;

#[tokio::test]
async fn a_bad_definition_names_its_field() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let key = |rest: Value| {
        let mut partitioner = json!({ "kind": "key" });
        partitioner.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({ "partitioner": partitioner })
    };
    for (definition, status, slug, field) in [
        (key(json!({})), 400, "malformed-request", "partitioner.of"),
        (key(json!({ "of": "data" })), 400, "malformed-request", "partitioner.pointer"),
        (key(json!({ "of": "data", "pointer": null })), 400, "malformed-request", "partitioner.pointer"),
        (key(json!({ "of": "data", "pointer": 7 })), 400, "malformed-request", "partitioner.pointer"),
        (key(json!({ "of": "sku", "pointer": "/sku" })), 400, "malformed-request", "partitioner.of"),
        (key(json!({ "of": "type", "pointer": "/sku" })), 400, "malformed-request", "partitioner.pointer"),
        (key(json!({ "of": "cardinal_id", "partitions": 3 })), 400, "malformed-request", "partitioner.partitions"),
        (key(json!({ "of": "data", "pointer": "/a", "missing": 0 })), 400, "malformed-request", "partitioner.missing"),
        (key(json!({ "of": "data", "pointer": "sku" })), 422, "invalid", "partitioner.pointer"),
        (key(json!({ "of": "data", "pointer": "/a~2" })), 422, "invalid", "partitioner.pointer"),
        (key(json!({ "of": "data", "pointer": "/a\0" })), 422, "invalid", "partitioner.pointer"),
    ] {
        let problem = put(&app, "skus", &definition).await.problem(status, slug);
        assert_eq!(problem["errors"][0]["field"], field, "{definition}: {problem}");
    }
    for (field, value) in
        [("max_partition", json!(9)), ("max_partition", json!(-1)), ("on_error", json!({ "partition": 0 }))]
    {
        let mut definition = by_sku();
        definition[field] = value;
        let problem = put(&app, "skus", &definition).await.problem(422, "invalid");
        assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    assert_eq!(app.get(&path_of("skus")).await.status, 404, "nothing was defined");
    // What is right is given back as it was.
    define(&app, "skus", &by_sku()).await;
    let same = put(&app, "skus", &by_sku()).await;
    assert_eq!((same.status, &same.json()["definition"]["partitioner"]), (200, &by_sku()["partitioner"]));
    let other = json!({ "categories": ["order"], "partitioner": { "kind": "key", "of": "data", "pointer": "/id" } });
    assert_eq!(put(&app, "skus", &other).await.problem(409, "definition-differs")["fields"], json!(["partitioner"]));
    app.stop().await;
}

#[tokio::test]
async fn bad_parameters_are_refused_and_change_nothing() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "skus", &by_sku()).await;
    define(&app, "plain", &of_categories(&["order"])).await;
    let long = "x".repeat(257);
    let many: String = (0..101).map(|number| format!("key={number}&")).collect();
    for (path, status, slug, field) in [
        (format!("skus/keys?prefix={long}"), 422, "invalid", "prefix"),
        (format!("skus/keys?from={long}"), 422, "invalid", "from"),
        ("skus/keys?prefix=a%00".into(), 422, "invalid", "prefix"),
        ("skus/keys?prefix=%FF".into(), 400, "malformed-request", "prefix"),
        ("skus/keys?limit=0".into(), 422, "invalid", "limit"),
        ("skus/keys?limit=1001".into(), 422, "invalid", "limit"),
        ("skus/keys?limit=-1".into(), 400, "malformed-request", "limit"),
        ("skus/keys?after=a".into(), 400, "malformed-request", "after"),
        ("plain/keys".into(), 422, "invalid", "name"),
        ("plain/keys/a/messages".into(), 422, "invalid", "name"),
        (format!("skus/keys/{long}/messages"), 422, "invalid", "key"),
        ("skus/keys/a%00/messages".into(), 422, "invalid", "key"),
        ("skus/keys/%FF/messages".into(), 400, "malformed-request", "key"),
        ("skus/keys/a/messages?from=-1".into(), 422, "invalid", "from"),
        ("skus/keys/a/messages?limit=x".into(), 400, "malformed-request", "limit"),
        ("skus/keys/a/messages?wait=1h".into(), 422, "invalid", "wait"),
        ("skus/partitions/2147483648/messages".into(), 422, "invalid", "partition"),
        ("plain/partitions/10000/messages".into(), 422, "invalid", "partition"),
        ("plain/events?partition=10000".into(), 422, "invalid", "partition"),
        ("plain/events?key=a".into(), 422, "invalid", "key"),
        ("skus/events?key=a&partition=0".into(), 422, "invalid", "key"),
        (format!("skus/events?key={long}"), 422, "invalid", "key"),
        (format!("skus/events?{many}"), 422, "invalid", "key"),
        ("skus/events?key=a%00".into(), 422, "invalid", "key"),
        ("plain/positions?global_position=1&key=a".into(), 422, "invalid", "key"),
        ("skus/positions?global_position=1".into(), 422, "invalid", "key"),
    ] {
        let problem = app.get(&format!("/v1/aggregated-streams/{path}")).await.problem(status, slug);
        assert_eq!(problem["errors"][0]["field"], field, "{path}: {problem}");
    }
    for path in ["none/keys", "none/keys/a/messages", "none/events?key=a"] {
        app.get(&format!("/v1/aggregated-streams/{path}")).await.problem(404, "not-found");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_value_that_is_no_key_stops_the_index_or_is_skipped() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    define(&app, "stops", &by_sku()).await;
    let mut skips = by_sku();
    skips["on_error"] = json!("skip");
    define(&app, "skips", &skips).await;
    let first = app.write("order-1", "Ordered", json!({ "sku": "a" })).await;
    let too_long = app.write("order-1", "Ordered", json!({ "sku": "é".repeat(129) })).await;
    let odd = [json!({}), json!([[]]), json!([null]), json!((0..17).collect::<Vec<_>>()), json!(["a", { "b": 1 }])];
    for sku in &odd {
        app.write("order-1", "Ordered", json!({ "sku": sku })).await;
    }
    let last = app.write("order-1", "Ordered", json!({ "sku": ["é".repeat(128), "a"] })).await;
    let status = projected(&app, "skips", last).await;
    assert_eq!(status["skipped"], odd.len() as i64 + 1);
    let texts = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    let longest = "é".repeat(128);
    is_index_of(&app, &sql, "skips", &[(first, texts(&["a"])), (last, texts(&[&longest, "a"]))]).await;
    assert_eq!(messages_of(&app, "skips", &longest).await.len(), 1);
    let status = until_state(&app, "stops", "stopped").await;
    assert_eq!(status["error"]["global_position"], too_long);
    assert_eq!(status["error"]["reason"], "the value at \"/sku\" has 258 bytes: a key has at most 256");
    is_index_of(&app, &sql, "stops", &[(first, texts(&["a"]))]).await;
    app.stop().await;
}
