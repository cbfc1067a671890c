//! Locks of several categories: nobody waits for ever, and nobody who need not.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::*;
use crate::support::app::PATIENCE;

#[tokio::test]
async fn writer_that_idles_in_one_category_holds_up_no_other_one() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_secs(3)).await;
    let client = database.connect().await;
    client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1')").await.unwrap();
    let plain = json!({ "messages": [{ "type": "T" }] });
    let waiting = join_all((0..6).map(|n| {
        let app = &app;
        async move {
            // Some write to the held category, some only have a condition on it.
            let body = match n % 2 {
                0 => json!({ "appends": [to(&format!("free-{n}"), None), to("held-1", None), to("zeta-1", None)] }),
                _ => json!({ "appends": [to(&format!("free-{n}"), None)], "conditions": [{ "stream_name": "held-1", "version": -1 }] }),
            };
            appends(app, &body).await
        }
    }));
    let others = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for n in 0..40 {
            let begun = Instant::now();
            let stream = ["free-1", "zeta-1", "else-1"][n % 3];
            assert_eq!(app.append(stream, &plain).await.status, 201);
            let body = json!({ "appends": [to("free-2", None), to("zeta-2", None)] });
            written(&app, &body).await;
            assert!(begun.elapsed() < Duration::from_secs(2), "{stream} was held up for {:?}", begun.elapsed());
        }
    };
    let begun = Instant::now();
    let (answers, ()) = tokio::join!(waiting, others);
    for answer in answers {
        assert_eq!(answer.problem(503, "overloaded")["category"], "held");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Once the lock is free, they are written.
    let body = json!({ "appends": [to("free-9", None), to("held-9", None)] });
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(appends(&app, &body), freeing);
    assert_eq!(answer.status, 201, "{}", answer.text);
}

#[tokio::test]
async fn writers_that_lock_in_any_order_never_stand_in_each_others_way_for_long() {
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    let names = ["alpha", "beta", "gamma", "delta"];
    let http = |n: usize| {
        let app = [&app, &other][n % 2];
        async move {
            for round in 0..25 {
                let mut streams: Vec<Value> = names.iter().map(|name| to(&format!("{name}-{n}"), None)).collect();
                streams.rotate_left((n + round) % 4);
                streams.truncate(2 + round % 3);
                let condition = json!([{ "stream_name": format!("{}-none", names[(n + round) % 4]), "version": -1 }]);
                written(app, &json!({ "appends": streams, "conditions": condition })).await;
            }
        }
    };
    // Transactions of several messages, in the order that two programs agree on.
    let sql = async |n: usize| {
        let client = database.connect().await;
        for round in 0..25 {
            client.batch_execute("BEGIN").await.unwrap();
            for name in ["alpha", "gamma"] {
                let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'T', '{}')";
                client.query_one(sql, &[&format!("{name}-sql{n}")]).await.unwrap();
                if round % 5 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            client.batch_execute("COMMIT").await.unwrap();
        }
    };
    let all = futures_util::future::join(join_all((0..8).map(http)), join_all((0..3).map(sql)));
    tokio::time::timeout(2 * PATIENCE, all).await.expect("nobody waits for ever");
    let client = database.connect().await;
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    let dense = "SELECT count(*) FROM (SELECT FROM message_store.messages GROUP BY stream_name \
        HAVING min(position) <> 0 OR max(position) <> count(*) - 1) AS holes";
    assert_eq!(client.query_one(dense, &[]).await.unwrap().get::<_, i64>(0), 0);
}
