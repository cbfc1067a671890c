//! A large message delays the followers that want it, and no others.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use headwater::domain::observation::Observation;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::position_of;
use crate::support::proxy::FaultProxy;
use crate::support::sql_writer;
use crate::support::waiting::until;

/// What the line to the database carries. What is written below needs much longer than a read of the tail may take.
const BYTES_PER_SECOND: usize = 3 << 20;
/// Large messages may take so long altogether.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages in `large-1`, all at once, whose `data` are so many bytes that do not get less by being packed.
async fn write_large(sql: &Client, count: i32, bytes: i32) {
    sql.batch_execute("ALTER TABLE message_store.messages ALTER COLUMN data SET STORAGE EXTERNAL").await.unwrap();
    write_packed(sql, count, bytes).await;
}

/// The same, which PostgreSQL keeps in a hundredth of that.
async fn write_packed(sql: &Client, count: i32, bytes: i32) {
    let insert = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'large-1', n, 'Large', jsonb_build_object('text', repeat('x', $2)) FROM generate_series(1, $1) AS n";
    sql.execute(insert, &[&count, &bytes]).await.unwrap();
}

/// Reads an event stream and keeps its ids alone: a message's event may have many megabytes.
async fn ids_until(events: reqwest::Response, after: i64, last: i64) -> Vec<i64> {
    let mut body = events.bytes_stream();
    let (mut line, mut ids) = (Vec::new(), Vec::new());
    while ids.last() != Some(&last) {
        let chunk = body.next().await.expect("the stream goes on").unwrap();
        for (number, part) in chunk.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                let id = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("id: ")?.split('~').next());
                // Events that are no messages have ids too.
                ids.extend(id.and_then(|id| id.parse().ok()).filter(|id| ids.last().unwrap_or(&after) < id));
                line.clear();
            }
            line.extend_from_slice(&part[..part.len().min(64)]);
        }
    }
    ids
}

/// Everybody of an instance follows over a line that carries little, while large messages are written in SQL.
async fn only_who_wants_them_waits(write: impl AsyncFn(&Client)) {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let before = app.write("small-1", "Small", json!({})).await;
    let mut small = app.follow("/v1/streams/small-1/events?from=end").await;
    small.next("caught-up").await;
    let all = app.http.get(format!("{}/v1/all/events?last_event_id={before}", app.url)).send().await.unwrap();
    proxy.slow_down(BYTES_PER_SECOND);
    let mut watcher = app.service.observer.watch();
    write(&sql).await;
    let position = sql_writer::write(&sql, "small-1", "{}").await;
    let written = Instant::now();
    let all = tokio::spawn(ids_until(all, before, position));
    assert_eq!(position_of(&small.next("message").await), position);
    // A read of all that is new would have been given up by now, with its connection.
    while let Ok(seen) = watcher.try_recv() {
        assert!(!matches!(&seen, Observation::StoreFailed { by, .. } if by == "tail"), "{seen:?}");
    }
    println!("the small message came after {:?}", written.elapsed());
    let seen = tokio::time::timeout(PATIENCE, all).await.expect("large messages arrive").unwrap();
    println!("everything had come after {:?}", written.elapsed());
    assert_eq!(seen, sql_writer::standing(&sql, &format!("global_position > {before}")).await);
    app.stop().await;
}

#[tokio::test]
async fn many_large_messages_over_a_slow_line_delay_only_themselves() {
    only_who_wants_them_waits(async |sql| write_large(sql, 75, 400_000).await).await;
}

#[tokio::test]
async fn a_message_that_takes_longer_than_a_read_may_delays_only_itself() {
    only_who_wants_them_waits(async |sql| write_packed(sql, 1, 17_500_000).await).await;
}

/// What was read of the tail and lost on the way is given to those who follow all the same.
#[tokio::test]
async fn a_read_of_the_tail_that_is_lost_skips_nothing() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut events = app.follow("/v1/categories/a/events").await;
    events.next("caught-up").await;
    let mut expected = Vec::new();
    for round in 0..2 {
        // The tail's own reads of whole messages: in the first round none arrives.
        proxy.silence_when_sent((round == 0).then_some("messages_at"));
        expected.push(sql_writer::write(&sql, "a-1", "{}").await);
        if round == 0 {
            until("a read is lost", PATIENCE, || proxy.links().iter().any(|link| link.is_silent())).await;
        }
    }
    assert_eq!(events.positions_until(expected[1]).await, expected);
    app.stop().await;
}

/// As long as the end of the log cannot be read, the service says so.
#[tokio::test]
async fn a_tail_that_cannot_read_is_not_ready() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut watcher = app.service.observer.watch();
    proxy.silence_when_sent(Some("FROM message_store.messages WHERE global_position > $1"));
    TestApp::observed(&mut watcher, "that the tail does not read", |seen| {
        matches!(seen, Observation::TailReads { reads: false })
    })
    .await;
    let checks = app.get("/readyz").await.problem(503, "database-unavailable")["checks"].clone();
    assert_eq!((&checks["tail"], &checks["database"]), (&json!(false), &json!(true)));
    assert_eq!(app.metric("headwater_tail_up").await, 0.0);
    proxy.silence_when_sent(None);
    TestApp::observed(&mut watcher, "that the tail reads", |seen| {
        matches!(seen, Observation::TailReads { reads: true })
    })
    .await;
    assert_eq!(app.metric("headwater_tail_up").await, 1.0);
    let position = sql_writer::write(&sql, "a-1", "{}").await;
    let page = app.get("/v1/all/messages").await.json();
    assert_eq!(page["messages"][0]["global_position"], position);
    app.stop().await;
}
