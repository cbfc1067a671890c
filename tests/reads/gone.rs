//! Readers that have gone: what they asked for ends in PostgreSQL too.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;

/// How soon a statement whose reader has gone has ended, on a machine that has time for it: in the quickest of the rounds.
const CANCELLED_WITHIN: Duration = Duration::from_secs(1);
/// And in every one of them.
const CANCELLED_AT_LAST: Duration = Duration::from_secs(3);

/// Statements of the service that read and wait for a lock, and connections of the service.
async fn waiting_and_open(client: &Client) -> (i64, i64) {
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE state = 'active' AND wait_event_type = 'Lock' \
             AND (query LIKE '%AS v %' OR query LIKE '%AS \"message_count!\"%')), \
             count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'headwater'",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn statements_of_readers_that_have_gone_are_cancelled_and_their_connections_are_free() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.database_connections_max = 10).await;
    app.write("a-1", "T", serde_json::json!({})).await;
    let client = database.connect().await;
    let (_, open) = waiting_and_open(&client).await;
    let holder = database.connect().await;
    // Readers wait for it.
    holder.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut ends = Vec::new();
    for round in 0..10 {
        let readers: Vec<_> = (0..20)
            .map(|number| {
                // Pages, which are read row by row, and a plain statement.
                let path = ["categories/a/messages", "streams/a-1/messages", "streams/a-1"][number % 3];
                let request = app.http.get(format!("{}/v1/{path}", app.url));
                tokio::spawn(async move { request.send().await })
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        while waiting_and_open(&client).await.0 < 3 {
            assert!(Instant::now() < deadline, "round {round}: nobody reads");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        drop(readers);
        let left = Instant::now();
        loop {
            let (waiting, now_open) = waiting_and_open(&client).await;
            if waiting == 0 && now_open <= open + 12 {
                ends.push(left.elapsed());
                break;
            }
            assert!(
                left.elapsed() < CANCELLED_AT_LAST,
                "round {round}: {waiting} statements go on, and {now_open} connections are open, of {open} at first"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    ends.sort();
    eprintln!("the statements of 20 readers that left ended after {ends:?}");
    assert!(ends[0] < CANCELLED_WITHIN, "{ends:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    let page = app.get("/v1/categories/a/messages").await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert_eq!(page.json()["messages"].as_array().unwrap().len(), 1);
}
