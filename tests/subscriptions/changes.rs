//! Settings that are changed while consumers are at work, and by several at once.

use tokio_postgres::Client;

use super::*;
use crate::support::waiting::eventually;

/// Waits until so many sessions of the service wait for a lock.
pub async fn until_blocked(sql: &Client, sessions: i64) {
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'headwater' AND wait_event_type = 'Lock'";
    eventually("sessions wait for the lock", || async {
        (sql.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) >= sessions).then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_changes_at_once_are_both_made() {
    let (database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let (mut holder, watcher) = (database.connect().await, database.connect().await);
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM headwater.subscriptions FOR UPDATE", &[]).await.unwrap();
    let (path, one, two) = (sub.path(""), json!({ "max_in_flight": 7 }), json!({ "max_deliveries": 7 }));
    let (first, second, ()) = tokio::join!(app.patch(&path, &one), app.patch(&path, &two), async {
        // Both have read the definition.
        until_blocked(&watcher, 2).await;
        lock.rollback().await.unwrap();
    });
    assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text, second.text);
    let definition = sub.get("").await["definition"].clone();
    assert_eq!((&definition["max_in_flight"], &definition["max_deliveries"]), (&json!(7), &json!(7)));
    app.stop().await;
}

#[tokio::test]
async fn a_change_is_not_made_to_another_subscription_of_that_name() {
    let (database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let (mut holder, watcher) = (database.connect().await, database.connect().await);
    let lock = holder.transaction().await.unwrap();
    let replace = "UPDATE headwater.subscriptions SET definition = jsonb_set(definition, '{source}', '{\"categories\": [\"b\"]}')";
    lock.execute(replace, &[]).await.unwrap();
    let (path, change) = (sub.path(""), json!({ "max_in_flight": 7 }));
    let (changed, ()) = tokio::join!(app.patch(&path, &change), async {
        until_blocked(&watcher, 1).await;
        lock.commit().await.unwrap();
    });
    assert_eq!(changed.status, 200, "{}", changed.text);
    let definition = sub.get("").await["definition"].clone();
    assert_eq!((&definition["source"], &definition["max_in_flight"]), (&json!({ "category": "b" }), &json!(7)));
    app.stop().await;
}

/// A lease that is renewed for a shorter time is renewed more often.
#[tokio::test]
async fn a_shorter_consumer_timeout_removes_nobody_who_is_connected() {
    let (database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "consumer_timeout": "1m" })).await;
    let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
    events.next("caught-up").await;
    assert_eq!(app.patch(&sub.path(""), &json!({ "consumer_timeout": "6s" })).await.status, 200);
    let sql = database.connect().await;
    // As if the lease of one minute were nearly over.
    let expire = "UPDATE headwater.subscription_consumers SET expires_at = clock_timestamp() + interval '5 s' \
        RETURNING expires_at::text";
    let before: String = sql.query_one(expire, &[]).await.unwrap().get(0);
    eventually("the lease is renewed", || async {
        let rows = sql.query("SELECT expires_at::text FROM headwater.subscription_consumers", &[]).await.unwrap();
        assert_eq!(rows.len(), 1, "the consumer was removed");
        (rows[0].get::<_, String>(0) != before).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn what_is_acked_by_delivery_does_not_come_again_for_what_was_in_flight_before() {
    let (database, app) = filled(1, 6).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" }, "ack_timeout": "10m" })).await;
    let first = sub.fetch("w1", 2).await;
    assert_eq!(positions(&first), [0, 1]);
    assert_eq!(app.patch(&sub.path(""), &json!({ "ack": "auto" })).await.status, 200);
    assert_eq!(positions(&sub.fetch("w1", 10).await), [2, 3, 4, 5]);
    let sql = database.connect().await;
    sql.batch_execute(
        "UPDATE headwater.subscription_partitions SET ack_due_at = clock_timestamp() WHERE ack_due_at IS NOT NULL",
    )
    .await
    .unwrap();
    assert_eq!(sub.fetch("w1", 10).await.len(), 0);
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["partitions"][0]["committed_position"]), (&json!(0), &json!(5)));
    // An ack that comes late is of something done.
    sub.acked("w1", &first[1..]).await;
    app.stop().await;
}
