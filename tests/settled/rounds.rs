//! Rounds of many writers that commit and roll back in any order, seen from two instances.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::seeds::{SEED_VARIABLE, seeds};
use crate::support::sql_writer;

const SQL_WRITERS: u64 = 16;
const HTTP_WRITERS: u64 = 4;
const MESSAGES_EACH: usize = 120;
const CATEGORIES: u64 = 6;

/// A connection that writes in transactions of one to three messages; some wait before they end, some roll back.
async fn write_in_sql(database_url: String, mut rng: Rng, number: u64) {
    let client = crate::support::database::connect(&database_url).await;
    let mut written = 0;
    while written < MESSAGES_EACH {
        client.batch_execute("BEGIN").await.unwrap();
        let is_raw = rng.u8(..3) == 0;
        // One category a transaction, as two would be locked in any order.
        let category = if is_raw { format!("raw{number}") } else { format!("c{}", rng.u64(..CATEGORIES)) };
        for _ in 0..rng.usize(1..=3) {
            let stream = format!("{category}-{}", rng.u8(..4));
            if is_raw {
                sql_writer::insert(&client, &stream, "Raw", "{}").await;
            } else {
                sql_writer::write(&client, &stream, "{}").await;
            }
            written += 1;
            if rng.u8(..4) == 0 {
                tokio::time::sleep(Duration::from_micros(rng.u64(..4_000))).await;
            }
        }
        client.batch_execute(if rng.u8(..5) == 0 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
    }
}

async fn write_over_http(http: reqwest::Client, url: String, mut rng: Rng) {
    for _ in 0..MESSAGES_EACH {
        let stream = format!("c{}-{}", rng.u64(..CATEGORIES), rng.u8(..4));
        let messages: Vec<_> = (0..rng.usize(1..=3)).map(|_| json!({ "type": "Posted", "data": {} })).collect();
        let request = http.post(format!("{url}/v1/streams/{stream}/messages")).json(&json!({ "messages": messages }));
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
}

/// What one follower is to see, as a path and as a condition in SQL. `end-0` ends every one of them.
fn sources() -> Vec<(String, String)> {
    let category = "message_store.category(stream_name)";
    let mut sources = vec![
        ("/v1/all/events?".to_owned(), "true".to_owned()),
        (
            "/v1/events?category=c1&category=raw3&category=end&stream_name=c2-1&".to_owned(),
            format!("{category} IN ('c1', 'raw3', 'end') OR stream_name = 'c2-1'"),
        ),
    ];
    for name in ["c0", "c5", "raw0", "raw9"] {
        let path = format!("/v1/events?category={name}&category=end&");
        sources.push((path, format!("{category} IN ('{name}', 'end')")));
    }
    sources
}

#[tokio::test]
async fn followers_on_every_instance_see_every_committed_message_once_and_in_order() {
    let seed = seeds(1).next().unwrap();
    let mut rng = Rng::with_seed(seed);
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let apps = [TestApp::on(&database).await, TestApp::with(&database.url, |s| s.cache_bytes_max = 64 << 10).await];
    let mut followers: Vec<(Events, String)> = Vec::new();
    for app in &apps {
        for (path, condition) in sources() {
            followers.push((app.follow(&format!("{path}from=beginning")).await, condition));
        }
    }
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..SQL_WRITERS {
        writers.spawn(write_in_sql(database.url.clone(), rng.fork(), number));
    }
    for number in 0..HTTP_WRITERS {
        let app = &apps[number as usize % apps.len()];
        writers.spawn(write_over_http(app.http.clone(), app.url.clone(), rng.fork()));
    }
    let mut ended = 0;
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
        ended += 1;
        // While the others write, more come, each somewhere else in its life.
        if ended % 5 == 0 {
            let (path, condition) = sources().swap_remove(rng.usize(..sources().len()));
            followers.push((apps[rng.usize(..2)].follow(&format!("{path}from=beginning")).await, condition));
        }
    }
    let last = apps[0].write("end-0", "End", json!({})).await;
    let committed = sql_writer::standing(&sql, "true").await.len();
    assert!(committed < last as usize, "some were rolled back");
    for (mut events, condition) in followers {
        let expected = sql_writer::standing(&sql, &condition).await;
        assert_eq!(events.positions_until(last).await, expected, "{SEED_VARIABLE}={seed} {condition}");
    }
    for app in apps {
        assert_eq!(app.metric("headwater_written_behind_total").await, 0.0, "{SEED_VARIABLE}={seed}");
        app.stop().await;
    }
}
