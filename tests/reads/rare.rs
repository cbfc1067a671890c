//! Types that few messages have, and far between: a page looks through millions of positions in parts.

use super::*;

/// Where the sequence goes on each time: a part looks through a million positions at first, and twice as many next.
const GAPS: [i64; 5] = [0, 999_990, 1_000_100, 9_000_000, 41_000_000];

/// In each place some messages of two categories, of which a few have the type `Rare`.
async fn spread(database: &TestDatabase) {
    let sql = database.connect().await;
    for (round, gap) in GAPS.into_iter().enumerate() {
        let fill = format!(
            "SELECT setval('message_store.messages_global_position_seq', {gap} + 1); \
             INSERT INTO message_store.messages (stream_name, position, type, metadata) \
             SELECT kind || '-1', {round} * 40 + n, CASE n % 20 WHEN 7 THEN 'Rare' ELSE 'Common' END, \
             CASE n % 20 WHEN 9 THEN '{{\"correlationStreamName\": \"rare-1\"}}'::jsonb END \
             FROM generate_series(0, 39) AS n, (VALUES ('account'), ('other')) AS k (kind) ORDER BY n, kind"
        );
        sql.batch_execute(&fill).await.unwrap();
    }
}

async fn backward(app: &TestApp, path: &str, limit: usize) -> Vec<i64> {
    let (mut all, mut from) = (Vec::new(), String::new());
    for _ in 0..1_000 {
        let page = app.get(&format!("{path}&direction=backward&limit={limit}{from}")).await.json();
        all.extend(numbers(page["messages"].as_array().unwrap(), "global_position"));
        match page["next"].as_i64() {
            Some(next) => from = format!("&from={next}"),
            None => return all,
        }
    }
    panic!("the walk has no end");
}

#[tokio::test]
async fn messages_far_between_are_all_found_in_both_directions() {
    let database = TestDatabase::migrated().await;
    spread(&database).await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    for (path, condition) in [
        ("/v1/all/messages?types=Rare", "type = 'Rare'"),
        ("/v1/categories/account/messages?types=Rare", "type = 'Rare' AND stream_name = 'account-1'"),
        ("/v1/streams/account-1/messages?types=Rare", "type = 'Rare' AND stream_name = 'account-1'"),
        ("/v1/categories/account/messages?correlation=rare", "metadata IS NOT NULL AND stream_name = 'account-1'"),
        ("/v1/categories/account/messages?types=None", "false"),
        ("/v1/streams/account-2/messages?types=Rare", "false"),
    ] {
        let wanted = format!("SELECT global_position FROM message_store.messages WHERE {condition} ORDER BY 1");
        let mut wanted: Vec<i64> = sql.query(&wanted, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        for limit in [1, 3, 100] {
            assert_eq!(numbers(&walk(&app, path, limit).await, "global_position"), wanted, "{path} by {limit}");
        }
        wanted.reverse();
        for limit in [1, 100] {
            assert_eq!(backward(&app, path, limit).await, wanted, "{path} backward by {limit}");
        }
    }
    app.stop().await;
}
