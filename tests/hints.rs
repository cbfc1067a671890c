//! Hints may be lost, late or silent: messages come all the same.

use std::time::{Duration, Instant};

use headwater::domain::observation::Observation;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio_postgres::Client;

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::proxy::FaultProxy;
use crate::support::sql_writer;
use crate::support::waiting::until;

/// The promise: no message later than this after its commit, whatever becomes of hints.
const LATEST: Duration = Duration::from_millis(1_500);

/// By a poll messages come long before a listener that has fallen silent is replaced.
fn often(settings: &mut headwater::config::Settings) {
    settings.poll_interval = Duration::from_millis(250);
}

/// Writes beside the service, and asserts when its followers have it.
async fn comes_in_time(sql: &Client, followers: &mut [Events]) {
    sql_writer::write(sql, "a-1", "{}").await;
    is_delivered_in_time(sql, followers).await;
}

async fn is_delivered_in_time(sql: &Client, followers: &mut [Events]) {
    let committed = Instant::now();
    let position = sql_writer::standing(sql, "stream_name = 'a-1'").await.pop().unwrap();
    for events in followers {
        assert_eq!(position_of(&events.next("message").await), position);
        assert!(committed.elapsed() < LATEST, "{:?}", committed.elapsed());
    }
}

async fn followers(app: &TestApp) -> Vec<Events> {
    let mut followers = Vec::new();
    for path in ["/v1/streams/a-1/events", "/v1/categories/a/events", "/v1/all/events"] {
        let mut events = app.follow(path).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    followers
}

async fn listener_up(watcher: &mut Receiver<Observation>) {
    TestApp::observed(watcher, "the listener to be up", |what| matches!(what, Observation::ListenerUp)).await;
}

async fn listener_down(watcher: &mut Receiver<Observation>) {
    TestApp::observed(watcher, "the listener to be down", |what| matches!(what, Observation::ListenerDown { .. }))
        .await;
}

/// Waits until the first connection for hints is there.
async fn until_it_listens(app: &TestApp) {
    while app.metric("headwater_listener_up").await != 1.0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_message_that_nobody_told_of_is_not_late() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::with(&database.url, often).await;
    let mut followers = followers(&app).await;
    sql.batch_execute("SET message_store.notify = off").await.unwrap();
    for _ in 0..2 {
        comes_in_time(&sql, &mut followers).await;
        sql_writer::insert(&sql, "a-1", "Raw", "{}").await;
        is_delivered_in_time(&sql, &mut followers).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_cut_listening_connection_makes_no_message_late_and_comes_back() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, often).await;
    let mut followers = followers(&app).await;
    until_it_listens(&app).await;
    for round in 1..=3 {
        let mut watcher = app.service.observer.watch();
        let links = proxy.links_that_sent("LISTEN");
        assert_eq!(links.len(), 1, "an instance listens once");
        links[0].cut();
        comes_in_time(&sql, &mut followers).await;
        listener_down(&mut watcher).await;
        listener_up(&mut watcher).await;
        assert_eq!(app.metric("headwater_listener_lost_total").await, f64::from(round));
        comes_in_time(&sql, &mut followers).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_silent_listening_connection_makes_no_message_late_and_is_replaced() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, often).await;
    let mut followers = followers(&app).await;
    until_it_listens(&app).await;
    let mut watcher = app.service.observer.watch();
    proxy.links_that_sent("LISTEN")[0].silence();
    let silent_since = Instant::now();
    comes_in_time(&sql, &mut followers).await;
    comes_in_time(&sql, &mut followers).await;
    listener_down(&mut watcher).await;
    listener_up(&mut watcher).await;
    // A heartbeat and its timeout, a second each, and the way back.
    assert!(silent_since.elapsed() < Duration::from_secs(8), "{:?}", silent_since.elapsed());
    comes_in_time(&sql, &mut followers).await;
    app.stop().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_while_the_listener_connects_is_given_up() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| {
        settings.database_connect_timeout = Duration::from_secs(1);
        often(settings);
    })
    .await;
    let mut followers = followers(&app).await;
    until_it_listens(&app).await;
    let mut watcher = app.service.observer.watch();
    proxy.silence_when_sent(Some("LISTEN"));
    proxy.links_that_sent("LISTEN")[0].cut();
    listener_down(&mut watcher).await;
    until("it has tried to listen again", PATIENCE, || !proxy.links_that_sent("LISTEN").is_empty()).await;
    proxy.silence_when_sent(None);
    comes_in_time(&sql, &mut followers).await;
    listener_up(&mut watcher).await;
    app.stop().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_while_the_tail_connects_is_given_up() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| {
        settings.database_connect_timeout = Duration::from_secs(1);
    })
    .await;
    let mut followers = followers(&app).await;
    // The first statement of the tail's connection, and of the pool's.
    proxy.silence_when_sent(Some("SET enable_seqscan"));
    proxy.cut_all();
    until("it has tried again", PATIENCE, || !proxy.links_that_sent("SET enable_seqscan").is_empty()).await;
    proxy.silence_when_sent(None);
    let position = sql_writer::write(&sql, "a-1", "{}").await;
    for events in &mut followers {
        assert_eq!(position_of(&events.next("message").await), position);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_while_appends_connect_is_given_up() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| {
        settings.database_connect_timeout = Duration::from_secs(1);
    })
    .await;
    proxy.silence_when_sent(Some("SET lock_timeout"));
    let body = json!({ "messages": [{ "type": "T", "data": {} }] });
    let answer = tokio::time::timeout(PATIENCE, app.append("a-1", &body)).await.expect("an answer comes");
    answer.problem(503, "database-unavailable");
    proxy.silence_when_sent(None);
    // It is told at once that the database was away a moment ago, until the next attempt is due.
    while app.append("a-1", &body).await.status != 201 {
        tokio::task::yield_now().await;
    }
    app.stop().await;
}

#[tokio::test]
async fn all_connections_cut_again_and_again_followers_miss_and_repeat_nothing() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.cache_bytes_max = 64 << 10).await;
    let mut followers = followers(&app).await;
    let mut writing = tokio::spawn({
        let sql = database.connect().await;
        async move {
            for n in 0..600 {
                sql_writer::write(&sql, "a-1", &format!("{{\"text\": \"{}\"}}", "x".repeat(n))).await;
                if n % 5 == 0 {
                    sql_writer::roll_back_one(&sql).await;
                }
            }
        }
    });
    loop {
        // Each time they have something to read, the next cut comes.
        proxy.cut_all();
        tokio::select! {
            biased;
            written = &mut writing => break written.unwrap(),
            _ = followers[2].next("message") => {}
        }
    }
    let expected = sql_writer::standing(&database.connect().await, "true").await;
    let last = *expected.last().unwrap();
    for events in &mut followers[..2] {
        assert_eq!(events.positions_until(last).await, expected);
    }
    app.stop().await;
}

#[tokio::test]
async fn postgresql_may_be_away_for_a_while_and_followers_stay() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut expected = Vec::new();
    let mut live = Vec::new();
    for path in ["/v1/streams/a-1/events?heartbeat=1s", "/v1/all/events?heartbeat=1s"] {
        let mut events = app.follow(path).await;
        events.next("caught-up").await;
        live.push(events);
    }
    let before = app.write("a-1", "Before", json!({})).await;
    // Told, and so settled, before the database goes.
    for events in &mut live {
        assert_eq!(position_of(&events.next("message").await), before);
    }
    proxy.take_away();
    for n in 0..5 {
        expected.push(sql_writer::write(&sql, "a-1", "{}").await);
        for events in &mut live {
            let beat = events.next("heartbeat").await;
            assert_eq!(beat.json()["settled"], before, "heartbeat {n}");
        }
    }
    app.append("a-1", &json!({ "messages": [{ "type": "T", "data": {} }] })).await.problem(503, "database-unavailable");
    proxy.restore();
    let restored = Instant::now();
    for events in &mut live {
        assert_eq!(events.positions_until(*expected.last().unwrap()).await, expected);
    }
    assert!(restored.elapsed() < Duration::from_secs(5), "{:?}", restored.elapsed());
    // Appends are told for a moment more that the database was away; nothing is written then.
    let body = json!({ "messages": [{ "type": "After", "data": {} }] });
    let after = loop {
        let answer = app.append("a-1", &body).await;
        if answer.status == 201 {
            break answer.json()["messages"][0]["global_position"].as_i64().unwrap();
        }
        answer.problem(503, "database-unavailable");
        assert!(restored.elapsed() < Duration::from_secs(5), "{:?}", restored.elapsed());
    };
    for events in &mut live {
        assert_eq!(position_of(&events.next("message").await), after);
    }
    app.stop().await;
}

#[tokio::test]
async fn instances_tell_each_other_at_once() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    // So rarely that only a hint can have done it.
    let rarely = |settings: &mut headwater::config::Settings| settings.poll_interval = Duration::from_secs(30);
    let one = TestApp::with(&database.url, rarely).await;
    let other = TestApp::with(&database.url, rarely).await;
    until_it_listens(&one).await;
    until_it_listens(&other).await;
    let mut followers = followers(&other).await;
    for _ in 0..20 {
        let written = Instant::now();
        let position = one.write("a-1", "Written", json!({})).await;
        for events in &mut followers {
            assert_eq!(position_of(&events.next("message").await), position);
        }
        assert!(written.elapsed() < LATEST, "{:?}", written.elapsed());
        comes_in_time(&sql, &mut followers).await;
    }
    // A burst: the last hint is the one that counts.
    let mut last = 0;
    for n in 0..200 {
        last = one.write(&format!("a-{n}"), "Written", json!({})).await;
    }
    followers[2].positions_until(last).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn rows_that_vanish_behind_an_open_number_do_not_keep_the_tail_busy() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut all = app.follow("/v1/all/events?heartbeat=1s").await;
    all.next("caught-up").await;
    let idle = database.connect().await;
    idle.batch_execute("BEGIN").await.unwrap();
    sql_writer::insert(&idle, "slow-1", "Late", "{}").await;
    let mut watcher = app.service.observer.watch();
    let gone = app.write("a-1", "Written", json!({})).await;
    TestApp::observed(&mut watcher, "the tail to wait", |what| matches!(what, Observation::HeldBack { .. })).await;
    sql.execute("DELETE FROM message_store.messages WHERE global_position = $1", &[&gone]).await.unwrap();
    idle.batch_execute("ROLLBACK").await.unwrap();
    TestApp::observed(&mut watcher, "the tail to go on", |what| matches!(what, Observation::Released { .. })).await;
    all.next("heartbeat").await;
    let looks = || proxy.links_that_sent("m.global_position > $1").iter().map(|link| link.sent_bytes()).sum::<usize>();
    let before = looks();
    all.next("heartbeat").await;
    // A look a second is some hundred bytes.
    assert!(looks() - before < 10_000, "{} bytes of questions in a second or two", looks() - before);
    app.stop().await;
}
