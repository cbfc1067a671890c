//! Append sessions: a message a line in, a line out for each commit, in order, over one connection.

mod cut;
mod input;
mod sent_again;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::append_session::{AppendSession, counted};
use crate::support::database::TestDatabase;

async fn app() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    (database, app)
}

fn message(n: usize) -> Value {
    json!({ "type": "T", "data": { "n": n } })
}

/// The numbers in the data of a stream's messages, in order.
async fn numbers(database: &TestDatabase, stream: &str) -> Vec<i64> {
    let sql = "SELECT (data->>'n')::bigint FROM message_store.messages WHERE stream_name = $1 ORDER BY position";
    let rows = database.connect().await.query(sql, &[&stream]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until a statement of the service waits for a lock.
async fn until_it_waits_for_a_lock(client: &tokio_postgres::Client) {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'headwater' AND wait_event_type = 'Lock')";
    let waiting = async {
        while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the service waits for a lock");
}

#[tokio::test]
async fn each_commit_is_answered_while_the_body_goes_on() {
    let (_database, app) = app().await;
    let mut events = app.follow("/v1/streams/a-1/events?from=beginning").await;
    let mut session = AppendSession::open(&app, "a-1").await;
    assert_eq!((session.status, &session.headers["content-type"]), (200, &"application/x-ndjson".parse().unwrap()));
    for n in 0..5 {
        session.write([&message(n)]).await;
        let commit = session.line().await.unwrap();
        assert_eq!((&commit["count"], &commit["version"], &commit["duplicate"]), (&json!(1), &json!(n), &json!(false)));
        let followed = &events.messages(1).await[0];
        for key in ["id", "position", "global_position", "time"] {
            assert_eq!(commit["first"][key], followed[key]);
        }
        assert_eq!(followed["data"]["n"], n);
    }
    session.end();
    assert_eq!(session.line().await, None);
    app.stop().await;
}

#[tokio::test]
async fn what_comes_together_is_in_few_commits_and_all_is_in_order() {
    let (database, app) = app().await;
    let mut session = AppendSession::open(&app, "a-1").await;
    let messages: Vec<Value> = (0..5_000).map(message).collect();
    let sending = async {
        for chunk in messages.chunks(700) {
            session.send(chunk.iter().map(|message| format!("{message}\n")).collect::<String>()).await;
        }
    };
    sending.await;
    session.end();
    let commits = session.rest().await;
    assert_eq!(counted(&commits), 5_000);
    assert!(commits.len() < 500, "{} commits", commits.len());
    let mut version = -1;
    for commit in &commits {
        assert_eq!(commit["first"]["position"], version + 1);
        version += commit["count"].as_i64().unwrap();
        assert_eq!(commit["version"], version);
    }
    assert_eq!(numbers(&database, "a-1").await, (0..5_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_session_works_the_same_over_http_2() {
    let (database, app) = app().await;
    let http = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut sessions = Vec::new();
    for n in 0..3 {
        sessions.push(AppendSession::by(&http, &app, &format!("a-{n}"), &[]).await);
    }
    for round in 0..3 {
        for session in &mut sessions {
            session.write([&message(round)]).await;
            assert_eq!(session.line().await.unwrap()["version"], round);
        }
    }
    for (n, session) in sessions.iter_mut().enumerate() {
        session.send("no JSON\n").await;
        assert_eq!(session.refused_after(0, 400, "malformed-request").await["line"], 4);
        assert_eq!(numbers(&database, &format!("a-{n}")).await, [0, 1, 2]);
    }
}

#[tokio::test]
async fn expected_version_is_carried_on_so_that_nobody_gets_in_between() {
    let (database, app) = app().await;
    let first = json!({ "type": "T", "data": { "n": 0 }, "expected_version": -1 });
    let mut session = AppendSession::open(&app, "a-1").await;
    session.write([&first]).await;
    session.committed(1).await;
    session.write([&message(1), &message(2)]).await;
    session.committed(2).await;
    app.write("a-1", "T", json!({ "n": 100 })).await;
    session.write([&message(3)]).await;
    let problem = session.refused_after(0, 409, "wrong-expected-version").await;
    let facts = (&problem["expected_version"], &problem["current_version"], &problem["line"]);
    assert_eq!(facts, (&json!(2), &json!(3), &json!(4)), "{problem}");
    // The rest is read, and not written.
    session.write([&message(4)]).await;
    session.end();
    assert_eq!(numbers(&database, "a-1").await, [0, 1, 2, 100]);

    let mut session = AppendSession::open(&app, "a-1").await;
    session.write([&json!({ "type": "T", "expected_version": 2 }), &message(1)]).await;
    assert_eq!(session.refused_after(0, 409, "wrong-expected-version").await["line"], 1);
    let mut session = AppendSession::open(&app, "a-2").await;
    session.write([&json!({ "type": "T", "must_exist": true })]).await;
    session.refused_after(0, 409, "wrong-expected-version").await;
    let mut session = AppendSession::open(&app, "a-1").await;
    session.write([&json!({ "type": "T", "data": { "n": 5 }, "must_exist": true, "expected_version": 3 })]).await;
    session.committed(1).await;
    session.end();
    assert_eq!(numbers(&database, "a-1").await, [0, 1, 2, 100, 5]);
}

#[tokio::test]
async fn without_an_expected_version_others_may_write_in_between_and_each_keeps_its_order() {
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    let sessions = (0..6_usize).map(|n| {
        let app = if n % 2 == 0 { &app } else { &other };
        async move {
            let mut session = AppendSession::open(app, "race-1").await;
            let mut committed = 0;
            for round in 0..40 {
                let count = fastrand::usize(1..30);
                let messages: Vec<Value> = (0..count).map(|at| message(n * 1_000_000 + round * 1_000 + at)).collect();
                session.write(&messages).await;
                if fastrand::bool() {
                    committed += counted(&session.committed(1).await);
                }
                if n == 0 {
                    app.write("race-1", "T", json!({ "n": 9_000_000 + round })).await;
                }
            }
            session.end();
            committed + counted(&session.rest().await)
        }
    });
    let counts = join_all(sessions).await;
    let numbers = numbers(&database, "race-1").await;
    for (n, count) in counts.into_iter().enumerate() {
        let own: Vec<_> = numbers.iter().filter(|number| **number / 1_000_000 == n as i64).collect();
        assert_eq!(own.len() as u64, count);
        assert!(own.is_sorted(), "session {n}");
    }
    let dense = "SELECT max(position) + 1 = count(*) FROM message_store.messages";
    assert!(database.connect().await.query_one(dense, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_session_that_idles_stays_and_one_that_idles_amid_a_line_does_not() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.request_timeout = Duration::from_millis(300)).await;
    let mut session = AppendSession::open(&app, "a-1").await;
    for n in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        session.write([&message(n)]).await;
        session.committed(1).await;
    }
    session.write([&message(2)]).await;
    session.send(r#"{"type":"#).await;
    let problem = session.refused_after(1, 408, "request-timeout").await;
    assert_eq!(problem["line"], 4, "{problem}");
    assert_eq!(numbers(&database, "a-1").await, [0, 1, 2]);
}

#[tokio::test]
async fn a_client_is_read_no_faster_than_its_messages_are_written() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_secs(60)).await;
    let client = database.connect().await;
    client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1')").await.unwrap();
    let mut session = AppendSession::open(&app, "held-1").await;
    // More than what sockets and the service hold together.
    let large = json!({ "type": "T", "data": { "n": 1, "text": "x".repeat(500_000) } });
    let line = bytes::Bytes::from(format!("{large}\n"));
    let sending = async {
        for _ in 0..120 {
            session.send(line.clone()).await;
        }
    };
    let observer = database.connect().await;
    let holding = async {
        until_it_waits_for_a_lock(&observer).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let mut sending = Box::pin(sending);
    tokio::select! {
        biased;
        () = &mut sending => panic!("60 MB were taken, and nothing could be written"),
        () = holding => {}
    }
    client.batch_execute("COMMIT").await.unwrap();
    sending.await;
    session.end();
    assert_eq!(counted(&session.rest().await), 120);
}

#[tokio::test]
async fn sessions_wait_for_room_in_the_queue_where_requests_are_refused() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.append_queue_max = 1;
        settings.append_queue_bytes_max = 65_536;
    })
    .await;
    let data = "x".repeat(30_000);
    let sessions = (0..20).map(|n| {
        let (app, data) = (&app, &data);
        async move {
            let mut session = AppendSession::open(app, &format!("a-{n}")).await;
            for _ in 0..5 {
                session.write([&json!({ "type": "T", "data": data })]).await;
            }
            session.end();
            counted(&session.rest().await)
        }
    });
    assert_eq!(join_all(sessions).await, [5; 20]);
}

#[tokio::test]
async fn there_are_as_many_sessions_as_may_be_and_one_that_ends_makes_room() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_sessions_max = 2).await;
    let mut first = AppendSession::open(&app, "a-1").await;
    let second = AppendSession::open(&app, "a-2").await;
    assert_eq!(app.metric("headwater_append_sessions").await, 2.0);
    let lines = app.http.post(format!("{}/v1/streams/a-3/messages", app.url));
    let refused = lines.header("content-type", "application/x-ndjson").body("{\"type\":\"T\"}\n").send().await.unwrap();
    Answer::of(refused).await.problem(503, "overloaded");
    first.end();
    assert_eq!(first.line().await, None);
    drop(second);
    let ended = async {
        while app.metric("headwater_append_sessions").await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("both have ended");
    let mut third = AppendSession::open(&app, "a-3").await;
    third.write([&message(0)]).await;
    third.committed(1).await;
}
