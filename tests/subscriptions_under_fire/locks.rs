//! Everything at once on the same rows: each waits for its turn, and none waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

const PARTITIONS: usize = 48;
const FOR: Duration = Duration::from_secs(3);

/// Takes what comes, and says all that there is to be said of it, in any order.
async fn consume(group: Group, name: String, ends: Arc<AtomicBool>) -> Vec<String> {
    let mut complaints = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let body = json!({ "consumer": name, "limit": 60, "wait": "50ms", "backlog": fastrand::u8(..10) == 0 });
        let answer = group.post("/fetch", &body).await;
        if answer.status >= 500 {
            complaints.push(format!("fetch: {}", answer.text));
            continue;
        }
        let mut messages = answer.json()["messages"].as_array().cloned().unwrap_or_default();
        fastrand::shuffle(&mut messages);
        for some in messages.chunks(20) {
            let (path, body) = match fastrand::u8(..10) {
                0 => {
                    let actions = ["retry", "park", "park", "skip"];
                    let nacks: Vec<_> = some
                        .iter()
                        .map(|one| {
                            let mut nack = place(one);
                            nack["action"] = json!(actions[fastrand::usize(..4)]);
                            nack["delay"] = json!("0s");
                            nack
                        })
                        .collect();
                    ("/nacks", json!({ "consumer": name, "nacks": nacks }))
                }
                1 => {
                    let places: Vec<_> = some.iter().map(place).collect();
                    ("/extensions", json!({ "consumer": name, "extensions": places }))
                }
                _ => ("/acks", json!({ "consumer": name, "acks": some.iter().map(place).collect::<Vec<_>>() })),
            };
            let answer = group.post(path, &body).await;
            if answer.status >= 500 {
                complaints.push(format!("{path}: {}", answer.text));
            }
        }
    }
    complaints
}

/// Does to a subscription whatever can be done to it.
async fn meddle(group: Group, ends: Arc<AtomicBool>) -> Vec<String> {
    let mut complaints = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let (path, body) = match fastrand::u8(..6) {
            0 => ("/seek", json!({ "to": "beginning" })),
            1 | 2 => ("/parked/replay", json!({ "all": true })),
            3 => ("/pause", json!({})),
            4 => ("/claims", json!({ "consumer": "claimant", "min_idle": "0s", "limit": 50 })),
            _ => ("/consumers", json!(null)),
        };
        let answer = match path {
            "/consumers" => {
                let path = group.path(&format!("/consumers/w{}", fastrand::u8(..4)));
                Answer::of(group.http.delete(path).send().await.unwrap()).await
            }
            "/pause" => {
                group.post("/pause", &body).await;
                // As if it had stopped by itself, so that it is resumed in full.
                group.post("/resume", &body).await
            }
            _ => group.post(path, &body).await,
        };
        if answer.status >= 500 {
            complaints.push(format!("{path}: {}", answer.text));
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    complaints
}

/// Connections come and go, with whatever is in flight on them.
async fn come_and_go(group: Group, ends: Arc<AtomicBool>) -> Vec<String> {
    while !ends.load(Ordering::SeqCst) {
        let mut events = group.events(&format!("e{}", fastrand::u8(..3))).await;
        let mut seen = Vec::new();
        let reading = async {
            // It ends early for a consumer that is replaced or removed.
            while seen.len() < 30
                && let Some(event) = events.next_block(PATIENCE).await
            {
                if event.is("message") {
                    seen.push(event.json());
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
        if fastrand::bool() && !seen.is_empty() {
            let acks: Vec<_> = seen.iter().map(place).collect();
            group.post("/acks", &json!({ "consumer": "e", "acks": acks })).await;
        }
    }
    Vec::new()
}

/// Rows lie in a table in another order than that in which they are counted.
#[tokio::test]
async fn a_subscription_is_deleted_while_it_is_counted() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let definition = json!({ "source": { "category": "a" }, "partitions": 3 });
    let group = Group::new(&app.url, "counted", definition).await;
    app.stop().await;
    let (sql, counting, deleting) = (database.connect().await, database.connect().await, database.connect().await);
    let rows = "SELECT id FROM headwater.subscriptions WHERE name = $1";
    let id: i64 = sql.query_one(rows, &[&group.name]).await.unwrap().get(0);
    sql.batch_execute("DELETE FROM headwater.subscription_counts").await.unwrap();
    for partition in [2, 1, 0] {
        let insert = "INSERT INTO headwater.subscription_counts (subscription_id, partition, counted_from, counted_up_to) \
            VALUES ($1, $2, 0, 0)";
        sql.execute(insert, &[&id, &partition]).await.unwrap();
    }
    // As PostgreSQL does where it takes the table to be small.
    deleting.batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off").await.unwrap();
    sql.batch_execute("BEGIN; SELECT FROM headwater.subscription_counts WHERE partition = 1 FOR UPDATE").await.unwrap();
    let looking = database.connect().await;
    let until_waiting = async |number: i64| {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        let all = async || (looking.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == number).then_some(());
        eventually("sessions to wait for a row", all).await;
    };
    let count = async { counting.execute("SELECT headwater.subscription_count($1, 0, 10)", &[&id]).await };
    let delete = async {
        until_waiting(1).await;
        deleting.execute("SELECT headwater.subscription_delete($1)", &[&group.name]).await
    };
    let release = async {
        until_waiting(2).await;
        sql.batch_execute("COMMIT").await.unwrap();
    };
    let (counted, deleted, ()) = tokio::join!(count, delete, release);
    assert_eq!((counted.unwrap(), deleted.unwrap()), (1, 1));
    let left = "SELECT count(*) FROM headwater.subscription_counts";
    assert_eq!(sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_in_a_circle() {
    let database = TestDatabase::migrated().await;
    let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let sql = database.connect().await;
    write(&sql, "a", 97, 3_000).await;
    let mut tasks = Vec::new();
    let ends = Arc::new(AtomicBool::new(false));
    for mode in ["partitioned", "competing"] {
        let definition = json!({
            "source": { "category": "a" }, "mode": mode, "partitions": PARTITIONS, "ack_timeout": "300ms",
            "backoff": ["0s"], "max_in_flight": 200, "max_deliveries": 4
        });
        let group = Group::new(&one.url, mode, definition).await;
        let instances = [group.clone(), group.on(&two.url)];
        for number in 0..4 {
            let instance = instances[number % 2].clone();
            tasks.push(tokio::spawn(consume(instance, format!("w{number}"), ends.clone())));
        }
        for instance in instances {
            tasks.push(tokio::spawn(meddle(instance.clone(), ends.clone())));
            tasks.push(tokio::spawn(come_and_go(instance, ends.clone())));
        }
    }
    tokio::time::sleep(FOR).await;
    ends.store(true, Ordering::SeqCst);
    let mut complaints = Vec::new();
    for task in tasks {
        complaints.extend(task.await.unwrap());
    }
    // Their connections tell what they have counted when they end.
    one.stop().await;
    two.stop().await;
    let deadlocks = deadlocks(&sql).await;
    assert!(complaints.is_empty() && deadlocks == 0, "{deadlocks} deadlocks, {complaints:#?}");
}

/// Waits until a session waits for a lock that `holder` has, and asserts that it does not hold what `other` locks.
async fn waits_for_the_first(database: &TestDatabase, setup: &str, held: &str, statement: &str, other: &str) {
    let (session, holder, watcher) = (database.connect().await, database.connect().await, database.connect().await);
    session.batch_execute(setup).await.unwrap();
    // In the order in which the rows are stored.
    session
        .batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_nestloop = off; SET enable_mergejoin = off")
        .await
        .unwrap();
    holder.batch_execute(&format!("BEGIN; {held}")).await.unwrap();
    let watching = async {
        eventually("it waits", || async {
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            (watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        let locked = holder.batch_execute(&format!("{other} NOWAIT")).await;
        holder.batch_execute("ROLLBACK").await.unwrap();
        locked
    };
    let (done, locked) = tokio::join!(session.batch_execute(statement), watching);
    done.unwrap();
    locked.expect("rows are locked in their order");
}

const CREATE: &str = "SELECT headwater.subscription_create(name, '{\"source\":{\"categories\":[\"a\"]},\"types\":[]}', true, NULL, 1000, \
    1000, 0, ARRAY[0], ARRAY[0::bigint], 10) FROM unnest(ARRAY['s1', 's2']) AS n (name)";

#[tokio::test]
async fn consumers_are_deleted_in_the_order_in_which_they_are_renewed() {
    let database = TestDatabase::migrated().await;
    let join = "INSERT INTO headwater.subscription_consumers (subscription_id, name, session, is_connected, expires_at) \
        SELECT s.id, c.name, gen_random_uuid(), false, now() + interval '1 h' \
        FROM headwater.subscriptions AS s, unnest(ARRAY['w2', 'w1']) AS c (name) WHERE s.name = 's1'";
    waits_for_the_first(
        &database,
        &format!("{CREATE}; {join}"),
        "SELECT FROM headwater.subscription_consumers WHERE name = 'w1' FOR UPDATE",
        "SELECT headwater.subscription_delete('s1')",
        "SELECT FROM headwater.subscription_consumers WHERE name = 'w2' FOR UPDATE",
    )
    .await;
}

#[tokio::test]
async fn subscriptions_that_a_trim_counts_for_are_locked_in_their_order() {
    let database = TestDatabase::migrated().await;
    // An update writes the first one anew, behind the second.
    let rewrite = "UPDATE headwater.subscriptions SET generation = 2 WHERE name = 's1'";
    let fill = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-1', n, 'T', '{}' FROM generate_series(0, 9) AS n";
    waits_for_the_first(
        &database,
        &format!("{CREATE}; {rewrite}; {fill}"),
        "SELECT FROM headwater.subscriptions WHERE name = 's1' FOR UPDATE",
        "SELECT headwater.trim_messages('a', ARRAY(SELECT global_position FROM message_store.messages), false)",
        "SELECT FROM headwater.subscriptions WHERE name = 's2' FOR UPDATE",
    )
    .await;
}
