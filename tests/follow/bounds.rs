//! Heartbeats, followers that fall behind, places for followers, and how a stream ends.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{SOURCES, with};
use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::sql_writer;

#[tokio::test]
async fn a_quiet_stream_has_heartbeats_that_say_how_far_the_log_is() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for _ in 0..3 {
        app.write("a-1", "Written", json!({})).await;
    }
    let mut stream = app.follow("/v1/streams/a-1/events?heartbeat=1s").await;
    let mut all = app.follow("/v1/all/events?heartbeat=1s").await;
    stream.next("caught-up").await;
    all.next("caught-up").await;
    for (events, cursor) in [(&mut stream, "2"), (&mut all, "3")] {
        for _ in 0..2 {
            let beat = events.next_event().await;
            assert!(beat.is("heartbeat"), "{beat:?}");
            assert_eq!(beat.json(), json!({ "head": 3, "settled": 3, "lag": 0 }));
            assert_eq!(beat.place(), Some(cursor));
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_busy_stream_has_no_heartbeats() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut quiet = app.follow("/v1/streams/quiet-1/events?heartbeat=1s").await;
    let mut before = Instant::now();
    let mut busy = app.follow("/v1/streams/busy-1/events?heartbeat=1s").await;
    busy.next("caught-up").await;
    quiet.next("caught-up").await;
    // As long as the quiet one has two heartbeats, the busy one has a message every few milliseconds.
    let beats = async {
        quiet.next("heartbeat").await;
        quiet.next("heartbeat").await;
    };
    tokio::pin!(beats);
    loop {
        let begun = Instant::now();
        tokio::select! {
            () = &mut beats => break,
            _ = app.write("busy-1", "Written", json!({})) => {
                let mut event = busy.next_event().await;
                // Where a write took as long as a heartbeat, the stream was quiet.
                while event.is("heartbeat") && before.elapsed() >= Duration::from_secs(1) {
                    event = busy.next_event().await;
                }
                before = begun;
                assert!(event.is("message"), "{event:?}");
            }
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_follower_that_falls_behind_is_told_and_catches_up_without_gap_or_repeat() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.cache_bytes_max = 64 << 10).await;
    let mut followers = Vec::new();
    for path in ["/v1/streams/a-1/events", "/v1/categories/a/events", "/v1/all/events", "/v1/events?stream_name=a-1"] {
        // One that waits to be read for longer than its heartbeat is told that it is still there.
        let mut events = app.follow(&with(path, "heartbeat=300s")).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    // More than all buffers between the service and a client that does not read.
    let text = "x".repeat(64 << 10);
    let mut last = 0;
    for _ in 0..12 {
        let messages: Vec<Value> = (0..40).map(|_| json!({ "type": "Large", "data": { "text": text } })).collect();
        let answer = app.append("a-1", &json!({ "messages": messages })).await.json();
        last = answer["messages"][39]["global_position"].as_i64().expect("it is written");
    }
    let expected = sql_writer::standing(&database.connect().await, "true").await;
    for mut events in followers {
        let mut seen = Vec::new();
        let mut names = Vec::new();
        while seen.last() != Some(&last) || names.last() != Some(&"caught-up") {
            let event = events.next_event().await;
            match event.name.as_deref() {
                Some("message") => seen.push(position_of(&event)),
                Some("fell-behind") => {
                    // Its id is a cursor like any other: after everything that was sent.
                    assert_eq!(event.place(), Some(event.json()["position"].to_string().as_str()));
                    names.push("fell-behind");
                }
                Some("caught-up") => names.push("caught-up"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, expected);
        assert!(names.len() >= 2 && names.chunks(2).all(|pair| pair == ["fell-behind", "caught-up"]), "{names:?}");
    }
    assert!(app.metric("headwater_followers_fell_behind_total").await >= 4.0);
    assert!(app.metric("headwater_cache_bytes").await <= f64::from(64 << 10));
    app.stop().await;
}

#[tokio::test]
async fn one_follower_too_many_is_refused_and_a_place_is_given_back() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.followers_max = 3).await;
    let is_full = async || Answer::of(app.http.get(format!("{}/v1/all/events", app.url)).send().await.unwrap()).await;
    let mut open: Vec<Events> = Vec::new();
    for round in 0..3 {
        while open.len() < 3 {
            let mut events = app.follow(SOURCES[open.len()].0).await;
            events.next("caught-up").await;
            open.push(events);
        }
        let answer = is_full().await;
        answer.problem(503, "overloaded");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(app.metric("headwater_followers").await, 3.0);
        // It just goes, without a word.
        let mut watcher = app.service.observer.watch();
        drop(open.remove(round % 3));
        TestApp::observed(&mut watcher, "the follower to leave", |what| {
            matches!(what, headwater::domain::observation::Observation::FollowerLeft)
        })
        .await;
    }
    // A request that is refused for another reason takes no place.
    for _ in 0..5 {
        app.get("/v1/all/events?last_event_id=1000").await.problem(409, "history-changed");
    }
    let mut events = app.follow("/v1/all/events").await;
    events.next("caught-up").await;
    assert!(app.metric("headwater_followers_refused_total").await >= 3.0);
    drop((open, events));
    app.stop().await;
}

#[tokio::test]
async fn stopping_says_goodbye_with_a_spread_out_retry_and_ends_every_stream() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let last = app.write("a-1", "Written", json!({})).await;
    let mut followers = Vec::new();
    for number in 0..18 {
        let (path, _) = SOURCES[number % SOURCES.len()];
        let mut events = app.follow(path).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    app.drain();
    let mut delays = HashSet::new();
    for (number, mut events) in followers.into_iter().enumerate() {
        let retry = events.next_block(PATIENCE).await.unwrap();
        delays.insert(retry.retry.expect("the client is told when to come back"));
        let closing = events.next_block(PATIENCE).await.unwrap();
        assert!(closing.is("closing"), "{closing:?}");
        assert_eq!(closing.json(), json!({ "reason": "draining" }));
        let cursor = if number % SOURCES.len() == 0 { 0 } else { last };
        assert_eq!(closing.place(), Some(cursor.to_string().as_str()));
        assert_eq!(events.next_block(PATIENCE).await, None);
    }
    assert!(delays.iter().all(|delay| (1_000..=6_000).contains(delay)), "{delays:?}");
    assert!(delays.iter().max().unwrap() - delays.iter().min().unwrap() > 1_000, "{delays:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_keep_the_service_from_stopping() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.drain_timeout = Duration::from_secs(1)).await;
    let mut events = app.follow("/v1/all/events").await;
    events.next("caught-up").await;
    let text = "x".repeat(512 << 10);
    for _ in 0..40 {
        app.write("a-1", "Large", json!({ "text": text })).await;
    }
    tokio::time::timeout(PATIENCE, app.stop()).await.expect("it stops");
    drop(events);
}
