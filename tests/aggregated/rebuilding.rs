//! A rebuild is made beside what readers see until it takes its place, in one step.

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::sql_writer;

const COUNT: i64 = 600;

/// A stream that is live, and twin instances.
async fn live(database: &TestDatabase, definition: &Value) -> (TestApp, TestApp, Client) {
    let (app, other) = (TestApp::on(database).await, TestApp::on(database).await);
    let sql = database.connect().await;
    define(&app, "numbers", definition).await;
    let last = write_many(&sql, COUNT, "'n-' || n % 5", "'T'", "json_build_object('num', n)").await;
    projected(&app, "numbers", last).await;
    until_state(&app, "numbers", "live").await;
    (app, other, sql)
}

fn by_number() -> Value {
    json!({
        "categories": ["n"], "partitioner": { "kind": "cel", "expression": "data.num % 3" }, "max_partition": 2
    })
}

async fn current(sql: &Client) -> i64 {
    sql.query_one("SELECT id FROM headwater.projections WHERE is_current", &[]).await.unwrap().get(0)
}

async fn until_switched(app: &TestApp, sql: &Client, from: i64) {
    until(app, "numbers", "has switched", |status| status["rebuild"].is_null()).await;
    assert_ne!(current(sql).await, from);
}

#[tokio::test]
async fn readers_and_followers_go_on_across_the_switch() {
    let database = TestDatabase::migrated().await;
    let (app, other, sql) = live(&database, &by_number()).await;
    let before = links(&sql, "numbers").await;
    let first = current(&sql).await;
    let middle = in_global_order(before.clone())[COUNT as usize / 2];
    // Some of the followers are at the end, some have stopped in the middle.
    let path = format!("{}/events", path_of("numbers"));
    let mut followers = Vec::new();
    for app in [&app, &other] {
        let mut events = app.follow(&format!("{path}?from=beginning")).await;
        events.next("caught-up").await;
        followers.push(events);
        let mut events = app.follow("/v1/events?category=beside&aggregated_stream=numbers&from=beginning").await;
        events.next("caught-up").await;
        followers.push(events);
    }
    // The two projections are to differ: a message of the first half is gone.
    let gone = in_global_order(before.clone())[10];
    sql.execute("DELETE FROM message_store.messages WHERE global_position = $1", &[&gone.2]).await.unwrap();
    let page =
        app.get(&format!("{}/partitions/{}/messages?limit=1&from={}", path_of("numbers"), gone.0, gone.1)).await.json();
    assert_eq!(
        page,
        json!({ "messages": [], "next": gone.1 + 1, "at_end": false }),
        "a link without a message is passed over"
    );
    // Also for a request that would wait: this page is not the end.
    let path_of_gone =
        format!("{}/partitions/{}/messages?limit=1&wait=20s&from={}", path_of("numbers"), gone.0, gone.1);
    let asked = Instant::now();
    assert_eq!(app.get(&path_of_gone).await.json()["next"], gone.1 + 1);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());

    let status = order(&app, "numbers", "rebuild").await;
    assert_eq!(status["state"], "live", "readers see the old one: {status}");
    until_switched(&app, &sql, first).await;
    holds(&app, &sql, "numbers", "true", "(data ->> 'num')::int % 3").await;
    let after = links(&sql, "numbers").await;
    assert_eq!(after.len(), before.len() - 1);
    // A cursor from before the switch goes on with the next message, at its new place.
    let rest: Vec<Link> = in_global_order(after.clone()).into_iter().filter(|link| link.2 > middle.2).collect();
    let mut resumed = Events::resume(&format!("{}{path}", other.url), &middle.2.to_string()).await;
    let found: Vec<Link> = resumed.messages(rest.len()).await.iter().map(link_of).collect();
    assert_eq!(found, rest);
    let last = app.write("n-1", "T", json!({ "num": 0 })).await;
    let new = (0, rest_len(&after, 0), last);
    followers.push(resumed);
    for events in &mut followers {
        let mut seen = (0, 0, 0);
        while seen.2 != last {
            seen = link_of(&events.next("message").await.json());
        }
        assert_eq!(seen, new);
    }
    other.stop().await;
    app.stop().await;
}

fn rest_len(links: &[Link], partition: i32) -> i64 {
    links.iter().filter(|link| link.0 == partition).count() as i64
}

#[tokio::test]
async fn followers_miss_nothing_and_see_nothing_twice_while_rebuilds_go_on_under_load() {
    let database = TestDatabase::migrated().await;
    let (app, other, sql) = live(&database, &by_number()).await;
    let path = format!("{}/events?from=beginning", path_of("numbers"));
    let mut followers = [app.follow(&path).await, other.follow(&path).await];
    for round in 0..6 {
        let from = current(&sql).await;
        order(if round % 2 == 0 { &app } else { &other }, "numbers", "rebuild").await;
        // Asked for twice, it is the same one.
        order(&app, "numbers", "rebuild").await;
        while status(&app, "numbers").await["rebuild"].is_object() {
            app.write("n-1", "T", json!({ "num": round })).await;
        }
        assert_ne!(current(&sql).await, from);
    }
    let last = app.write("n-1", "T", json!({ "num": 1 })).await;
    projected(&app, "numbers", last).await;
    holds(&app, &sql, "numbers", "true", "(data ->> 'num')::int % 3").await;
    let expected = in_global_order(links(&sql, "numbers").await);
    for events in &mut followers {
        let found: Vec<Link> = events.messages(expected.len()).await.iter().map(link_of).collect();
        assert!(found == expected, "{}", difference(&found, &expected));
    }
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_rebuild_that_stops_leaves_readers_with_the_old_one() {
    let database = TestDatabase::migrated().await;
    let (app, other, sql) = live(&database, &by_number()).await;
    let (before, first) = (links(&sql, "numbers").await, current(&sql).await);
    let odd = in_global_order(before.clone())[COUNT as usize / 2].2;
    let change = "UPDATE message_store.messages SET data = $2::text::jsonb WHERE global_position = $1";
    sql.execute(change, &[&odd, &"{}"]).await.unwrap();
    order(&app, "numbers", "rebuild").await;
    let status =
        until(&app, "numbers", "has a rebuild that stopped", |status| status["rebuild"]["state"] == "stopped").await;
    assert_eq!((&status["state"], &status["error"]), (&json!("live"), &Value::Null), "{status}");
    assert_eq!(status["rebuild"]["error"]["global_position"], odd);
    assert_eq!(status["rebuild"]["projected_position"], odd - 1);
    // The old one goes on meanwhile.
    let last = app.write("n-1", "T", json!({ "num": 2 })).await;
    projected(&app, "numbers", last).await;
    assert_eq!(current(&sql).await, first);
    assert_eq!(links(&sql, "numbers").await.len(), before.len() + 1);
    // Asked for again it begins again, and stops again.
    let stopped = "SELECT id FROM headwater.projections WHERE NOT is_current AND error IS NOT NULL \
        AND aggregated_stream_id IS NOT NULL";
    let attempt: i64 = sql.query_one(stopped, &[]).await.unwrap().get(0);
    order(&other, "numbers", "rebuild").await;
    until(&app, "numbers", "has stopped again", |status| status["rebuild"]["state"] == "stopped").await;
    assert_ne!(sql.query_one(stopped, &[]).await.unwrap().get::<_, i64>(0), attempt);
    sql.execute(change, &[&odd, &r#"{"num": 0}"#]).await.unwrap();
    order(&app, "numbers", "resume").await;
    until_switched(&app, &sql, first).await;
    holds(&app, &sql, "numbers", "true", "(data ->> 'num')::int % 3").await;
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_rebuild_takes_the_place_of_one_that_had_stopped() {
    let database = TestDatabase::migrated().await;
    let (app, other, sql) = live(&database, &by_number()).await;
    let mut events = other.follow(&format!("{}/events", path_of("numbers"))).await;
    events.next("caught-up").await;
    let odd = app.write("n-1", "T", json!({ "num": "odd" })).await;
    let after = app.write("n-1", "T", json!({ "num": 1 })).await;
    until_state(&app, "numbers", "stopped").await;
    let (first, held) = (current(&sql).await, links(&sql, "numbers").await);
    // Paused, not even a rebuild goes on.
    order(&app, "numbers", "pause").await;
    sql.execute("UPDATE message_store.messages SET data = '{\"num\": 0}' WHERE global_position = $1", &[&odd])
        .await
        .unwrap();
    let status = order(&app, "numbers", "rebuild").await;
    assert_eq!((&status["state"], &status["rebuild"]["state"]), (&json!("paused"), &json!("paused")));
    assert_eq!(links(&sql, "numbers").await, held);
    order(&app, "numbers", "resume").await;
    until_switched(&app, &sql, first).await;
    until_state(&app, "numbers", "live").await;
    holds(&app, &sql, "numbers", "true", "(data ->> 'num')::int % 3").await;
    let found: Vec<i64> = events.messages(2).await.iter().map(|one| link_of(one).2).collect();
    assert_eq!(found, [odd, after]);
    // Nothing is left over of what nobody reads.
    let deadline = Instant::now() + PATIENCE;
    let rows =
        "SELECT (SELECT count(*) FROM headwater.projections), (SELECT count(*) FROM headwater.aggregated_messages)";
    loop {
        let row = sql.query_one(rows, &[]).await.unwrap();
        if (row.get::<_, i64>(0), row.get::<_, i64>(1)) == (1, COUNT + 2) {
            break;
        }
        assert!(Instant::now() < deadline, "{row:?}");
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(sql_writer::standing(&sql, "true").await.len() as i64, COUNT + 2);
    other.stop().await;
    app.stop().await;
}
