//! Two servers take writes: the service writes to the one that was promoted last, and never to the other one again.

use serde_json::json;

use super::pair;
use crate::support::app::TestApp;
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::proxy::{FaultProxy, both};
use crate::support::waiting::eventually;
use crate::support::waiting::until_true;

async fn count(server: &OwnServer) -> i64 {
    let sql = server.sql().await;
    sql.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
}

async fn try_append(app: &TestApp) -> u16 {
    app.append("account-1", &json!({ "messages": [{ "type": "Noted", "data": {} }] })).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_leaves_the_old_primary_and_does_not_come_back_to_it() {
    let dir = temporary_dir();
    let (old, new) = pair(dir.path()).await;
    let (before_old, before_new) = (FaultProxy::before(&old.url).await, FaultProxy::before(&new.url).await);
    let app = TestApp::with(&both(&before_old, &before_new), |_| {}).await;
    app.write("account-1", "Opened", json!({})).await;
    until_true(&new.sql().await, "SELECT to_regclass('message_store.messages') IS NOT NULL").await;
    let replayed = "SELECT count(*) = 1 FROM message_store.messages";
    until_true(&new.sql().await, replayed).await;

    // Promoted while the other one works, and both can be reached: nothing fails, and yet it is noticed.
    until_true(&new.sql().await, "SELECT pg_promote()").await;
    eventually("the new primary", || async {
        try_append(&app).await;
        (count(&new).await > 1).then_some(())
    })
    .await;
    assert_eq!(app.metric("headwater_primary_changes_total").await, 1.0);
    eventually("a word of it", || async { (app.metric("headwater_other_primary").await == 1.0).then_some(()) }).await;
    let left_at = count(&old).await;

    // The old one alone is no primary any more.
    before_new.refuse(true);
    before_new.cut_all();
    for _ in 0..20 {
        assert_eq!(try_append(&app).await, 503);
    }
    assert_eq!(app.get("/readyz").await.status, 503);
    before_new.refuse(false);
    eventually("the new primary again", || async { (try_append(&app).await == 201).then_some(()) }).await;
    assert_eq!(count(&old).await, left_at);
    assert!(count(&new).await > 2);
    app.stop().await;
}
