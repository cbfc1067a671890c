//! What an instance commits itself goes on to its followers without being read, however often the tail looks at the log.

use std::time::Duration;

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::{TestDatabase, connect};
use crate::support::sql_writer;
use crate::support::waiting::eventually;

const MESSAGES: usize = 300;

/// Writes to the server's log without bringing it to disk, so that every look of the tail has something to wait for.
async fn write_unflushed(url: String) {
    let client = connect(&url).await;
    let write = "BEGIN; INSERT INTO noise SELECT generate_series(1, 20); ROLLBACK";
    while client.batch_execute(write).await.is_ok() {}
}

/// Another program, by whose notifications the tail looks.
async fn write_beside(url: String) {
    let client = connect(&url).await;
    loop {
        sql_writer::write(&client, "beside-1", "{}").await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_an_instance_commits_is_not_read_back_while_the_tail_waits_for_the_disk() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let prepare = "CREATE TABLE noise (number integer); \
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET track_functions = ''all''', current_database()); END $$";
    sql.batch_execute(prepare).await.unwrap();
    let app = TestApp::on(&database).await;
    let mut own = app.follow("/v1/categories/own/events?from=end").await;
    own.next("caught-up").await;
    let beside = [
        tokio::spawn(write_unflushed(database.url.clone())),
        tokio::spawn(write_unflushed(database.url.clone())),
        tokio::spawn(write_beside(database.url.clone())),
    ];
    let mut written = Vec::new();
    for _ in 0..MESSAGES {
        written.push(app.write("own-1", "Done", json!({})).await);
    }
    let last = *written.last().unwrap();
    assert_eq!(own.positions_until(last).await, written);
    beside.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(last > MESSAGES as i64 + 20, "somebody wrote beside it");
    app.stop().await;
    // A session reports what it called when it ends: both are asked for together, so that neither can be missing alone.
    let calls = "SELECT coalesce(sum(calls) FILTER (WHERE funcname = 'messages_at'), 0)::bigint, count(*) \
        FROM pg_stat_user_functions WHERE funcname IN ('messages_at', 'append_batch')";
    let read: i64 = eventually("the calls to be counted", async || {
        let row = sql.query_one(calls, &[]).await.unwrap();
        (row.get::<_, i64>(1) > 0).then(|| row.get(0))
    })
    .await;
    assert!(read < MESSAGES as i64 / 20, "the tail read {read} times for {MESSAGES} messages of its own");
}
