//! A session that is sent again: what it wrote the first time is recognised, wherever it was cut.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{AppendSession, app, counted, message, numbers};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

/// Sends these messages as one session and gives the commits.
async fn send(app: &TestApp, stream: &str, headers: &[(&str, &str)], messages: &[Value]) -> Vec<Value> {
    let mut session = AppendSession::with(app, stream, headers).await;
    session.write(messages).await;
    session.end();
    session.rest().await
}

fn duplicates(commits: &[Value]) -> u64 {
    counted(&commits.iter().filter(|commit| commit["duplicate"] == true).cloned().collect::<Vec<_>>())
}

#[tokio::test]
async fn by_its_key_a_session_is_recognised_however_it_is_cut() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let small = TestApp::with(&database.url, |settings| settings.append_session_messages_max = 7).await;
    let key = [("idempotency-key", "import 1")];
    let mut messages: Vec<Value> = (0..400).map(message).collect();
    messages[0]["expected_version"] = json!(-1);
    let mut written = 0;
    for (round, count) in [13, 13, 100, 90, 333, 400, 400].into_iter().enumerate() {
        let app = if round % 2 == 0 { &app } else { &small };
        let commits = send(app, "a-1", &key, &messages[..count]).await;
        assert_eq!(counted(&commits), count as u64, "{commits:?}");
        assert_eq!(duplicates(&commits), written.min(count) as u64, "{commits:?}");
        assert_eq!(commits.last().unwrap()["version"], count - 1);
        written = written.max(count);
        assert_eq!(numbers(&database, "a-1").await, (0..written as i64).collect::<Vec<_>>());
    }
    // The same key in another stream is another session, and so is another key.
    assert_eq!(duplicates(&send(&app, "a-2", &key, &messages[..10]).await), 0);
    // A request with the key and the same messages is the same, too.
    let path = format!("{}/v1/streams/a-2/messages", app.url);
    let body = json!({ "messages": (0..10).map(message).collect::<Vec<_>>() });
    assert_eq!(app.http.post(path).header(key[0].0, key[0].1).json(&body).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn by_its_ids_a_session_is_recognised_and_goes_on_where_it_ended() {
    let (database, app) = app().await;
    let with_id = |n| json!({ "id": Uuid::new_v4(), "type": "T", "data": { "n": n } });
    let messages: Vec<Value> = (0..120).map(with_id).collect();
    assert_eq!(duplicates(&send(&app, "a-1", &[], &messages[..77]).await), 0);
    app.write("a-1", "T", json!({ "n": 1_000 })).await;
    let commits = send(&app, "a-1", &[], &messages).await;
    assert_eq!((counted(&commits), duplicates(&commits)), (120, 77), "{commits:?}");
    let expected: Vec<i64> = (0..77).chain([1_000]).chain(77..120).collect();
    assert_eq!(numbers(&database, "a-1").await, expected);
}

#[tokio::test]
async fn an_id_that_is_used_for_something_else_is_refused_on_its_own_line() {
    let (database, app) = app().await;
    let used = Uuid::new_v4();
    let answer = app.append("b-1", &json!({ "messages": [{ "type": "T", "id": used, "data": { "n": 7 } }] })).await;
    assert_eq!(answer.status, 201);
    for at in [0, 1, 50, 99] {
        let stream = format!("a-{at}");
        let mut messages: Vec<Value> = (0..100).map(message).collect();
        messages[at]["id"] = json!(used);
        let mut session = AppendSession::open(&app, &stream).await;
        session.write(&messages).await;
        let problem = session.refused_after(at as u64, 409, "message-id-reused").await;
        let facts = (&problem["line"], &problem["message_id"], &problem["stream_name"]);
        assert_eq!(facts, (&json!(at + 1), &json!(used), &json!("b-1")));
        assert_eq!(numbers(&database, &stream).await, (0..at as i64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_id_that_is_there_twice_is_written_once() {
    let (database, app) = app().await;
    let twin = json!({ "id": Uuid::new_v4(), "type": "T", "data": { "n": 1 } });
    let mut session = AppendSession::open(&app, "a-1").await;
    session.write([&message(0), &twin, &twin, &message(2)]).await;
    session.end();
    let commits = session.rest().await;
    assert_eq!((counted(&commits), duplicates(&commits)), (4, 1), "{commits:?}");
    assert_eq!(numbers(&database, "a-1").await, [0, 1, 2]);
    let mut other = twin.clone();
    other["data"]["n"] = json!(2);
    let mut session = AppendSession::open(&app, "a-1").await;
    session.write([&message(3), &other, &message(4)]).await;
    assert_eq!(session.refused_after(1, 409, "message-id-reused").await["line"], 2);
    assert_eq!(numbers(&database, "a-1").await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_message_that_the_database_refuses_is_refused_on_its_own_line() {
    let (database, app) = app().await;
    let sql = "ALTER TABLE message_store.messages ADD CONSTRAINT no_poison CHECK (type <> 'Poison')";
    database.connect().await.batch_execute(sql).await.unwrap();
    let mut messages: Vec<Value> = (0..30).map(message).collect();
    messages[19]["type"] = json!("Poison");
    let mut session = AppendSession::open(&app, "a-1").await;
    session.write(&messages).await;
    assert_eq!(session.refused_after(19, 422, "invalid").await["line"], 20);
    assert_eq!(numbers(&database, "a-1").await, (0..19).collect::<Vec<_>>());
}
