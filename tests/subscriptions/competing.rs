//! Competing: any consumer gets any message, each is acked alone.

use tokio_postgres::Client;

use super::*;
use crate::support::waiting::eventually;

async fn competing(app: &TestApp, more: Value) -> Sub<'_> {
    let mut definition = json!({ "source": { "category": "a" }, "mode": "competing" });
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Sub::new(app, "s", definition).await
}

fn epoch(message: &Value) -> i64 {
    message["epoch"].as_i64().unwrap()
}

#[tokio::test]
async fn each_message_goes_to_one_consumer_and_is_acked_alone() {
    let (_database, app) = filled(3, 20).await;
    let sub = competing(&app, json!({})).await;
    let mine = sub.fetch("w1", 8).await;
    let theirs = sub.fetch("w2", 100).await;
    assert_eq!((mine.len(), theirs.len()), (8, 12));
    let mut all: Vec<i64> = numbers(&mine).into_iter().chain(numbers(&theirs)).collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
    assert!(mine.iter().all(|message| message["partition"] == 0 && message["delivery_count"] == 1));
    sub.acked("w1", &mine[3..4]).await;
    // Another ack of it finds nothing.
    assert_eq!(sub.ack("w1", &mine[3..4]).await.json(), counts("acked", 0, 0, 1));
    assert_eq!(sub.get("/pending/summary").await["count"], 19);
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(19), &json!(0)));
    sub.acked("w1", &mine[..3]).await;
    sub.acked("w1", &mine[4..]).await;
    sub.acked("w2", &theirs).await;
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["oldest_unacked_age"]), (&json!(0), &Value::Null));
    assert_eq!(status["partitions"][0]["committed_position"], status["partitions"][0]["delivered_position"]);
    app.stop().await;
}

#[tokio::test]
async fn the_backlog_of_a_consumer_that_comes_back_comes_first() {
    let (_database, app) = filled(1, 12).await;
    let sub = competing(&app, json!({})).await;
    let first = sub.fetch("w1", 10).await;
    sub.acked("w1", &first[..5]).await;
    let pending = sub.get("/pending?consumer=w1").await;
    assert_eq!(pending["pending"].as_array().unwrap().len(), 5);
    let backlog = sub.fetch_with(json!({ "consumer": "w1", "limit": 100, "backlog": true })).await;
    assert_eq!(numbers(&backlog), [5, 6, 7, 8, 9]);
    assert!(backlog.iter().all(|message| message["delivery_count"] == 2));
    // They are the same deliveries: whichever answer was the one that arrived, its acks count.
    sub.acked("w1", &first[5..6]).await;
    sub.acked("w1", &backlog[1..]).await;
    assert_eq!(numbers(&sub.fetch_with(json!({ "consumer": "w1", "backlog": true })).await), [10, 11]);
    assert_eq!(sub.get("/pending?consumer=w2").await["pending"], json!([]));
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_acked_in_time_goes_to_whoever_asks() {
    let (_database, app) = filled(1, 3).await;
    let sub = competing(&app, json!({ "ack_timeout": "3s" })).await;
    let first = sub.fetch("w1", 3).await;
    sub.acked("w1", &first[..1]).await;
    let extended = json!({ "consumer": "w1", "extensions": [place(&first[1])], "ack_timeout": "60s" });
    assert_eq!(sub.post("/extensions", &extended).await.json(), counts("extended", 1, 0, 0));
    assert_eq!(sub.fetch("w2", 10).await.len(), 0);
    let again = sub.fetch_some("w2", 10).await;
    assert_eq!((numbers(&again), &again[0]["delivery_count"]), (vec![2], &json!(2)));
    assert!(epoch(&again[0]) > epoch(&first[2]));
    let fenced = sub.ack("w1", &first[2..]).await.problem(409, "fenced");
    assert_eq!((fenced["partition"].as_i64(), fenced["epoch"].as_i64()), (Some(0), Some(epoch(&first[2]))));
    assert_eq!(fenced["current_epoch"].as_i64(), Some(epoch(&again[0])));
    sub.acked("w1", &first[1..2]).await;
    sub.acked("w2", &again).await;
    app.stop().await;
}

#[tokio::test]
async fn a_nack_brings_it_again_after_its_delay() {
    let (_database, app) = filled(1, 2).await;
    let sub = competing(&app, json!({ "backoff": ["3s"] })).await;
    let first = sub.fetch("w1", 2).await;
    sub.nacked("w1", &first[0], json!({ "action": "retry", "delay": "0s", "reason": "again" })).await;
    let again = sub.fetch("w2", 2).await;
    assert_eq!((numbers(&again), &again[0]["delivery_count"]), (vec![0], &json!(2)));
    sub.nacked("w2", &again[0], json!({})).await;
    assert_eq!(sub.fetch("w2", 2).await.len(), 0, "it waits for the backoff");
    let pending = sub.get("/pending").await;
    let waiting = &pending["pending"][0];
    assert_eq!((&waiting["consumer"], &waiting["last_error"]), (&Value::Null, &json!("again")));
    let third = sub.fetch_some("w2", 2).await;
    assert_eq!((numbers(&third), &third[0]["delivery_count"]), (vec![0], &json!(3)));
    app.stop().await;
}

#[tokio::test]
async fn what_others_left_is_taken_over() {
    let (_database, app) = filled(1, 10).await;
    let sub = competing(&app, json!({})).await;
    let first = sub.fetch("w1", 10).await;
    let none = sub.post("/claims", &json!({ "consumer": "w2", "min_idle": "10m" })).await;
    assert_eq!(none.json(), json!({ "messages": [], "next": null }));
    let some = json!({ "consumer": "w2", "positions": [first[4]["position"], { "partition": 0, "position": first[6]["position"] }] });
    let some = sub.post("/claims", &some).await.json();
    let some = some["messages"].as_array().unwrap();
    assert_eq!((numbers(some), &some[0]["delivery_count"]), (vec![4, 6], &json!(2)));
    sub.ack("w1", &first[4..5]).await.problem(409, "fenced");
    let mut after = Value::Null;
    let mut all = Vec::new();
    loop {
        let page = sub.post("/claims", &json!({ "consumer": "w3", "limit": 4, "after": after })).await.json();
        all.extend(numbers(page["messages"].as_array().unwrap()));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    let consumers = sub.get("/pending/summary").await["consumers"].clone();
    assert_eq!((&consumers[0]["consumer"], &consumers[0]["count"]), (&json!("w3"), &json!(10)));
    app.stop().await;
}

#[tokio::test]
async fn max_in_flight_is_each_consumers_credit() {
    let (_database, app) = filled(1, 20).await;
    let sub = competing(&app, json!({ "max_in_flight": 4 })).await;
    let mine = sub.fetch("w1", 100).await;
    assert_eq!((mine.len(), sub.fetch("w1", 100).await.len()), (4, 0));
    assert_eq!(sub.fetch("w2", 100).await.len(), 4);
    sub.acked("w1", &mine[..2]).await;
    assert_eq!(sub.fetch("w1", 100).await.len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_backlog_comes_no_faster_than_it_is_acked() {
    let (_database, app) = filled(1, 8).await;
    let sub = competing(&app, json!({})).await;
    assert_eq!(sub.fetch("w1", 100).await.len(), 8);
    let mut events = app.follow(&sub.path("/events?consumer=w1&max_in_flight=3&heartbeat=1s")).await;
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let mut some = Vec::new();
        for _ in 0..3.min(8 - seen.len()) {
            some.push(events.next("message").await.json());
        }
        // Nothing more comes before an ack: a heartbeat does.
        loop {
            let next = events.next_event().await;
            assert!(!next.is("message"), "{next:?}");
            if next.is("heartbeat") {
                break;
            }
        }
        sub.acked("w1", &some).await;
        seen.extend(numbers(&some));
    }
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test]
async fn the_messages_of_a_removed_consumer_go_back_to_the_others() {
    let (_database, app) = filled(1, 3).await;
    let sub = competing(&app, json!({})).await;
    sub.fetch("w1", 3).await;
    assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204);
    assert_eq!(numbers(&sub.fetch("w2", 3).await), [0, 1, 2]);
    app.delete(&sub.path("/consumers/w1")).await.problem(404, "not-found");
    let consumers = sub.get("/consumers").await;
    assert_eq!(consumers["consumers"][0]["consumer"], "w2");
    assert_eq!(consumers["consumers"][0]["in_flight"], 3);
    app.stop().await;
}

#[tokio::test]
async fn filters_leave_out() {
    let (_database, app) = filled(2, 20).await;
    let sub = competing(&app, json!({ "filter": "data.n >= 15" })).await;
    assert_eq!(numbers(&sub.fetch("w1", 100).await), [15, 16, 17, 18, 19]);
    assert_eq!(sub.status().await["delivered_lag"], 0);
    app.stop().await;
}

#[tokio::test]
async fn auto_acks_as_it_delivers() {
    let (_database, app) = filled(1, 20).await;
    let sub = competing(&app, json!({ "ack": "auto", "max_in_flight": 1 })).await;
    assert_eq!(sub.fetch("w1", 15).await.len(), 15);
    assert_eq!(sub.fetch("w2", 100).await.len(), 5);
    assert_eq!(sub.status().await["committed_lag"], 0);
    assert_eq!(sub.get("/pending/summary").await["count"], 0);
    app.stop().await;
}

/// A service whose pages have few bytes, and a subscription whose messages are larger than half of that.
async fn large(messages: usize) -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.page_bytes_max = 100_000).await;
    for n in 0..messages {
        app.write("a-1", "T", json!({ "n": n, "text": "x".repeat(60_000) })).await;
    }
    (database, app)
}

#[tokio::test]
async fn what_comes_again_is_bounded_in_bytes_too() {
    let (_database, app) = large(6).await;
    let sub = competing(&app, json!({ "backoff": ["0s"] })).await;
    let first = sub.fetch_count("w1", 6).await;
    for message in &first {
        sub.nacked("w1", message, json!({})).await;
    }
    let again = sub.fetch("w1", 6).await;
    assert_eq!(numbers(&again), [0], "two of them have more bytes than one page");
    // What did not fit was not touched: it has not come again yet.
    let next = sub.fetch("w1", 6).await;
    assert_eq!((numbers(&next), &next[0]["delivery_count"]), (vec![1], &json!(2)));
    // What it was given and has not acked comes first, no more of it at once.
    assert_eq!(numbers(&sub.fetch_with(json!({ "consumer": "w1", "limit": 6 })).await), [0]);
    app.stop().await;
}

#[tokio::test]
async fn a_claim_is_bounded_in_bytes_and_goes_on_where_it_ended() {
    let (_database, app) = large(4).await;
    let sub = competing(&app, json!({})).await;
    let given = sub.fetch_count("w1", 4).await;
    for positions in [Value::Null, given.iter().map(place_alone).collect()] {
        let (mut claimed, mut after) = (Vec::new(), Value::Null);
        loop {
            let mut claim = json!({ "consumer": "w2", "min_idle": "0s", "positions": positions, "after": after });
            claim.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let page = sub.post("/claims", &claim).await.json();
            claimed.extend(numbers(page["messages"].as_array().unwrap()));
            assert!(page["messages"].as_array().unwrap().len() <= 1, "{page}");
            after = page["next"].clone();
            if after.is_null() {
                break;
            }
        }
        assert_eq!(claimed, [0, 1, 2, 3]);
    }
    app.stop().await;
}

fn place_alone(message: &Value) -> Value {
    json!({ "partition": message["partition"], "position": message["position"] })
}

/// Deliveries at positions up to `last`, which come due a hundred at a time.
async fn deliver(sql: &Client, last: i64) {
    let insert = "INSERT INTO headwater.subscription_deliveries (subscription_id, partition, position, global_position, \
        consumer, epoch, delivery_count, attempts, delivered_at, due_at) SELECT 1, 0, n, n, 'w', 1, 1, 1, now(), \
        now() + interval '1 hour' + n / 100 * interval '1 ms' FROM generate_series(1, $1::bigint) AS n";
    sql.execute(insert, &[&last]).await.unwrap();
}

#[tokio::test]
async fn acks_look_up_what_they_name_also_where_the_planner_knows_little_of_the_table() {
    const IN_FLIGHT: i64 = 5_000;
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute("SET enable_seqscan = off; SET jit = off").await.unwrap();
    // As after much work: few deliveries were left when PostgreSQL looked, in a large table with a large index.
    deliver(&sql, 100_000).await;
    sql.batch_execute("DELETE FROM headwater.subscription_deliveries WHERE position <= 99980").await.unwrap();
    sql.batch_execute("VACUUM (ANALYZE, INDEX_CLEANUP ON) headwater.subscription_deliveries").await.unwrap();
    sql.batch_execute("DELETE FROM headwater.subscription_deliveries").await.unwrap();
    deliver(&sql, IN_FLIGHT).await;
    let fetched = async || -> i64 {
        let read = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'subscription_deliveries'";
        sql.query_one(read, &[]).await.unwrap().get(0)
    };
    // In one transaction, as the counts are reported and begin again between two.
    sql.batch_execute("BEGIN").await.unwrap();
    let before = fetched().await;
    let ack = format!(
        "SELECT * FROM headwater.subscription_ack_each(array_fill(1::bigint, ARRAY[100]), array_fill(0, ARRAY[100]), \
         ARRAY(SELECT generate_series({IN_FLIGHT} - 99, {IN_FLIGHT})::bigint), array_fill(1::bigint, ARRAY[100]))"
    );
    sql.batch_execute(&ack).await.unwrap();
    let read = fetched().await - before;
    sql.batch_execute("COMMIT").await.unwrap();
    assert!(read <= 200, "100 acks read {read} deliveries");
    let left = sql.query_one("SELECT count(*) FROM headwater.subscription_deliveries", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), IN_FLIGHT - 100);
}

#[tokio::test]
async fn acks_that_wait_for_another_transaction_are_judged_by_what_that_has_left() {
    let database = TestDatabase::migrated().await;
    let (sql, other, watcher) = (database.connect().await, database.connect().await, database.connect().await);
    deliver(&sql, 5).await;
    let change = "BEGIN; UPDATE headwater.subscription_deliveries SET due_at = due_at + interval '1 h' WHERE position = 1; \
        UPDATE headwater.subscription_deliveries SET epoch = 2 WHERE position = 2; \
        DELETE FROM headwater.subscription_deliveries WHERE position = 3";
    other.batch_execute(change).await.unwrap();
    let ack = "SELECT number, outcome, current_epoch FROM headwater.subscription_ack_each(array_fill(1::bigint, ARRAY[4]), \
        array_fill(0, ARRAY[4]), ARRAY[4, 3, 2, 1]::bigint[], array_fill(1::bigint, ARRAY[4])) ORDER BY number";
    let acking = sql.query(ack, &[]);
    let committing = async {
        eventually("the ack to wait", || async {
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            (watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (acked, ()) = tokio::join!(acking, committing);
    let acked: Vec<(i64, String, Option<i64>)> =
        acked.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let outcome = |number, outcome: &str, epoch| (number, outcome.to_owned(), epoch);
    let expected = [
        outcome(1, "done", None),
        outcome(2, "missing", None),
        outcome(3, "fenced", Some(2)),
        outcome(4, "done", None),
    ];
    assert_eq!(acked, expected);
    let left = sql.query("SELECT position FROM headwater.subscription_deliveries ORDER BY 1", &[]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [2, 5]);
}

#[tokio::test]
async fn a_fetch_does_not_wait_for_what_another_transaction_holds() {
    let (database, app) = filled(1, 1).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/x", &definition).await.status, 201);
    let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" }, "mode": "competing" })).await;
    let found = sub.fetch_some("w1", 1).await;
    sub.nacked("w1", &found[0], json!({ "action": "retry", "delay": "0s" })).await;
    let mut holder = database.connect().await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM headwater.subscription_deliveries FOR UPDATE", &[]).await.unwrap();
    let fetch = sub.fetch_with(json!({ "consumer": "w1", "wait": "50ms", "backlog": false }));
    let held = tokio::time::timeout(PATIENCE, fetch).await.expect("the fetch ends when its time is over");
    assert_eq!(held.len(), 0);
    lock.rollback().await.unwrap();
    assert_eq!(positions(&sub.fetch_some("w1", 1).await), [0]);
    app.stop().await;
}

#[tokio::test]
async fn a_backlog_that_is_not_acked_in_time_comes_again_and_ends() {
    let (_database, app) = filled(1, 1).await;
    let sub = competing(&app, json!({ "max_in_flight": 1, "ack_timeout": "1s", "max_deliveries": 3 })).await;
    assert_eq!(sub.fetch("w1", 1).await.len(), 1);
    // A handler that hangs, at a consumer without room for anything else.
    let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
    for count in 2..=3 {
        assert_eq!(events.next("message").await.json()["delivery_count"], count);
    }
    sub.until("it is parked", |status| status["committed_lag"] == 0).await;
    assert_eq!(sub.get("/parked").await["parked"][0]["deliveries"], 3);
    app.stop().await;
}
