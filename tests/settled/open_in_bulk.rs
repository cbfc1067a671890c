//! A transaction that inserts far more than one look at the log passes over.

use serde_json::json;

use super::held_back;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::position_of;
use crate::support::sql_writer;

/// More than one look passes over.
const POSITIONS: i64 = 120_000;

/// What is behind its rows is not looked for through all of them, again and again: they hold it back in any case.
#[tokio::test]
async fn holds_back_what_comes_after_it_before_anything_of_that_is_seen() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    let mut all = app.follow("/v1/all/events").await;
    all.next("caught-up").await;
    for ending in ["ROLLBACK", "COMMIT"] {
        let before = app.write("a-1", "Before", json!({})).await;
        assert_eq!(position_of(&all.next("message").await), before);
        let bulk = database.connect().await;
        bulk.batch_execute("BEGIN").await.unwrap();
        let first = sql_writer::insert(&bulk, "bulk-1", "Bulk", "{}").await;
        // As many positions as it might have filled.
        let jump = "SELECT setval('message_store.messages_global_position_seq', $1)";
        bulk.execute(jump, &[&(first + POSITIONS)]).await.unwrap();
        let last = sql_writer::insert(&bulk, "bulk-1", "Bulk", "{}").await;
        let pid = sql_writer::pid(&bulk).await;
        held_back(&app, |at, pids| at == first && pids == [pid]).await;
        let after = app.write("a-1", "After", json!({})).await;
        let after_too = sql_writer::write(&sql, "a-1", "{}").await;
        // An instance that starts meanwhile begins before it, too.
        let other = TestApp::on(&database).await;
        let mut late = other.follow(&format!("/v1/all/events?from={first}")).await;
        bulk.batch_execute(ending).await.unwrap();
        let mut expected = vec![after, after_too];
        if ending == "COMMIT" {
            expected = [&[first, last][..], &expected].concat();
        }
        assert_eq!(all.positions_until(after_too).await, expected, "{ending}");
        assert_eq!(late.positions_until(after_too).await, expected, "{ending}");
        assert_eq!(app.metric("headwater_settled_lag").await, 0.0);
        other.stop().await;
    }
    app.stop().await;
}
