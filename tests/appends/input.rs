//! Bad input names the field and the rule, and changes nothing.

use super::*;

#[tokio::test]
async fn each_field_has_its_rule() {
    let (database, app) = app().await;
    let with = |key: &str, value: Value| {
        let mut body = json!({ "appends": [to("a-1", None)] });
        body[key] = value;
        body
    };
    let condition = |value: Value| with("conditions", json!([value]));
    let ack = |value: Value| with("ack", value);
    let many = |count: usize| json!((0..count).map(|n| to(&format!("a-{n}"), None)).collect::<Vec<_>>());
    let categories: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    let versions: Vec<Value> = (0..101).map(|n| json!({ "stream_name": format!("s-{n}"), "version": 0 })).collect();
    let stream = |key: &str, value: Value| {
        let mut stream = to("a-1", None);
        stream[key] = value;
        with("appends", json!([to("z-1", None), stream]))
    };
    let good_ack = json!({ "subscription": "s", "consumer": "w", "position": 1, "epoch": 1 });
    let ack_with = |key: &str, value: Value| {
        let mut body = good_ack.clone();
        body[key] = value;
        ack(body)
    };
    let cases = [
        (with("appends", json!([])), 422, "appends"),
        (with("appends", many(101)), 422, "appends"),
        (with("appends", json!([to("a-1", None), to("a-1", None)])), 422, "appends[1].stream_name"),
        (stream("stream_name", json!("")), 422, "appends[1].stream_name"),
        (stream("stream_name", json!("a\u{0}")), 422, "appends[1].stream_name"),
        (stream("stream_name", json!("x".repeat(1_001))), 422, "appends[1].stream_name"),
        (stream("expected_version", json!(-2)), 422, "appends[1].expected_version"),
        (stream("messages", json!([])), 422, "appends[1].messages"),
        (stream("messages", json!([{ "type": "" }])), 422, "appends[1].messages[0].type"),
        (stream("messages", json!([{ "type": "T", "data": "\u{0}" }])), 422, "appends[1].messages[0].data"),
        (stream("messages", json!(vec![json!({ "type": "T" }); 1_000])), 422, "appends"),
        (with("conditions", json!(versions)), 422, "conditions"),
        (condition(json!({ "categories": categories })), 422, "conditions"),
        (condition(json!({})), 422, "conditions[0]"),
        (condition(json!({ "stream_name": "a-1" })), 422, "conditions[0]"),
        (condition(json!({ "version": 1 })), 422, "conditions[0]"),
        (condition(json!({ "stream_name": "a-1", "version": 1, "after": 3 })), 422, "conditions[0]"),
        (condition(json!({ "stream_name": "a-1", "version": -2 })), 422, "conditions[0].version"),
        (condition(json!({ "stream_name": "", "version": 0 })), 422, "conditions[0].stream_name"),
        (condition(json!({ "types": ["T"] })), 422, "conditions[0]"),
        (condition(json!({ "categories": [] })), 422, "conditions[0].categories"),
        (condition(json!({ "categories": ["a", "b-1"] })), 422, "conditions[0].categories[1]"),
        (condition(json!({ "categories": ["a"], "types": ["T", ""] })), 422, "conditions[0].types[1]"),
        (condition(json!({ "categories": ["a"], "filter": "data." })), 422, "conditions[0].filter"),
        (condition(json!({ "categories": ["a"], "filter": "[1].all(x, true)" })), 422, "conditions[0].filter"),
        (condition(json!({ "categories": ["a"], "after": -1 })), 422, "conditions[0].after"),
        (condition(json!({ "aggregated_stream": "x" })), 422, "conditions[0].key"),
        (condition(json!({ "key": "k" })), 422, "conditions[0]"),
        (condition(json!({ "categories": ["a"], "key": "k" })), 422, "conditions[0]"),
        (condition(json!({ "aggregated_stream": "x", "key": "k", "types": [] })), 422, "conditions[0]"),
        (condition(json!({ "aggregated_stream": "x", "key": "k", "filter": "true" })), 422, "conditions[0]"),
        (condition(json!({ "aggregated_stream": "x", "key": "k", "categories": ["a"] })), 422, "conditions[0]"),
        (condition(json!({ "aggregated_stream": "x", "key": "k", "version": 1 })), 422, "conditions[0]"),
        (condition(json!({ "aggregated_stream": "x", "key": "k", "after": -1 })), 422, "conditions[0].after"),
        (condition(json!({ "aggregated_stream": "x", "key": "k", "after": "1" })), 400, "conditions[0].after"),
        (condition(json!({ "aggregated_stream": "", "key": "k" })), 422, "conditions[0].aggregated_stream"),
        (condition(json!({ "aggregated_stream": "x\u{0}", "key": "k" })), 422, "conditions[0].aggregated_stream"),
        (condition(json!({ "aggregated_stream": "x", "key": "\u{0}" })), 422, "conditions[0].key"),
        (condition(json!({ "aggregated_stream": "x", "key": "é".repeat(129) })), 422, "conditions[0].key"),
        (condition(json!({ "aggregated_stream": "x", "key": 7 })), 400, "conditions[0].key"),
        (condition(json!({ "aggregated_stream": ["x"], "key": "k" })), 400, "conditions[0].aggregated_stream"),
        (condition(json!({ "categories": ["a"], "after": 1e300 })), 400, "conditions[0].after"),
        (condition(json!({ "categories": "a" })), 400, "conditions[0].categories"),
        (condition(json!({ "category": "a" })), 400, "conditions[0].category"),
        (condition(json!([])), 400, "conditions[0]"),
        (with("condition", json!([])), 400, "condition"),
        (with("ack", json!([])), 400, "ack"),
        (ack_with("subscription", json!("")), 422, "ack.subscription"),
        (ack_with("consumer", json!("\u{0}")), 422, "ack.consumer"),
        (ack_with("epoch", json!("1")), 400, "ack.epoch"),
        (ack_with("partition", json!(3_000_000_000_u64)), 400, "ack.partition"),
        (ack(json!({ "subscription": "s", "consumer": "w" })), 400, "ack.position"),
    ];
    for (body, status, field) in cases {
        let slug = if status == 400 { "malformed-request" } else { "invalid" };
        let problem = appends(&app, &body).await.problem(status, slug);
        let named: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|one| one["field"].clone()).collect();
        assert!(named.contains(&json!(field)), "{field} is not named: {problem}");
    }
    appends(&app, &ack(good_ack.clone())).await.problem(404, "not-found");
    app.post_text("/v1/appends", "[]").await.problem(400, "malformed-request");
    app.post("/v1/appends?x=1", &with("conditions", json!([]))).await.problem(400, "malformed-request");
    assert_eq!(count(&database).await, 0);
}

#[tokio::test]
async fn odd_names_are_names() {
    let (_database, app) = app().await;
    let names = ["100%-_x", "it's \"quoted\"-1", "größe-日本", "a:b+c-1+2", "-1", "{a,b}-1", "a\\b-1"];
    let streams: Vec<Value> = names.iter().map(|name| to(name, -1)).collect();
    let types = ["it's", "a,b", "\"", "\\"];
    let conditions: Vec<Value> = vec![
        json!({ "categories": ["it's \"quoted\"", "größe", "{a,b}", "a\\b", "100%"], "types": types }),
        json!({ "stream_name": "it's \"quoted\"-2", "version": -1 }),
    ];
    let body = json!({ "appends": streams, "conditions": conditions });
    written(&app, &body).await;
    app.write("{a,b}-1", "a,b", json!(0)).await;
    let body = json!({ "appends": [to("z-1", None)], "conditions": conditions });
    let problem = appends(&app, &body).await.problem(409, "condition-failed");
    assert_eq!((&problem["condition"], &problem["position"]), (&json!(0), &json!(names.len() + 1)));
}
