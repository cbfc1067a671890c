//! Sessions that are cut: by the service as it stops, by the client, by the database.

use std::time::Duration;

use serde_json::json;

use super::{AppendSession, counted, message, numbers, until_it_waits_for_a_lock};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

const APPEND: &str = "headwater.append_batch";

#[tokio::test]
async fn a_service_that_stops_answers_what_is_under_way_and_says_where_it_ended() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut idle = AppendSession::open(&app, "idle-1").await;
    idle.write([&message(0)]).await;
    idle.committed(1).await;
    let mut busy = AppendSession::open(&app, "held-1").await;
    let (client, observer) = (database.connect().await, database.connect().await);
    client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1')").await.unwrap();
    busy.write([&message(0)]).await;
    until_it_waits_for_a_lock(&observer).await;
    busy.write([&message(1), &message(2)]).await;
    app.drain();
    let problem = idle.refused_after(0, 503, "draining").await;
    assert_eq!(problem["line"], 2);
    client.batch_execute("COMMIT").await.unwrap();
    let problem = busy.refused_after(1, 503, "draining").await;
    assert_eq!(problem["line"], 2);
    assert_eq!(numbers(&database, "held-1").await, [0]);
    tokio::time::timeout(PATIENCE, app.stop()).await.expect("sessions do not hold up the stop");
}

#[tokio::test]
async fn of_a_client_that_goes_away_a_part_from_the_beginning_is_written() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for round in 0..10 {
        let stream = format!("gone-{round}");
        let mut session = AppendSession::open(&app, &stream).await;
        session.write(&(0..500).map(message).collect::<Vec<_>>()).await;
        if round % 2 == 0 {
            session.committed(1).await;
        }
        session.send(r#"{"type":"T","data":{"n":500"#).await;
        match round % 3 {
            0 => drop(session),
            1 => session.break_off().await,
            _ => {
                session.end();
                drop(session.rest().await);
            }
        }
    }
    let ended = async {
        while app.metric("headwater_append_sessions").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the service notices");
    // Whatever was under way is done when the queue is.
    app.write("last-1", "T", json!({})).await;
    for round in 0..10 {
        let numbers = numbers(&database, &format!("gone-{round}")).await;
        assert!(numbers.len() <= 500);
        assert_eq!(numbers, (0..numbers.len() as i64).collect::<Vec<_>>());
    }
    app.stop().await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_looked_up_and_the_session_goes_on() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut session = AppendSession::open(&app, "a-1").await;
    let mut first = message(0);
    first["expected_version"] = json!(-1);
    session.write([&first]).await;
    session.committed(1).await;
    for round in 1..6 {
        // Another connection is set up by this, and not by what is to be lost.
        app.write("next-1", "T", json!({})).await;
        proxy.lose_answers_of(APPEND, 1);
        session.write([&message(2 * round - 1), &message(2 * round)]).await;
        let commits = session.committed(2).await;
        assert!(commits.iter().all(|commit| commit["duplicate"] == false), "{commits:?}");
    }
    assert!(proxy.lost_answers() >= 5);
    session.end();
    assert_eq!(session.line().await, None);
    assert_eq!(numbers(&database, "a-1").await, (0..11).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_outage_ends_the_session_with_what_is_known() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_resolve_timeout = Duration::from_millis(500)).await;
    let key = [("idempotency-key", "k")];
    let mut session = AppendSession::with(&app, "a-1", &key).await;
    session.write([&message(0), &message(1)]).await;
    session.committed(2).await;
    // The answer is lost, and nobody can be asked.
    app.write("next-1", "T", json!({})).await;
    proxy.lose_answers_of(APPEND, 1);
    proxy.refuse(true);
    session.write([&message(2), &message(3)]).await;
    let problem = session.refused_after(0, 503, "database-unavailable").await;
    assert_eq!((&problem["outcome"], &problem["line"]), (&json!("unknown"), &json!(3)));
    assert_eq!(problem["message_ids"].as_array().unwrap().len(), 2);
    let mut session = AppendSession::with(&app, "a-1", &key).await;
    session.write([&message(0)]).await;
    let problem = session.refused_after(0, 503, "database-unavailable").await;
    assert_eq!((&problem["outcome"], &problem["line"]), (&json!("not_written"), &json!(1)));
    proxy.restore();
    // Sent again from its beginning, it is whole.
    let begun = std::time::Instant::now();
    loop {
        let mut session = AppendSession::with(&app, "a-1", &key).await;
        session.write(&(0..6).map(message).collect::<Vec<_>>()).await;
        session.end();
        let lines = session.rest().await;
        if lines.iter().all(|line| line["count"].is_u64()) {
            assert_eq!(counted(&lines), 6);
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{lines:?}");
    }
    assert_eq!(numbers(&database, "a-1").await, (0..6).collect::<Vec<_>>());
}
