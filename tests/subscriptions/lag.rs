//! The lag is exact, whatever was done, and costs the same however far a subscription is behind.

use tokio_postgres::Client;

use super::*;
use crate::support::database::pages_touched;
use crate::support::waiting::eventually;

/// Messages in categories `a` to `c`, of three types, in streams with and without ids, with holes in between.
async fn fill(sql: &Client, messages: i64) {
    let insert = "INSERT INTO message_store.messages (stream_name, position, type, data, global_position) \
        SELECT s.name, coalesce(v.position, -1) + row_number() OVER (PARTITION BY s.name ORDER BY s.n), \
        'T' || s.n * 7 % 3, jsonb_build_object('n', s.n), h.head + s.n * 3 + s.n % 3 \
        FROM (SELECT n, chr(97 + (hashint8(n + $2) & 2147483647) % 3) \
        || CASE WHEN n % 11 = 0 THEN '' ELSE '-' || (hashint8(n) & 7) END AS name \
        FROM generate_series(1, $1::bigint) AS n) AS s \
        CROSS JOIN (SELECT coalesce(max(global_position), 0) AS head FROM message_store.messages) AS h \
        LEFT JOIN LATERAL (SELECT max(position) AS position FROM message_store.messages AS m \
        WHERE m.stream_name = s.name) AS v ON true ORDER BY s.n";
    sql.execute(insert, &[&messages, &messages]).await.unwrap();
    let sequence =
        "SELECT setval('message_store.messages_global_position_seq', max(global_position)) FROM message_store.messages";
    sql.execute(sequence, &[]).await.unwrap();
}

async fn head(sql: &Client) -> i64 {
    sql.query_one("SELECT max(global_position) FROM message_store.messages", &[]).await.unwrap().get(0)
}

/// What is behind in each partition, counted one by one.
const NAIVE: &str = "SELECT p.partition, count(m.global_position) FROM headwater.subscriptions AS s \
    JOIN headwater.subscription_partitions AS p ON p.subscription_id = s.id \
    LEFT JOIN message_store.messages AS m ON m.global_position <= $2 \
    AND (s.definition -> 'types' = '[]' OR s.definition -> 'types' ? m.type) \
    AND p.partition = CASE WHEN s.is_partitioned \
    THEN headwater.subscription_partition(m.stream_name, (s.definition ->> 'partitions')::bigint) ELSE 0 END \
    AND CASE WHEN s.definition -> 'source' ? 'stream_name' \
    THEN m.stream_name = s.definition -> 'source' ->> 'stream_name' AND m.position > p.read_up_to \
    ELSE m.global_position > p.read_up_to AND (s.definition -> 'source' ? 'all' \
    OR s.definition -> 'source' -> 'categories' ? message_store.category(m.stream_name)) END \
    WHERE s.id = $1 AND s.aggregated_stream_id IS NULL GROUP BY p.partition \
    UNION ALL \
    SELECT p.partition, count(m.global_position) FROM headwater.subscriptions AS s \
    JOIN headwater.subscription_partitions AS p ON p.subscription_id = s.id \
    JOIN headwater.projections AS j ON j.aggregated_stream_id = s.aggregated_stream_id AND j.is_current \
    LEFT JOIN headwater.aggregated_messages AS l ON l.projection_id = j.id AND l.partition = p.partition \
    AND l.position > p.read_up_to \
    LEFT JOIN message_store.messages AS m ON m.global_position = l.global_position \
    AND (s.definition -> 'types' = '[]' OR s.definition -> 'types' ? m.type) \
    WHERE s.id = $1 AND $2 = $2 GROUP BY p.partition ORDER BY 1";

async fn naive(sql: &Client, subscription: i64, settled: i64) -> Vec<(i32, i64)> {
    let rows = sql.query(NAIVE, &[&subscription, &settled]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What is said to be behind in each partition, and whether that is exact.
async fn said(sql: &Client, subscription: i64, settled: i64, messages_max: i64) -> (Vec<(i32, i64)>, bool) {
    let lag = "SELECT partition, undelivered, is_exact FROM headwater.subscription_lag($1, $2, $3)";
    let rows = sql.query(lag, &[&subscription, &settled, &messages_max]).await.unwrap();
    let is_exact = rows.iter().all(|row| row.get(2));
    (rows.iter().map(|row| (row.get(0), row.get(1))).collect(), is_exact)
}

/// Asserts that the lag is exact, or at least not more than it is.
async fn check(sql: &Client, subscription: i64, up_to: i64, messages_max: i64, when: &str) {
    // Both see the same, whatever is projected meanwhile.
    sql.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let (said, is_exact) = said(sql, subscription, up_to, messages_max).await;
    let counted = naive(sql, subscription, up_to).await;
    sql.batch_execute("COMMIT").await.unwrap();
    if is_exact {
        assert_eq!(said, counted, "{when}");
    } else {
        for ((partition, said), (_, counted)) in said.iter().zip(&counted) {
            assert!(said <= counted, "{when}: {said} of {counted} in partition {partition}");
        }
    }
}

async fn count(sql: &Client, subscription: i64, settled: i64, messages_max: i64) -> bool {
    let step = "SELECT headwater.subscription_count($1, $2, $3)";
    sql.query_one(step, &[&subscription, &settled, &messages_max]).await.unwrap().get(0)
}

async fn count_all(sql: &Client, subscription: i64, settled: i64, messages_max: i64) {
    for _ in 0..10_000 {
        if !count(sql, subscription, settled, messages_max).await {
            return;
        }
    }
    panic!("counting has no end");
}

/// A subscription of each kind; their ids, from 1 on. The first twelve count by global positions.
async fn subscribe_all(app: &TestApp, sql: &Client) -> Vec<i64> {
    let sources = [
        json!({ "category": "a" }),
        json!({ "categories": ["a", "c", "none"] }),
        json!({ "all": true }),
        json!({ "stream_name": "b-3" }),
        json!({ "aggregated_stream": "x" }),
    ];
    for (n, source) in sources.iter().enumerate() {
        for (m, mode) in ["partitioned", "competing"].into_iter().enumerate() {
            for (t, types) in [json!([]), json!(["T1", "T2"])].into_iter().enumerate() {
                let partitions = [1, 4, 7][(n + t) % 3];
                let definition = json!({ "source": source, "mode": mode, "types": types, "partitions": partitions });
                Sub::new(app, &format!("s{n}{m}{t}"), definition).await;
            }
        }
    }
    let rows = sql.query("SELECT id FROM headwater.subscriptions ORDER BY id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Sets the cursors of some of its partitions, anywhere.
async fn move_cursors(sql: &Client, subscription: i64, head: i64, random: &mut fastrand::Rng) {
    // Aggregated partitions and single streams have fewer positions than the log.
    let most = [head + 5, head / 5, head / 20][random.usize(..3)];
    let moved = "UPDATE headwater.subscription_partitions SET read_up_to = $3, unacked_positions = $4 \
        WHERE subscription_id = $1 AND partition % $2 = 0";
    let (every, to) = (random.i32(1..4), random.i64(-1..most));
    let in_flight: Vec<i64> = (0..random.i64(0..3)).map(|n| to - 2 + n).filter(|at| *at >= 0).collect();
    sql.execute(moved, &[&subscription, &every, &to, &in_flight]).await.unwrap();
}

async fn walk(seed: u64) {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute("SET jit = off").await.unwrap();
    fill(&sql, 300).await;
    let app = TestApp::on(&database).await;
    let definition = json!({ "categories": ["a", "b", "c"], "partitioner": { "kind": "stream", "partitions": 5 } });
    assert_eq!(app.put("/v1/aggregated-streams/x", &definition).await.status, 201);
    let ids = subscribe_all(&app, &sql).await;
    let mut random = fastrand::Rng::with_seed(seed);
    for step in 0..200 {
        let head = head(&sql).await;
        let id = ids[random.usize(..ids.len())];
        match random.u32(..12) {
            0 => fill(&sql, random.i64(1..120)).await,
            1..=3 => move_cursors(&sql, id, head, &mut random).await,
            4 if random.bool() => {
                app.post("/v1/aggregated-streams/x/rebuild", &json!({})).await;
            }
            4..=7 => drop(count(&sql, id, head, random.i64(1..90)).await),
            8 => count_all(&sql, id, head, random.i64(40..200)).await,
            _ => {
                // Not everything that was counted has to be settled for a caller that asks by global positions.
                let is_global = id <= 12;
                let up_to = if is_global && random.bool() { random.i64(0..=head) } else { head };
                let when = format!("step {step} of seed {seed}, subscription {id}");
                check(&sql, id, up_to, random.i64(1..400), &when).await;
            }
        }
    }
    app.get(&format!("/v1/aggregated-streams/x?min_position={}&wait=20s", head(&sql).await)).await;
    eventually("a rebuild to be over", || async {
        let stream = app.get("/v1/aggregated-streams/x").await.json();
        assert!(stream["status"].is_object(), "{stream}");
        stream["status"]["rebuild"].is_null().then_some(())
    })
    .await;
    for id in ids {
        let head = head(&sql).await;
        count_all(&sql, id, head, 64).await;
        let (said, is_exact) = said(&sql, id, head, 1).await;
        assert_eq!((said, is_exact), (naive(&sql, id, head).await, true), "seed {seed}, subscription {id}");
    }
    app.stop().await;
}

#[tokio::test]
async fn it_is_that_of_a_naive_count_whatever_was_done() {
    for seed in 0..2 {
        walk(seed).await;
    }
}

/// Pages of the database that one look at the lag touches.
async fn pages(sql: &Client, subscription: i64, settled: i64) -> i64 {
    pages_touched(sql, &format!("SELECT * FROM headwater.subscription_lag({subscription}, {settled})")).await
}

/// Messages of one type in 100 streams of a category, in one statement.
async fn bulk(sql: &Client, messages: i64) {
    let insert = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-' || n % 100, n / 100, 'T', '{}' FROM generate_series(0, $1::bigint - 1) AS n";
    sql.execute(insert, &[&messages]).await.unwrap();
}

#[tokio::test]
async fn it_costs_no_more_far_behind_than_near() {
    const MESSAGES: i64 = 60_000;
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute("SET enable_seqscan = off; SET jit = off").await.unwrap();
    bulk(&sql, MESSAGES).await;
    let app = TestApp::on(&database).await;
    for (name, source, types) in [
        ("category", json!({ "category": "a" }), json!([])),
        ("types", json!({ "category": "a" }), json!(["T"])),
        ("categories", json!({ "categories": ["a", "b"] }), json!([])),
        ("all", json!({ "all": true }), json!([])),
        ("stream", json!({ "stream_name": "a-1" }), json!([])),
    ] {
        let sub = Sub::new(&app, name, json!({ "source": source, "types": types })).await;
        let deadline = Instant::now() + PATIENCE;
        while sub.status().await["lag_exact"] != true {
            assert!(Instant::now() < deadline, "{name} is not counted");
        }
        let expected = if name == "stream" { MESSAGES / 100 } else { MESSAGES };
        assert_eq!(sub.status().await["committed_lag"], expected, "{name}");
        let id = sql.query_one("SELECT id FROM headwater.subscriptions WHERE name = $1", &[&name]).await.unwrap();
        let (id, settled) = (id.get(0), head(&sql).await);
        // PostgreSQL may make a plan for this subscription, or from the sixth look on one for any.
        for plan in ["force_custom_plan", "force_generic_plan"] {
            sql.batch_execute(&format!("SET plan_cache_mode = {plan}")).await.unwrap();
            pages(&sql, id, settled).await;
            let far = pages(&sql, id, settled).await;
            // The messages alone are more than 600 pages, and so are their index entries.
            assert!(far < 400, "{name}, {plan}: {far} pages at {MESSAGES} messages");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn what_was_never_counted_is_at_least_what_is_said_and_exact_soon() {
    const MESSAGES: i64 = 30_000;
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    bulk(&sql, MESSAGES).await;
    let app = TestApp::on(&database).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let deadline = Instant::now() + PATIENCE;
    let mut before = 0;
    loop {
        let status = sub.status().await;
        let lag = status["committed_lag"].as_i64().unwrap();
        assert!((before..=MESSAGES).contains(&lag), "{lag} after {before}");
        before = lag;
        if status["lag_exact"] == true {
            assert_eq!(lag, MESSAGES);
            break;
        }
        assert!(Instant::now() < deadline, "it is not counted");
    }
    // A seek back is counted anew.
    assert_eq!(sub.post("/seek", &json!({ "to": "end" })).await.status, 200);
    assert_eq!(sub.status().await["committed_lag"], 0);
    assert_eq!(sub.post("/seek", &json!({ "to": 10_001 })).await.status, 200);
    loop {
        let status = sub.status().await;
        assert!(status["committed_lag"].as_i64().unwrap() <= MESSAGES - 10_000);
        if status["lag_exact"] == true {
            assert_eq!(status["committed_lag"], MESSAGES - 10_000);
            break;
        }
        assert!(Instant::now() < deadline, "it is not counted");
    }
    app.stop().await;
}

/// A client that waits for a lag of 0 would go while a message is still to come.
#[tokio::test]
async fn a_lag_of_zero_is_exact_however_far_the_next_message_is() {
    const OTHERS: i64 = 60_000;
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    bulk(&sql, OTHERS).await;
    let app = TestApp::on(&database).await;
    app.write("a-1", "Wanted", json!({})).await;
    let mut inexact = 0;
    for (name, mode) in [("p", "partitioned"), ("c", "competing")] {
        let source = json!({ "category": "a" });
        let sub = Sub::new(&app, name, json!({ "source": source, "types": ["Wanted"], "mode": mode })).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = sub.status().await;
            assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(1), &json!(1)), "{status}");
            if status["lag_exact"] == true {
                break;
            }
            inexact += 1;
            let metrics = app.get("/metrics").await.text;
            let lags = metrics.lines().filter(|line| line.contains(&format!("_lag{{subscription=\"{name}\"}}")));
            for lag in lags {
                assert!(lag.ends_with(" 1"), "{lag}");
            }
            assert!(Instant::now() < deadline, "it is not counted");
        }
    }
    // For one of them: once metrics are read, an agent counts beside the looks.
    assert!(inexact > 0, "the first looks have counted everything");
    app.stop().await;
}

#[tokio::test]
async fn messages_that_were_deleted_count_until_the_cursor_has_passed_them() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    bulk(&sql, 4_000).await;
    let app = TestApp::on(&database).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    let id = sql.query_one("SELECT id FROM headwater.subscriptions", &[]).await.unwrap().get(0);
    count_all(&sql, id, 4_000, 1_000).await;
    sql.execute("DELETE FROM message_store.messages WHERE global_position BETWEEN 1001 AND 2000", &[]).await.unwrap();
    assert_eq!(sub.status().await["committed_lag"], 4_000);
    assert_eq!(sub.post("/seek", &json!({ "to": 2_001 })).await.status, 200);
    assert_eq!(sub.status().await["committed_lag"], 2_000);
    app.stop().await;
}

#[tokio::test]
async fn the_one_that_is_furthest_behind_is_among_the_metrics() {
    const MESSAGES: i64 = 20_000;
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    bulk(&sql, MESSAGES).await;
    let app = TestApp::on(&database).await;
    for n in 0..120 {
        Sub::new(&app, &format!("s{n:03}"), json!({ "source": { "category": "a" }, "from": "end" })).await;
    }
    Sub::new(&app, "zfar", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = app.get("/metrics").await.text;
        let listed = |label: &str| text.lines().filter(|line| line.starts_with(label)).count();
        if text.contains("headwater_subscription_lag_exact{subscription=\"zfar\"} 1") {
            assert!(text.contains("headwater_subscription_committed_lag{subscription=\"zfar\"} 20000"), "{text}");
            assert_eq!(listed("headwater_subscription_committed_lag{"), 121);
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.stop().await;
}
