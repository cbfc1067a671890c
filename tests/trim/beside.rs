//! A trim goes on beside appends and followers, and survives the service.

use serde_json::json;

use super::{fill, trim};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::eventually;

/// Appends, followers and a trim of the same stream at the same time: nobody misses what is not trimmed, and no version is
/// given twice.
#[tokio::test]
async fn appends_and_followers_go_on_beside_a_trim() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 3_000).await;
    let (app, other) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let mut live = other.follow("/v1/streams/a-1/events").await;
    live.next("caught-up").await;
    let mut behind = other.follow("/v1/streams/a-1/events?from=beginning").await;
    let writing = async {
        for version in 2_999..3_199 {
            let body = json!({ "expected_version": version, "messages": [{ "type": "T", "data": {} }] });
            let answer = app.append("a-1", &body).await;
            assert_eq!(answer.status, 201, "{}", answer.text);
        }
    };
    let trimming = async {
        for keep in [2_000, 1_000, 300, 201, 201] {
            trim(&other, "a-1", json!({ "keep_last": keep })).await;
        }
    };
    tokio::join!(writing, trimming);
    let seen = live.messages(200).await;
    let positions: Vec<i64> = seen.iter().map(|message| message["position"].as_i64().unwrap()).collect();
    assert_eq!(positions, (3_000..3_200).collect::<Vec<_>>());
    // What comes and what is said to be gone add up, in order.
    let mut next = 0;
    while next < 3_200 {
        let event = behind.next_event().await;
        match event.name.as_deref() {
            Some("message") => {
                assert_eq!(event.json()["position"], next, "{event:?}");
                next += 1;
            }
            Some("trimmed") => {
                next += event.json()["count"].as_i64().unwrap();
                assert_eq!(event.json()["first_position"], next);
            }
            _ => {}
        }
    }
    other.stop().await;
    app.stop().await;
}

/// The service is killed in the middle: what was deleted is consistent, and the same request goes on.
#[tokio::test]
async fn a_trim_survives_the_service_that_is_killed() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 60_000).await;
    let sql = database.connect().await;
    let first = || async {
        let row = sql.query_opt("SELECT first_position FROM headwater.trimmed_streams", &[]).await.unwrap();
        row.map(|row| row.get::<_, i64>(0))
    };
    let process = ServiceProcess::start(&["--listen", "127.0.0.1:0", "--database-url", &database.url]);
    let url = process.url.clone();
    let http = http_client();
    let request =
        tokio::spawn(http.post(format!("{url}/v1/streams/a-1/trim")).json(&json!({ "keep_last": 10 })).send());
    eventually("the first steps", || async { first().await.filter(|first| *first > 500) }).await;
    process.kill();
    assert!(request.await.unwrap().is_err());
    // PostgreSQL finishes the step that it is at, though nobody waits for its answer.
    let is_over = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'headwater')";
    eventually("the last step to end", || async {
        sql.query_one(is_over, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let first = first().await.unwrap();
    assert!(first < 59_990, "it was done already");
    let left: i64 = sql
        .query_one("SELECT min(position) FROM message_store.messages WHERE stream_name = 'a-1'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, first);
    let app = TestApp::on(&database).await;
    let mut trimmed = first;
    loop {
        let again = trim(&app, "a-1", json!({ "keep_last": 10 })).await;
        trimmed += again["trimmed"].as_i64().unwrap();
        if again["is_complete"] == true {
            break;
        }
    }
    assert_eq!(trimmed, 59_990);
    let events = app.follow("/v1/all/events?from=beginning").await.next("trimmed").await.json();
    assert_eq!(events, json!({ "count": 59_990, "first_position": 59_991 }));
    app.stop().await;
}

/// A step that takes for ever holds up nobody: an append to the same stream, the same category, or another one.
#[tokio::test]
async fn no_append_waits_for_a_step_of_a_trim() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 1_000).await;
    let app = TestApp::on(&database).await;
    let mut sql = database.connect().await;
    let step = sql.transaction().await.unwrap();
    let trimmed = "SELECT trimmed FROM headwater.trim_stream('a-1', NULL, NULL, 10, true, 500)";
    assert_eq!(step.query_one(trimmed, &[]).await.unwrap().get::<_, i64>(0), 500);
    for stream in ["a-1", "a-2", "b-1"] {
        app.write(stream, "T", json!({})).await;
    }
    let conditions = json!([{ "categories": ["a"], "types": ["Never"] }]);
    let appends = json!([{ "stream_name": "a-1", "messages": [{ "type": "T", "data": {} }] }]);
    let answer = app.post("/v1/appends", &json!({ "appends": appends, "conditions": conditions })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    step.commit().await.unwrap();
    assert_eq!(app.get("/v1/streams/a-1").await.json()["first_position"], 500);
    app.stop().await;
}
