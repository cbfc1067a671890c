//! An example for every body that is sent, and for parameters: each works as it is, on a service in which the things that
//! it names exist. Together they are one small story: orders, and the subscription that bills them.

use serde_json::{Value, json};

use super::operations_by_path;

/// The message of the first example.
const MESSAGE_ID: &str = "0192f1c2-0000-7000-8000-000000000001";

/// Puts the examples into the document.
pub fn describe(document: &mut Value) {
    for (_, path, operation) in operations_by_path(document) {
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            let place = parameter["in"].as_str().unwrap_or_default();
            let name = parameter["name"].as_str().unwrap_or_default();
            if let Some(example) = parameter_of(path, place, name) {
                parameter["example"] = example;
            }
        }
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        if let Some(body) = operation.pointer_mut("/requestBody/content/application~1json") {
            // A body without an example is found by a test.
            if let Some(example) = body_of(&id) {
                body["example"] = example;
            }
        }
    }
}

/// What a parameter is in the examples; those of queries have one here only if their own would not do.
fn parameter_of(path: &str, place: &str, name: &str) -> Option<Value> {
    let is_below = |beginning| path.starts_with(beginning);
    Some(match (place, name) {
        ("path", "name") if is_below("/v1/aggregated-streams/{name}/keys") => "orders-by-item".into(),
        ("path", "name") if is_below("/v1/aggregated-streams/") => "orders".into(),
        ("path", "name") if is_below("/v1/subscriptions/{name}/claims") => "emails".into(),
        ("path", "name") if is_below("/v1/subscriptions/") => "billing".into(),
        ("path", "stream_name") => "order-1".into(),
        ("path", "category") => "order".into(),
        ("path", "id") if is_below("/v1/messages/") => MESSAGE_ID.into(),
        ("path", "key") => "Tea".into(),
        ("path", "partition") => 1.into(),
        ("path", "position") => 0.into(),
        ("path", "problem") => "wrong-expected-version".into(),
        ("path" | "query", "consumer") => "w1".into(),
        ("query", "category") if path == "/v1/events" => json!(["order"]),
        ("query", "correlation") => "cart".into(),
        ("query", "min_position") => 0.into(),
        ("query", "global_position") => 1.into(),
        _ => return None,
    })
}

/// What is sent to an operation.
fn body_of(operation_id: &str) -> Option<Value> {
    let delivery = json!({ "partition": 1, "position": 0, "epoch": 1 });
    Some(match operation_id {
        "appendMessages" => json!({
            "expected_version": -1,
            "messages": [{
                "id": MESSAGE_ID,
                "type": "OrderPlaced",
                "data": { "item": "Tea", "quantity": 2 },
                "metadata": { "user": "ann", "correlationStreamName": "cart-9" },
            }],
        }),
        "appendToStreams" => json!({
            "appends": [
                {
                    "stream_name": "order-2",
                    "expected_version": -1,
                    "messages": [{
                        "id": "0192f1c2-0000-7000-8000-000000000002",
                        "type": "OrderPlaced",
                        "data": { "item": "Coffee", "quantity": 1, "coupon": "SPRING-7" },
                    }],
                },
                {
                    "stream_name": "customer-7",
                    "messages": [{ "id": "0192f1c2-0000-7000-8000-000000000003", "type": "CouponUsed", "data": { "coupon": "SPRING-7" } }],
                },
            ],
            "conditions": [{ "categories": ["order"], "types": ["OrderPlaced"], "filter": "data.coupon == 'SPRING-7'" }],
        }),
        "defineAggregatedStream" => json!({
            "categories": ["order"],
            "partitioner": { "kind": "stream", "partitions": 4 },
        }),
        "createSubscription" => json!({ "source": { "aggregated_stream": "orders" }, "from": "beginning" }),
        "changeSubscription" => json!({ "ack_timeout": "60s", "max_deliveries": 10 }),
        "fetchMessages" => json!({ "consumer": "w1", "limit": 10, "wait": "5s" }),
        "ackMessages" => json!({ "consumer": "w1", "acks": [delivery] }),
        "nackMessages" => json!({
            "consumer": "w1",
            "nacks": [{ "partition": 1, "position": 0, "epoch": 1, "action": "park", "reason": "no address" }],
        }),
        "extendMessages" => json!({ "consumer": "w1", "extensions": [delivery], "ack_timeout": "60s" }),
        "claimMessages" => json!({ "consumer": "w2", "min_idle": "0s", "limit": 10 }),
        "seekSubscription" => json!({ "to": "beginning", "dry_run": true }),
        "replayParked" => json!({ "all": true }),
        "trimStream" => json!({ "keep_last": 1000 }),
        "setRetention" => json!({ "max_age": "30d", "max_count": 1_000_000 }),
        "createApiKey" => {
            json!({ "name": "billing worker", "scopes": ["read:order-*", "subscribe:billing"], "expires_in": "90d" })
        }
        "createTicket" => json!({ "scopes": ["read:order-*"], "ttl": "10m" }),
        _ => return None,
    })
}
