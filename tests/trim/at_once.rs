//! Trims beside other trims, counts, purges and erasures.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{fill, trim};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

/// Waits until a session of this database waits for a lock.
async fn until_one_waits(sql: &Client) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let is_waiting = || async { (sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(()) };
    eventually("a session to wait", is_waiting).await;
}

/// Both have chosen the same messages; the second one finds them gone, and goes on behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_trim_that_waited_for_another_one_is_complete_when_it_says_so() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 1_100).await;
    let app = TestApp::on(&database).await;
    let (other, watcher) = (database.connect().await, database.connect().await);
    let step = "BEGIN; SELECT FROM headwater.trim_stream('a-1', 1000, NULL, NULL, true, 500)";
    other.batch_execute(step).await.unwrap();
    let (answer, ()) = tokio::join!(trim(&app, "a-1", json!({ "before_position": 1_000 })), async {
        until_one_waits(&watcher).await;
        other.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(
        (&answer["first_position"], &answer["is_complete"], &answer["trimmed"]),
        (&json!(1_000), &json!(true), &json!(500)),
        "{answer}"
    );
    app.stop().await;
}

/// A retention by number counts, and then trims.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_counts_and_trims_beside_a_trim_is_no_deadlock() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 20).await;
    let up_to = fill(&database, "a-2", 20).await;
    let (counting, trimming, watcher) = (database.connect().await, database.connect().await, database.connect().await);
    counting.batch_execute(&format!("BEGIN; SELECT headwater.count_messages({up_to}, 1000)")).await.unwrap();
    let trim = |stream: &str| format!("SELECT FROM headwater.trim_stream('{stream}', 10, NULL, NULL, true, 100)");
    let (trimmed, ()) = tokio::join!(async { trimming.batch_execute(&trim("a-1")).await }, async {
        until_one_waits(&watcher).await;
        counting.batch_execute(&format!("{}; COMMIT", trim("a-2"))).await.unwrap();
    });
    trimmed.unwrap();
    let left: i64 = watcher.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0);
    assert_eq!(left, 20);
}

/// What is deleted must be on the disk, though a count need not be.
#[tokio::test]
async fn a_retention_that_counts_waits_for_the_disk() {
    let database = TestDatabase::migrated().await;
    let up_to = fill(&database, "a-1", 20).await;
    let sql = database.connect().await;
    let retention = "INSERT INTO headwater.retentions (category, max_count, unless_unacked) VALUES ('a', 5, true)";
    sql.execute(retention, &[]).await.unwrap();
    let step = format!("BEGIN; SELECT FROM headwater.retention_step({up_to}, 100, '1 second')");
    sql.batch_execute(&step).await.unwrap();
    let setting: String = sql.query_one("SHOW synchronous_commit", &[]).await.unwrap().get(0);
    let left: i64 = sql.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0);
    assert_eq!((setting.as_str(), left), ("on", 5));
}

/// A stream's first message is a dead letter, and the stream has more messages than a step.
#[tokio::test]
async fn a_dead_letter_keeps_its_stream_and_not_the_rest_of_the_category() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-dead", 200).await;
    let up_to = fill(&database, "a-other", 200).await;
    let sql = database.connect().await;
    sql.batch_execute(
        "INSERT INTO headwater.subscription_parked (subscription_id, partition, position, global_position, cause, \
         delivery_count) SELECT 1, 0, min(global_position), min(global_position), 'nacked', 1 \
         FROM message_store.messages; \
         INSERT INTO headwater.retentions (category, max_age, unless_unacked) VALUES ('a', '1 second', true)",
    )
    .await
    .unwrap();
    for _ in 0..20 {
        sql.batch_execute(&format!("SELECT FROM headwater.retention_step({up_to}, 100, '0')")).await.unwrap();
    }
    let left = "SELECT count(*) FILTER (WHERE stream_name = 'a-dead'), count(*) FROM message_store.messages";
    let row = sql.query_one(left, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (200, 201));
}

/// A step of the purge finds that another session has deleted some of what it was to delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_beside_another_deletion_leaves_nothing_behind() {
    let database = TestDatabase::migrated().await;
    let (purging, other, watcher) = (database.connect().await, database.connect().await, database.connect().await);
    watcher
        .batch_execute(
            "INSERT INTO headwater.projections (is_current) VALUES (false); \
             INSERT INTO headwater.aggregated_messages SELECT p.id, 0, n, n + 1 \
             FROM headwater.projections AS p, generate_series(0, 5) AS n; \
             SELECT headwater.count_messages(0, 1)",
        )
        .await
        .unwrap();
    other.batch_execute("BEGIN; DELETE FROM headwater.aggregated_messages WHERE position = 0").await.unwrap();
    let purge = "SELECT headwater.purge_projections(2)";
    tokio::join!(async { purging.batch_execute(purge).await.unwrap() }, async {
        until_one_waits(&watcher).await;
        other.batch_execute("COMMIT").await.unwrap();
    });
    let mut calls = 0;
    while purging.query_one(purge, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        calls += 1;
        assert!(calls < 10);
    }
    let left =
        "SELECT (SELECT count(*) FROM headwater.aggregated_messages), (SELECT count(*) FROM headwater.projections)";
    let row = watcher.query_one(left, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0));
}

/// The row of the erasure must outlive the message: instances that have it in memory look for erasures once a second.
#[tokio::test]
async fn a_message_that_is_erased_and_trimmed_at_once_is_shown_nowhere() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut keeper = app.follow("/v1/categories/a/events").await;
    keeper.next("caught-up").await;
    app.write("a-1", "First", json!({})).await;
    let named = json!({ "messages": [{ "type": "Second", "data": { "name": "Ada" } }] });
    let secret = app.append("a-1", &named).await.json();
    app.write("a-1", "Third", json!({})).await;
    for _ in 0..3 {
        keeper.next("message").await;
    }
    let second = || async {
        let mut events = app.follow("/v1/categories/a/events?last_event_id=1").await;
        events.next("message").await.json().to_string()
    };
    assert!(second().await.contains("Ada"));
    let id = secret["messages"][0]["id"].as_str().unwrap();
    let sql = database.connect().await;
    let at_once = format!(
        "BEGIN; SELECT headwater.erase_message('{id}', NULL); \
         SELECT FROM headwater.trim_stream('a-1', 2, NULL, NULL, false, 100); COMMIT"
    );
    sql.batch_execute(&at_once).await.unwrap();
    let is_gone = || async { Some(second().await).filter(|text| !text.contains("Ada")) };
    let text = eventually("the copy to be forgotten", is_gone).await;
    assert!(text.contains("Third"), "{text}");
    // Another message may have the id by now: it is not erased.
    let again = json!({ "messages": [{ "id": id, "type": "Again", "data": { "name": "Bob" } }] });
    assert_eq!(app.post("/v1/streams/b-1/messages", &again).await.status, 201);
    let message: Value = app.get(&format!("/v1/messages/{id}")).await.json();
    assert_eq!((&message["data"]["name"], message.get("erased")), (&json!("Bob"), None), "{message}");
    assert_eq!(app.delete(&format!("/v1/messages/{id}")).await.status, 200);
    let message: Value = app.get(&format!("/v1/messages/{id}")).await.json();
    assert!(message["data"].is_null() && message["erased"].is_object(), "{message}");
    app.stop().await;
}
