//! Input that is small and makes much: of work, of memory, or of an answer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::http_client;

#[tokio::test]
async fn a_duration_beyond_what_a_duration_holds_is_named() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let endless = "18446744073709551615s1000ms";
    for path in [
        format!("/v1/all/events?heartbeat={endless}"),
        format!("/v1/all/messages?from=0&wait={endless}"),
        format!("/v1/reports/streams?wait={endless}"),
    ] {
        let problem = app.get(&path).await.problem(400, "malformed-request");
        assert!(problem["errors"][0]["field"].is_string(), "{path}: {problem}");
    }
    for (path, body) in [
        ("/v1/tickets", json!({ "scopes": ["read:a"], "ttl": endless })),
        ("/v1/subscriptions/s", json!({ "source": { "all": true }, "ack_timeout": endless })),
        ("/v1/categories/a/retention", json!({ "max_age": endless })),
    ] {
        let answer = if path == "/v1/tickets" { app.post(path, &body).await } else { app.put(path, &body).await };
        let problem = answer.problem(400, "malformed-request");
        assert_ne!(problem["errors"][0]["field"], Value::Null, "{path}: {problem}");
    }
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    app.stop().await;
}

#[tokio::test]
async fn two_idempotency_keys_are_refused() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let request = app.http.post(format!("{}/v1/streams/a-1/messages", app.url));
    let request = request.header("idempotency-key", "k1").header("idempotency-key", "k2");
    let answer = request.json(&json!({ "messages": [{ "type": "T" }] })).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["errors"][0]["field"], "Idempotency-Key", "{problem}");
    app.get("/v1/streams/a-1").await.problem(404, "not-found");
    app.stop().await;
}

/// PostgreSQL keeps numbers without an exponent.
#[tokio::test]
async fn a_message_is_measured_as_it_is_stored() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.message_bytes_max = 10_000).await;
    let body = |number: &str| format!(r#"{{"messages": [{{"type": "T", "data": [{}]}}]}}"#, [number; 20].join(","));
    let problem = app.post_text("/v1/streams/a-1/messages", body("1e999")).await.problem(413, "message-too-large");
    assert_eq!(problem["limit"], 10_000, "{problem}");
    assert_eq!(app.post_text("/v1/streams/a-1/messages", body("1e99")).await.status, 201);
    app.stop().await;
}

/// The index of correlations takes what a category takes.
#[tokio::test]
async fn a_correlation_of_a_long_category_is_named() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (value, status) in [
        (json!("x".repeat(6_000)), 422),
        (json!({ "x": "y".repeat(6_000) }), 422),
        (json!(format!("cart-{}", "x".repeat(6_000))), 201),
        (json!(null), 201),
    ] {
        let message = json!({ "type": "T", "metadata": { "correlationStreamName": value, "pad": "x".repeat(2_000) } });
        let answer = app.append("a-1", &json!({ "messages": [{ "type": "T" }, message] })).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        if status == 422 {
            assert_eq!(answer.problem(422, "invalid")["errors"][0]["field"], "messages[1].metadata");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn an_answer_lists_a_hundred_mistakes_at_most_and_repeats_no_long_text() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let body = json!({ "source": { "all": true }, "types": vec![""; 20_000] });
    let problem = app.put("/v1/subscriptions/s", &body).await.problem(422, "invalid");
    assert!((1..=100).contains(&problem["errors"].as_array().unwrap().len()));
    let answer = app.post_text("/v1/streams/a-1/messages", format!("{{\"{}\": 1}}", "eyJ".repeat(100_000))).await;
    assert!(answer.text.len() < 10_000, "{} bytes", answer.text.len());
    answer.problem(400, "malformed-request");
    app.stop().await;
}

/// Its path ends as those of event streams do.
#[tokio::test]
async fn a_subscription_that_is_named_events_is_read_whatever_its_size() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let made = app.put("/v1/subscriptions/events", &json!({ "source": { "all": true }, "partitions": 1024 })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    // On a connection of its own, as those of event streams are.
    let answer = http_client().get(format!("{}/v1/subscriptions/events", app.url)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.len() > 64 << 10, "{} bytes", text.len());
    let subscription: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(subscription["status"]["partitions"].as_array().unwrap().len(), 1024);
    app.stop().await;
}

/// Browsers do not show a page that a cursor has moved.
#[tokio::test]
async fn a_busy_log_of_which_nothing_passes_has_heartbeats() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut events = app.follow("/v1/all/events?heartbeat=1s&types=Never").await;
    events.next("caught-up").await;
    // So many that the cursor moves again and again.
    let messages = json!({ "messages": vec![json!({ "type": "T" }); 1_000] });
    let writing = async {
        for _ in 0..30 {
            assert_eq!(app.append("a-1", &messages).await.status, 201);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = writing => panic!("six seconds without a heartbeat"),
        _ = events.next("heartbeat") => {}
    }
    app.stop().await;
}
