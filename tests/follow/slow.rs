//! Event streams that are behind are named, with what they wait for, and no others.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::waiting::eventually;

const REPORT: &str = "/v1/reports/event-streams?behind_for=0s";

/// More than all buffers between the service and a client that does not read.
async fn write_much(app: &TestApp) -> i64 {
    let text = "x".repeat(64 << 10);
    let messages: Vec<Value> = (0..40).map(|_| json!({ "type": "Large", "data": { "text": text } })).collect();
    let mut last = 0;
    for _ in 0..12 {
        let answer = app.append("a-1", &json!({ "messages": messages })).await.json();
        last = answer["messages"][39]["global_position"].as_i64().expect("it is written");
    }
    last
}

/// Follows, and reads no further than the end that there is now.
async fn at_the_end(app: &TestApp, path: &str) -> Events {
    let mut events = app.follow(path).await;
    events.next("caught-up").await;
    events
}

async fn listed(app: &TestApp, count: usize) -> Value {
    eventually("so many to be behind", || async {
        let report = app.get(REPORT).await.json();
        (report["behind"] == count).then_some(report)
    })
    .await
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_named_until_it_has_caught_up() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.cache_bytes_max = 64 << 10).await;
    // The second and the third share what is written for them.
    let paths =
        ["/v1/streams/a-1/events", "/v1/categories/a/events?heartbeat=300s", "/v1/categories/a/events?heartbeat=300s"];
    let mut slow = Vec::new();
    for path in paths {
        slow.push(at_the_end(&app, path).await);
    }
    let _quiet = at_the_end(&app, "/v1/categories/b/events").await;
    let report = app.get(REPORT).await.json();
    assert_eq!((&report["open"], &report["behind"]), (&json!(4), &json!(0)), "{report}");

    let last = write_much(&app).await;
    let report = listed(&app, 3).await;
    let mut named: Vec<&str> = Vec::new();
    for stream in report["event_streams"].as_array().unwrap() {
        named.push(stream["path"].as_str().unwrap());
        assert_eq!(stream["waits_for"], "client", "{stream}");
        let position = stream["position"].as_i64().unwrap();
        assert!(position < last && stream["lag"].as_i64().unwrap() > 0, "{stream}");
        assert_eq!((&stream["remote_address"], &stream["credential"]), (&json!("127.0.0.1"), &Value::Null));
        assert!(stream["opened_at"].as_str() <= stream["behind_since"].as_str());
    }
    named.sort_unstable();
    assert_eq!(named, [paths[1], paths[1], paths[0]]);
    let report = app.get(&format!("{REPORT}&limit=1")).await.json();
    assert_eq!((&report["behind"], report["event_streams"].as_array().unwrap().len()), (&json!(3), 1));
    assert_eq!(app.get("/v1/reports/event-streams?behind_for=1h").await.json()["behind"], 0, "not for so long");

    for events in &mut slow {
        events.positions_until(last).await;
        events.next("caught-up").await;
    }
    listed(&app, 0).await;
    drop(slow);
    eventually("they have gone", || async { (app.get(REPORT).await.json()["open"] == 1).then_some(()) }).await;
    app.stop().await;
}

#[tokio::test]
async fn one_that_reads_what_is_stored_is_named_with_its_credential_and_without_its_ticket() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let last = app.write("order-1", "Placed", json!({})).await;
    let key = app.make_key(&["read:order*"]).await;
    let ticket = app.client_with(&key).post("/v1/tickets", &json!({ "scopes": ["read:order*"] })).await.json();
    // Pages cannot be read meanwhile.
    let session = database.connect().await;
    session.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let secret = ticket["ticket"].as_str().unwrap();
    let url = format!("{}/v1/categories/order/events?from=beginning&ticket={secret}&types=Placed", app.url);
    let mut events = Events::open(&url, &[]).await;
    let report = listed(&app, 1).await;
    let stream = &report["event_streams"][0];
    assert_eq!(stream["path"], "/v1/categories/order/events?from=beginning&types=Placed");
    assert_eq!(stream["waits_for"], "database");
    assert_eq!(stream["credential"], json!(format!("key:{}", key.split('_').nth(1).unwrap())));
    session.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(events.positions_until(last).await, [last]);
    events.next("caught-up").await;
    listed(&app, 0).await;

    app.client_with(&key).get(REPORT).await.problem(403, "forbidden");
    for (query, status, problem) in
        [("behind_for=x", 400, "malformed-request"), ("behind_for=25h", 422, "invalid"), ("limit=0", 422, "invalid")]
    {
        app.get(&format!("/v1/reports/event-streams?{query}")).await.problem(status, problem);
    }
    app.stop().await;
}
