//! Settings that are changed while consumers are at work, and by several at once.

use super::*;
use crate::support::waiting::eventually;

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
