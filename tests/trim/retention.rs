//! Categories are kept at an age or a number, in the background.

use std::time::Duration;

use serde_json::{Value, json};

use super::{fill, trim};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::http_client;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::eventually;

async fn keeping(database: &TestDatabase) -> TestApp {
    TestApp::with(&database.url, |settings| settings.retention_interval = Duration::from_millis(100)).await
}

async fn set(app: &TestApp, category: &str, body: Value) -> Value {
    let answer = app.put(&format!("/v1/categories/{category}/retention"), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// The positions that are left of a stream.
async fn left(app: &TestApp, stream: &str) -> Vec<i64> {
    let page = app.get(&format!("/v1/streams/{stream}/messages?limit=1000")).await.json();
    page["messages"].as_array().unwrap().iter().map(|message| message["position"].as_i64().unwrap()).collect()
}

async fn until_left(app: &TestApp, stream: &str, positions: &[i64]) {
    let is_so = || async { (left(app, stream).await == positions).then_some(()) };
    eventually(&format!("{positions:?} of {stream}"), is_so).await;
}

#[tokio::test]
async fn a_category_is_kept_at_a_number() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 300).await;
    fill(&database, "b-1", 10).await;
    let app = keeping(&database).await;
    let answer = set(&app, "a", json!({ "max_count": 100 })).await;
    assert_eq!(
        (&answer["max_count"], &answer["max_age"], &answer["unless_unacked"]),
        (&json!(100), &json!(null), &json!(true))
    );
    until_left(&app, "a-1", &(200..300).collect::<Vec<_>>()).await;
    for _ in 0..5 {
        app.write("a-1", "T", json!({})).await;
    }
    until_left(&app, "a-1", &(205..305).collect::<Vec<_>>()).await;
    assert_eq!(left(&app, "b-1").await.len(), 10);
    let stored = app.get("/v1/categories/a/retention").await.json();
    assert_eq!(stored["trimmed"], 205, "{stored}");
    assert!(
        stored["last_trimmed_at"].is_string() && stored["last_run_at"].is_string() && stored["oldest_time"].is_string()
    );
    assert_eq!(app.metric("headwater_retention_trimmed_total{category=\"a\"}").await, 205.0);
    assert_eq!(app.get("/v1/retentions").await.json()["retentions"].as_array().unwrap().len(), 1);
    app.stop().await;
}

/// By age; the newest message of each stream stays however old it is, and goes when a newer one has come and it is due.
#[tokio::test]
async fn a_category_is_kept_at_an_age() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 10).await;
    fill(&database, "a-2", 10).await;
    let app = keeping(&database).await;
    app.write("a-2", "T", json!({})).await;
    set(&app, "a", json!({ "max_age": "1h" })).await;
    until_left(&app, "a-1", &[9]).await;
    until_left(&app, "a-2", &[10]).await;
    app.get("/v1/streams/a-1/messages?from=0").await.problem(410, "position-trimmed");
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_acked_stays_unless_that_is_said() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 20).await;
    let app = keeping(&database).await;
    let made = app.put("/v1/subscriptions/s", &json!({ "source": { "category": "a" } })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    set(&app, "a", json!({ "max_count": 5 })).await;
    let has_run = || async {
        let stored = app.get("/v1/categories/a/retention").await.json();
        stored["last_run_at"].is_string().then_some(stored)
    };
    assert_eq!(eventually("a pass", has_run).await["trimmed"], 0);
    assert_eq!(left(&app, "a-1").await.len(), 20);
    set(&app, "a", json!({ "max_count": 5, "unless_unacked": false })).await;
    until_left(&app, "a-1", &(15..20).collect::<Vec<_>>()).await;
    app.stop().await;
}

/// Two instances, appends and a trim at the same time end where the retention says, and nothing is trimmed twice.
#[tokio::test]
async fn several_instances_keep_a_category_together() {
    let database = TestDatabase::migrated().await;
    for stream in 0..20 {
        fill(&database, &format!("a-{stream}"), 100).await;
    }
    let (one, other) = (keeping(&database).await, keeping(&database).await);
    set(&one, "a", json!({ "max_count": 500 })).await;
    for n in 0..50 {
        other.write(&format!("a-{}", n % 20), "T", json!({})).await;
    }
    trim(&other, "a-19", json!({ "keep_last": 3 })).await;
    let count = || async {
        let report = one.get("/v1/reports/categories").await.json();
        let category = report["categories"][0].clone();
        let is_small = || category["message_count"].as_i64().unwrap() <= 500;
        (report["counted_position"].as_i64() >= Some(2_050) && is_small()).then_some(category)
    };
    let report = eventually("the category to be small", count).await;
    assert_eq!(report["stream_count"], 20, "{report}");
    assert_books_balance(&database, 2_050).await;
    other.stop().await;
    one.stop().await;
}

/// What is there and what is said to be gone are all messages that ever were.
async fn assert_books_balance(database: &TestDatabase, written: i64) {
    let sql = database.connect().await;
    let row = sql
        .query_one(
            "SELECT (SELECT count(*) FROM message_store.messages), (SELECT sum(first_position) FROM \
             headwater.trimmed_streams)::bigint, (SELECT sum(message_count) FROM headwater.trimmed_ranges)::bigint",
            &[],
        )
        .await
        .unwrap();
    let (messages, by_stream, by_range): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((messages + by_stream, by_stream), (written, by_range));
}

/// Steps commit and their answers are lost, and the service is killed among them: the retention goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_retention_goes_on_after_lost_answers_and_a_kill() {
    let database = TestDatabase::migrated().await;
    for stream in 0..4 {
        fill(&database, &format!("a-{stream}"), 10_000).await;
    }
    let sql = database.connect().await;
    let left =
        async || -> i64 { sql.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0) };
    let proxy = FaultProxy::before(&database.url).await;
    let arguments = ["--listen", "127.0.0.1:0", "--retention-interval", "100ms", "--database-url"];
    let process = ServiceProcess::start(&[&arguments[..], &[proxy.url.as_str()]].concat());
    let set = http_client().put(format!("{}/v1/categories/a/retention", process.url));
    proxy.lose_answers_of("retention_step", 3);
    assert_eq!(set.json(&json!({ "max_count": 100 })).send().await.unwrap().status(), 200);
    eventually("answers to be lost", || async { (proxy.lost_answers() == 3).then_some(()) }).await;
    let before = left().await;
    eventually("more to go", || async { (left().await < before).then_some(()) }).await;
    process.kill();
    assert_books_balance(&database, 40_000).await;
    assert!(left().await > 100, "it was done already");
    let app = keeping(&database).await;
    eventually("the rest to go", || async { (left().await == 100).then_some(()) }).await;
    assert_books_balance(&database, 40_000).await;
    app.stop().await;
}

#[tokio::test]
async fn bad_input_is_named_and_keeps_everything() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 5).await;
    let app = keeping(&database).await;
    for (body, status, slug) in [
        (json!({}), 422, "invalid"),
        (json!({ "max_count": 0 }), 422, "invalid"),
        (json!({ "max_count": -1 }), 422, "invalid"),
        (json!({ "max_age": "0s" }), 422, "invalid"),
        (json!({ "max_age": "1000000y" }), 422, "invalid"),
        (json!({ "max_age": "soon" }), 400, "malformed-request"),
        (json!({ "max_age": 5 }), 400, "malformed-request"),
        (json!({ "max_count": "5" }), 400, "malformed-request"),
        (json!({ "max_count": 5, "max_size": 5 }), 400, "malformed-request"),
    ] {
        let problem = app.put("/v1/categories/a/retention", &body).await.problem(status, slug);
        assert!(problem["errors"][0]["field"].is_string(), "{body}: {problem}");
    }
    app.put("/v1/categories/a-1/retention", &json!({ "max_count": 1 })).await.problem(422, "invalid");
    app.get("/v1/categories/a/retention").await.problem(404, "not-found");
    app.delete("/v1/categories/a/retention").await.problem(404, "not-found");
    assert_eq!(app.get("/v1/retentions").await.json(), json!({ "retentions": [], "next": null }));
    for after in ["-1", "a-1"] {
        let problem = app.get(&format!("/v1/retentions?after={after}")).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "after", "{problem}");
    }
    set(&app, "a", json!({ "max_count": 100, "max_age": "30000d" })).await;
    assert_eq!(app.delete("/v1/categories/a/retention").await.status, 204);
    assert_eq!(left(&app, "a-1").await.len(), 5);
    app.stop().await;
}
