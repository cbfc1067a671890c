//! No message is ever skipped, in whatever order transactions commit.

use std::time::{Duration, Instant};

use headwater::domain::observation::Observation;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::sql_writer;
use crate::support::waiting::eventually;

mod numbered_by_hand;
mod open_in_bulk;
mod own_commits;
mod rounds;

/// A hole that nobody can fill any more is passed over within this.
const SOON: Duration = Duration::from_secs(1);
/// And some patience for a busy machine; who waits for a transaction's end waits for ever.
const BUSY: Duration = Duration::from_secs(4);

/// A transaction that has taken a number and not ended.
async fn idle_writer(database: &TestDatabase, stream_name: &str) -> (Client, i64) {
    let client = database.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let position = sql_writer::insert(&client, stream_name, "Late", "{}").await;
    (client, position)
}

/// Waits until the tail of a service waits for somebody.
async fn held_back(app: &TestApp, is_it: impl Fn(i64, &[i32]) -> bool) {
    let mut watcher = app.service.observer.watch();
    TestApp::observed(&mut watcher, "the settled position to be held back", |what| match what {
        Observation::HeldBack { at, pids, .. } => is_it(*at, pids),
        _ => false,
    })
    .await;
}

/// Until the first heartbeat there is no message.
async fn nothing_but_a_heartbeat(events: &mut Events) -> serde_json::Value {
    let event = events.next_event().await;
    assert!(event.is("heartbeat"), "{event:?}");
    event.json()
}

#[tokio::test]
async fn what_comes_before_an_open_number_is_delivered_and_what_comes_after_waits_for_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for ending in ["COMMIT", "ROLLBACK"] {
        let mut all = app.follow("/v1/all/events?heartbeat=1s").await;
        let mut category = app.follow("/v1/categories/b/events?heartbeat=1s").await;
        all.next("caught-up").await;
        category.next("caught-up").await;
        let before = app.write("b-1", "Before", json!({})).await;
        let (idle, held) = idle_writer(&database, "slow-1").await;
        let after = app.write("b-1", "After", json!({})).await;
        let after_too = sql_writer::write(&database.connect().await, "b-2", "{}").await;
        for events in [&mut all, &mut category] {
            assert_eq!(position_of(&events.next("message").await), before);
        }
        let pid = sql_writer::pid(&idle).await;
        held_back(&app, |at, pids| at == held && pids == [pid]).await;
        for events in [&mut all, &mut category] {
            // One that was sent before all was written knows of less.
            let beat = loop {
                let beat = nothing_but_a_heartbeat(events).await;
                assert_eq!(beat["settled"], before);
                if beat["head"] == after_too {
                    break beat;
                }
            };
            assert_eq!(beat, json!({ "head": after_too, "settled": before, "lag": after_too - before }));
        }
        eventually("half a second of being held back", || async {
            (app.metric("headwater_settled_held_back_age").await > 0.5).then_some(())
        })
        .await;
        eventually("the lag", || async {
            (app.metric("headwater_settled_lag").await == (after_too - before) as f64).then_some(())
        })
        .await;
        assert_eq!(app.metric("headwater_settled_position").await, before as f64);
        let page = app.get(&format!("/v1/all/messages?from={before}")).await.json();
        assert_eq!(page["messages"].as_array().unwrap().len(), 1, "a page does not skip it either: {page}");
        assert_eq!(page["next"], held);
        idle.batch_execute(ending).await.unwrap();
        let late: Vec<i64> = (ending == "COMMIT").then_some(held).into_iter().collect();
        assert_eq!(all.positions_until(after_too).await, [&late[..], &[after, after_too]].concat());
        assert_eq!(category.positions_until(after_too).await, [after, after_too]);
        assert_eq!(app.metric("headwater_settled_held_back_age").await, 0.0);
        assert_eq!(app.metric("headwater_settled_lag").await, 0.0);
    }
    app.stop().await;
}

#[tokio::test]
async fn numbers_that_were_rolled_back_hold_nobody_up() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let mut all = app.follow("/v1/all/events").await;
    let mut stream = app.follow("/v1/streams/a-1/events").await;
    all.next("caught-up").await;
    stream.next("caught-up").await;
    for round in 0..20 {
        for _ in 0..=round % 3 {
            sql_writer::roll_back_one(&sql).await;
        }
        let written = Instant::now();
        let position = match round % 2 {
            0 => app.write("a-1", "Written", json!({})).await,
            _ => sql_writer::write(&sql, "a-1", "{}").await,
        };
        for events in [&mut all, &mut stream] {
            assert_eq!(position_of(&events.next("message").await), position);
        }
        assert!(written.elapsed() < SOON + BUSY, "{:?}", written.elapsed());
    }
    app.stop().await;
}

/// A jump of the sequence is one hole, whatever its width.
#[tokio::test]
async fn a_jump_of_the_sequence_holds_nobody_up() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let mut all = app.follow("/v1/all/events").await;
    let mut category = app.follow("/v1/categories/a/events").await;
    all.next("caught-up").await;
    category.next("caught-up").await;
    for width in [1_000_000_000, 100_000_000_000, 1_000_000_000_000_000_000_i64] {
        let jump = "SELECT setval('message_store.messages_global_position_seq', $1)";
        sql.execute(jump, &[&width]).await.unwrap();
        let written = Instant::now();
        let position = app.write("a-1", "Written", json!({})).await;
        for events in [&mut all, &mut category] {
            assert_eq!(position_of(&events.next("message").await), position);
        }
        println!("a jump to {width}: {:?}", written.elapsed());
        assert!(written.elapsed() < SOON + BUSY, "{:?}", written.elapsed());
    }
    app.stop().await;
}

#[tokio::test]
async fn open_transactions_that_write_no_message_hold_nobody_up() {
    let database = TestDatabase::migrated().await;
    let (sql, reader, other) = (database.connect().await, database.connect().await, database.connect().await);
    let app = TestApp::on(&database).await;
    let mut all = app.follow("/v1/all/events").await;
    all.next("caught-up").await;
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM message_store.messages FOR UPDATE")
        .await
        .expect_err("an aggregate cannot lock rows");
    reader
        .batch_execute(
            "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM message_store.messages FOR SHARE",
        )
        .await
        .unwrap();
    other.batch_execute("CREATE TABLE other (n int); BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    for _ in 0..5 {
        sql_writer::roll_back_one(&sql).await;
        let written = Instant::now();
        let position = app.write("a-1", "Written", json!({})).await;
        assert_eq!(position_of(&all.next("message").await), position);
        assert!(written.elapsed() < SOON + BUSY, "{:?}", written.elapsed());
    }
    drop((reader, other));
    app.stop().await;
}

#[tokio::test]
async fn a_prepared_transaction_holds_back_until_it_ends() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let mut all = app.follow("/v1/all/events?heartbeat=1s").await;
    all.next("caught-up").await;
    for (round, ending) in
        ["COMMIT PREPARED", "ROLLBACK PREPARED", "COMMIT PREPARED", "ROLLBACK PREPARED"].iter().enumerate()
    {
        let name = format!("{}_{round}", sql_writer::pid(&sql).await);
        let (writer, held) = idle_writer(&database, "slow-1").await;
        let prepare = format!("PREPARE TRANSACTION '{name}'");
        let is_prepared_first = round < 2;
        if is_prepared_first {
            writer.batch_execute(&prepare).await.unwrap();
        }
        let after = app.write("b-1", "After", json!({})).await;
        if !is_prepared_first {
            let pid = sql_writer::pid(&writer).await;
            held_back(&app, |at, pids| at == held && pids == [pid]).await;
            writer.batch_execute(&prepare).await.unwrap();
        }
        // Its session is gone altogether; only the prepared transaction is left.
        drop(writer);
        held_back(&app, |at, pids| at == held && pids.is_empty()).await;
        assert_eq!(nothing_but_a_heartbeat(&mut all).await["settled"], held - 1);
        sql.batch_execute(&format!("{ending} '{name}'")).await.unwrap();
        let late: Vec<i64> = ending.starts_with("COMMIT").then_some(held).into_iter().collect();
        assert_eq!(all.positions_until(after).await, [&late[..], &[after]].concat());
    }
    app.stop().await;
}

#[tokio::test]
async fn a_service_that_starts_while_a_number_is_open_skips_nothing() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let first = TestApp::on(&database).await;
    for round in 0..2 {
        sql_writer::roll_back_one(&sql).await;
        let before = first.write("b-1", "Before", json!({})).await;
        if round == 1 {
            // As a service that has run for a while leaves it.
            let checkpoint = "INSERT INTO headwater.settled_position (position) VALUES ($1) \
                ON CONFLICT (only_row) DO UPDATE SET position = excluded.position";
            sql.execute(checkpoint, &[&before]).await.unwrap();
        }
        let (idle, held) = idle_writer(&database, "slow-1").await;
        let after = first.write("b-1", "After", json!({})).await;
        let second = TestApp::on(&database).await;
        let mut from_beginning = second.follow("/v1/all/events?from=beginning&heartbeat=1s").await;
        let mut from_end = second.follow("/v1/all/events?from=end&heartbeat=1s").await;
        let mut category = second.follow("/v1/categories/slow/events?from=end").await;
        let mut resumed = second.follow(&format!("/v1/all/events?last_event_id={before}")).await;
        let blocks = from_beginning.blocks_until("caught-up").await;
        let mut seen: Vec<i64> = blocks.iter().filter(|block| block.is("message")).map(position_of).collect();
        assert!(!seen.contains(&held), "{seen:?}");
        if round == 1 {
            assert_eq!(seen.last(), Some(&before));
        }
        from_end.next("caught-up").await;
        assert!(nothing_but_a_heartbeat(&mut from_beginning).await["settled"].as_i64() < Some(held));
        idle.batch_execute("COMMIT").await.unwrap();
        let expected = sql_writer::standing(&sql, "true").await;
        seen.extend(from_beginning.positions_until(after).await);
        assert_eq!(seen, expected);
        assert_eq!(position_of(&category.next("message").await), held);
        assert_eq!(resumed.positions_until(after).await, [held, after]);
        let late = from_end.positions_until(after).await;
        assert!(late.ends_with(&[held, after]), "{late:?}");
        second.stop().await;
    }
    first.stop().await;
}

#[tokio::test]
async fn who_begins_at_a_time_does_not_skip_what_is_still_open() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("b-1", "Before", json!({})).await;
    let sql = database.connect().await;
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time: String = sql.query_one(now, &[]).await.unwrap().get(0);
    let (idle, held) = idle_writer(&database, "slow-1").await;
    let after = app.write("b-1", "After", json!({})).await;
    held_back(&app, |at, _| at == held).await;
    let mut all = app.follow(&format!("/v1/all/events?from={time}")).await;
    all.next("caught-up").await;
    idle.batch_execute("COMMIT").await.unwrap();
    assert_eq!(all.positions_until(after).await, [held, after]);
    app.stop().await;
}
