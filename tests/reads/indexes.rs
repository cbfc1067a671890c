//! Every read is served by an index, and reads no more of it than it gives, however much else there is.

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

/// 40,000 messages in 400 streams of 4 categories; types alternate along each stream.
const MESSAGES: &str = "INSERT INTO message_store.messages (stream_name, position, type, data, time)
    SELECT 'c' || n % 4 || '-' || n % 400, n / 400, 'T' || (n / 400) % 2, '{}', '2026-01-01'::timestamp + n * interval '1 s'
    FROM generate_series(0, 39999) AS n";

/// What a read does to an index: how many entries it may read there.
const READS: [(&str, &str, i64); 12] = [
    ("/v1/streams/c1-1/messages?from=50&limit=10", "messages_stream", 20),
    ("/v1/streams/c1-1/messages?direction=backward&limit=10", "messages_stream", 20),
    ("/v1/streams/c1-1/messages?from_last=T0&limit=10", "messages_stream", 20),
    ("/v1/streams/c1-1/messages/last?type=T0", "messages_stream", 10),
    ("/v1/categories/c1/messages?from=20000&limit=10", "messages_category", 20),
    ("/v1/categories/c1/messages?direction=backward&limit=10", "messages_category", 20),
    ("/v1/categories/c1/messages?types=T0&direction=backward&limit=10", "messages_category", 160),
    ("/v1/all/messages?from=20000&limit=10", "messages_pkey", 60),
    ("/v1/all/messages?direction=backward&limit=10", "messages_pkey", 60),
    ("/v1/categories/c1/events?from=latest_of_each", "messages_stream", 500),
    ("/v1/categories/c1/events?from=2026-01-01T05:00:00Z&types=none", "messages_category", 5_600),
    ("/v1/reports/streams?category=c1&limit=10", "messages_stream", 1_200),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_read_has_its_index() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute(MESSAGES).await.unwrap();
    sql.batch_execute("VACUUM ANALYZE message_store.messages").await.unwrap();
    let used = async || -> (Vec<(String, i64)>, i64) {
        // Sessions report what they have read at their end.
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
            AND backend_type = 'client backend'";
        while sql.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
        let indexes =
            "SELECT indexrelname::text, idx_tup_read FROM pg_stat_user_indexes WHERE relname = 'messages' ORDER BY 1";
        let rows = sql.query(indexes, &[]).await.unwrap();
        let sequential = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'messages'";
        let sequential = sql.query_one(sequential, &[]).await.unwrap().get(0);
        (rows.iter().map(|row| (row.get(0), row.get(1))).collect(), sequential)
    };
    // A first start looks at the whole log once.
    TestApp::on(&database).await.stop().await;
    for (path, index, entries_max) in READS {
        let (before, sequential) = used().await;
        let app = TestApp::on(&database).await;
        match path.contains("/events") {
            true => drop(app.follow(path).await.next("caught-up").await),
            false => assert_eq!(app.get(path).await.status, 200, "{path}"),
        }
        app.stop().await;
        let (after, sequential_after) = used().await;
        assert_eq!(sequential, sequential_after, "{path}: nothing is read without an index");
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            let read = after - before;
            let bound = if name == index { entries_max } else { 60.max(entries_max / 10 + 200) };
            assert!(read <= bound, "{path} reads {read} entries of {name}: {before} {after}");
            assert!(name != index || read > 0, "{path} does not read {index}");
        }
    }
}
