//! Positions that do not come from the sequence one by one.

use headwater::domain::observation::Observation;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::position_of;
use crate::support::sql_writer;

async fn insert_at(sql: &Client, global_position: i64) {
    let insert = "INSERT INTO message_store.messages (stream_name, position, type, global_position) \
        VALUES ('hand-1', $1, 'ByHand', $1)";
    sql.execute(insert, &[&global_position]).await.unwrap();
}

/// What the sequence gives afterwards lies before it, and would be passed over.
#[tokio::test]
async fn a_message_ahead_of_the_sequence_waits_for_it_and_keeps_nobody_waiting() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let mut all = app.follow("/v1/all/events").await;
    all.next("caught-up").await;
    let mut watcher = app.service.observer.watch();
    let by_hand = app.write("a-1", "Written", json!({})).await + 1_000;
    insert_at(&sql, by_hand).await;
    TestApp::observed(
        &mut watcher,
        "that a position is ahead",
        |seen| matches!(seen, Observation::PositionsAhead { at: Some(at), .. } if *at == by_hand),
    )
    .await;
    assert_eq!(app.metric("headwater_positions_ahead").await, 1.0);
    let after = sql_writer::write(&sql, "a-1", "{}").await;
    assert!(after < by_hand);
    assert_eq!(all.positions_until(after).await, sql_writer::standing(&sql, "stream_name = 'a-1'").await);
    // Another instance that starts now passes over nothing either.
    let other = TestApp::on(&database).await;
    let mut late = other.follow("/v1/all/events").await;
    late.next("caught-up").await;
    let next = other.write("a-1", "Written", json!({})).await;
    for events in [&mut all, &mut late] {
        assert_eq!(position_of(&events.next("message").await), next);
    }
    sql.execute("SELECT setval('message_store.messages_global_position_seq', $1)", &[&by_hand]).await.unwrap();
    for events in [&mut all, &mut late] {
        assert_eq!(position_of(&events.next("message").await), by_hand);
    }
    TestApp::observed(&mut watcher, "that none is ahead", |seen| {
        matches!(seen, Observation::PositionsAhead { at: None, .. })
    })
    .await;
    other.stop().await;
    app.stop().await;
}

/// No follower goes back in a log: what is written behind it is reported, and what is in order is not.
#[tokio::test]
async fn messages_that_are_written_behind_what_is_settled_are_noticed() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql_writer::roll_back_one(&sql).await;
    let hole = sql_writer::write(&sql, "a-1", "{}").await - 1;
    let app = TestApp::on(&database).await;
    let mut watcher = app.service.observer.watch();
    if app.metric("headwater_tail_up").await == 0.0 {
        TestApp::observed(&mut watcher, "the first look", |seen| {
            matches!(seen, Observation::TailReads { reads: true })
        })
        .await;
    }
    let settled = app.write("a-1", "Written", json!({})).await;
    for (at, statement) in [
        (
            -5,
            "INSERT INTO message_store.messages (stream_name, position, type, global_position) \
            SELECT 'hand-1', n, 'ByHand', n - 5 FROM generate_series(0, 2) AS n"
                .to_owned(),
        ),
        (
            hole,
            format!(
                "INSERT INTO message_store.messages (stream_name, position, type, global_position) \
            VALUES ('hand-2', 0, 'ByHand', {hole})"
            ),
        ),
        (settled, format!("UPDATE message_store.messages SET data = '{{}}' WHERE global_position = {settled}")),
    ] {
        // In the transaction of somebody who also writes in order, and in a part of one that went back.
        sql.batch_execute(&format!("BEGIN; SAVEPOINT s; SELECT 1; ROLLBACK TO s; {statement}")).await.unwrap();
        sql_writer::write(&sql, "a-1", "{}").await;
        sql.batch_execute("COMMIT").await.unwrap();
        TestApp::observed(
            &mut watcher,
            "what was written behind",
            |seen| matches!(seen, Observation::WrittenBehind { first, .. } if *first == at),
        )
        .await;
    }
    assert_eq!(app.metric("headwater_written_behind_total").await, 5.0);
    app.stop().await;
}

#[tokio::test]
async fn a_sequence_that_gives_several_positions_at_once_is_noticed() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    // What is written before the reader has begun is not looked at, only what comes after it.
    app.follow("/v1/all/events").await.next("caught-up").await;
    let mut watcher = app.service.observer.watch();
    for numbers in [20, 1] {
        let alter = format!("ALTER SEQUENCE message_store.messages_global_position_seq CACHE {numbers}");
        sql.batch_execute(&alter).await.unwrap();
        sql_writer::write(&sql, "a-1", "{}").await;
        TestApp::observed(
            &mut watcher,
            "what the sequence gives at once",
            |seen| matches!(seen, Observation::SequenceCaches { numbers: seen } if *seen == numbers),
        )
        .await;
        assert_eq!(app.metric("headwater_sequence_cache").await, numbers as f64);
    }
    app.stop().await;
}
