//! The slow: they cost the service nothing, delay nobody, and miss nothing.

use std::collections::HashSet;

use serde_json::json;
use tokio_postgres::Client;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use crate::support::sql_writer;
use crate::support::waiting::eventually;

const MESSAGES: i64 = 100_000;
/// The text of all of them is several times as much.
const GROWTH_MAX_KB: u64 = 16 << 10;

/// Resident memory of a process, in kB.
fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Many messages in one transaction; returns the last one's global position.
async fn insert_many(client: &Client, from: i64, count: i64) -> i64 {
    insert(client, from, count).await;
    tell(client).await
}

async fn insert(client: &Client, from: i64, count: i64) {
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'bulk-1', n, CASE WHEN (n + 1) % 1000 = 0 THEN 'Thousandth' ELSE 'Written' END, jsonb_build_object('text', repeat('x', 600)) \
        FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) AS n";
    client.execute(sql, &[&from, &count]).await.unwrap();
}

async fn tell(client: &Client) -> i64 {
    // Told of like any other write: otherwise the test would mostly wait for the slow poll.
    let told = "SELECT max(global_position), pg_notify('headwater', max(global_position)::text) \
        FROM message_store.messages WHERE stream_name = 'bulk-1'";
    client.query_one(told, &[]).await.unwrap().get(0)
}

/// Reads on to a message and asserts that none was left out; only ids are looked at, as there are many.
async fn read_all(events: &mut Events, count: i64) {
    for position in 0..count {
        let event = events.next("message").await;
        assert_eq!(event.place().unwrap(), position.to_string());
    }
}

/// Reads on over the messages that end a thousand each.
async fn thousandths(events: &mut Events, thousands: std::ops::Range<i64>) {
    for thousand in thousands {
        assert_eq!(events.next("message").await.place().unwrap(), (thousand * 1_000 + 999).to_string());
    }
}

#[tokio::test]
async fn a_follower_that_does_not_read_costs_no_memory_delays_nobody_and_misses_nothing() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0", "--cache-bytes-max", "1048576"];
    let service = ServiceProcess::start(&arguments);
    let path = format!("{}/v1/streams/bulk-1/events", service.url);
    let mut slow = Events::open(&path, &[]).await;
    let mut quick = Events::open(&format!("{path}?types=Thousandth"), &[]).await;
    let mut elsewhere = Events::open(&format!("{}/v1/streams/other-1/events", service.url), &[]).await;
    for events in [&mut slow, &mut quick, &mut elsewhere] {
        events.next("caught-up").await;
    }
    // What the first messages cost once and for all is not growth.
    insert_many(&sql, 0, 2_000).await;
    thousandths(&mut quick, 0..2).await;
    let before = resident_kb(service.id());
    for some in 1..50 {
        insert_many(&sql, some * 2_000, 2_000).await;
        thousandths(&mut quick, some * 2..some * 2 + 2).await;
    }
    let position = sql_writer::write(&sql, "other-1", "{}").await;
    assert_eq!(position_of(&elsewhere.next("message").await), position);
    let growth = resident_kb(service.id()).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "{growth} kB more");
    read_all(&mut slow, MESSAGES).await;
    let growth = resident_kb(service.id()).saturating_sub(before);
    assert!(growth < GROWTH_MAX_KB, "{growth} kB more");
    drop((slow, quick, elsewhere));
    assert!(service.stop().success());
}

#[tokio::test]
async fn a_load_in_one_transaction_is_not_read_into_memory() {
    let database = TestDatabase::migrated().await;
    let (sql, other) = (database.connect().await, database.connect().await);
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0", "--cache-bytes-max", "1048576"];
    let service = ServiceProcess::start(&arguments);
    let report = format!("{}/v1/reports/settled", service.url);
    let mut all = Events::open(&format!("{}/v1/all/events", service.url), &[]).await;
    all.next("caught-up").await;
    // What the first load costs once and for all is not growth; what a second, larger one costs on top is.
    let mut resident = Vec::new();
    let mut written = 0;
    // The last one is found while it is under way, so that it is a hole that is waited for, beside a writer.
    for (load, is_found) in [(60_000, false), (120_000, false), (120_000, true)] {
        sql.batch_execute("BEGIN").await.unwrap();
        insert(&sql, written, load).await;
        if is_found {
            other.batch_execute("SELECT pg_notify('headwater', '')").await.unwrap();
            eventually("the load to be found", || async {
                let report: serde_json::Value = http_client().get(&report).send().await.unwrap().json().await.unwrap();
                (!report["held_back"].is_null()).then_some(())
            })
            .await;
            // It has not written where the load has, and is still at work when that is over.
            let write = "INSERT INTO message_store.messages (stream_name, position, type) VALUES ('held-1', 0, 'Held')";
            other.batch_execute(&format!("BEGIN; {write}")).await.unwrap();
        }
        sql.batch_execute("COMMIT").await.unwrap();
        let last = tell(&sql).await;
        written += load;
        for position in last - load + 1..=last {
            assert_eq!(all.next("message").await.place().unwrap(), position.to_string());
        }
        all.next("caught-up").await;
        let report: serde_json::Value = http_client().get(&report).send().await.unwrap().json().await.unwrap();
        assert!(report["head"].as_i64().unwrap() >= report["settled"].as_i64().unwrap(), "{report}");
        assert_eq!(report["settled"], last, "{report}");
        resident.push(resident_kb(service.id()));
    }
    let growth = resident[2].max(resident[1]).saturating_sub(resident[0]);
    assert!(growth < GROWTH_MAX_KB, "{growth} kB more: {resident:?}");
    drop(all);
    assert!(service.stop().success());
}

#[tokio::test]
async fn of_many_followers_of_their_own_streams_a_message_reaches_only_its_own() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    http_client(); // installs the provider of TLS
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut followers = Vec::new();
    for number in 0..500 {
        let url = format!("{}/v1/streams/own-{number}/events", app.url);
        let mut events = Events::of(client.get(url).send().await.unwrap()).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    let reads = async || app.metric("headwater_follower_reads_total{from=\"database\"}").await;
    let (delivered, read) = (app.metric("headwater_messages_delivered_total").await, reads().await);
    let mut written = HashSet::new();
    for number in [0, 7, 250, 499] {
        written.insert(number);
        app.write(&format!("own-{number}"), "Written", json!({})).await;
        let message = &followers[number].messages(1).await[0];
        assert_eq!(message["stream_name"], format!("own-{number}"));
        assert_eq!(app.metric("headwater_messages_delivered_total").await - delivered, written.len() as f64);
    }
    assert_eq!(reads().await, read, "nothing was read from the database for it");
    app.drain();
    for (number, events) in followers.iter_mut().enumerate() {
        // On a busy machine a heartbeat is sent meanwhile.
        let event = loop {
            let event = events.next_event().await;
            if !event.is("heartbeat") {
                break event;
            }
        };
        assert!(event.is("closing"), "{event:?}");
        // The cursor of each of them.
        assert_eq!(event.place(), Some(if written.contains(&number) { "0" } else { "-1" }));
    }
    app.stop().await;
}
