//! What an erasure may be asked, and what it does to appends and to pages that a client has.

use serde_json::json;

use super::{SECRET, assert_erased, erase, secret, tables_with, write_secret};
use crate::conformance::{Session, unique};
use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

#[tokio::test]
async fn an_erasure_done_again_answers_the_same_and_an_unknown_id_is_not_found() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let (id, _) = write_secret(&app, "person-1").await;
    let first = erase(&app, &id).await;
    let again = app.delete(&format!("/v1/messages/{id}?reason=another")).await;
    assert_eq!((again.status, again.json()), (200, first));
    let (other, _) = write_secret(&app, "person-1").await;
    assert_eq!(app.delete(&format!("/v1/messages/{other}")).await.json()["erased"]["reason"], json!(null));
    app.delete("/v1/messages/0192f1c2-0000-7000-8000-000000000001").await.problem(404, "not-found");
    app.stop().await;
}

#[tokio::test]
async fn bad_input_is_named_and_erases_nothing() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let (id, _) = write_secret(&app, "person-1").await;
    let long = "x".repeat(1_001);
    for (path, status, slug, field) in [
        ("/v1/messages/no-uuid".to_owned(), 400, "malformed-request", "id"),
        (format!("/v1/messages/{id}%00"), 400, "malformed-request", "id"),
        (format!("/v1/messages/{id}?reason="), 422, "invalid", "reason"),
        (format!("/v1/messages/{id}?reason={long}"), 422, "invalid", "reason"),
        (format!("/v1/messages/{id}?reason=a%00b"), 422, "invalid", "reason"),
        (format!("/v1/messages/{id}?why=x"), 400, "malformed-request", "why"),
        (format!("/v1/messages/{id}?reason=a&reason=b"), 400, "malformed-request", "reason"),
    ] {
        let problem = app.delete(&path).await.problem(status, slug);
        assert!(problem["errors"][0]["field"].as_str().unwrap().contains(field), "{path}: {problem}");
    }
    assert_eq!(tables_with(&sql, SECRET).await, ["message_store.messages"]);
    let odd = app.delete(&format!("/v1/messages/{id}?reason=it%27s%20%22odd%22%20%25_%5C%0A%F0%9F%98%80")).await;
    assert_eq!(odd.json()["erased"]["reason"], "it's \"odd\" %_\\\n😀");
    app.stop().await;
}

/// Its data cannot be compared any more: the same id in the same stream, with the same type, is the same message.
#[tokio::test]
async fn an_append_sent_again_after_its_erasure_is_a_duplicate() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let id = "0192f1c2-0000-7000-8000-0000000000aa";
    let with = |change: fn(&mut serde_json::Value)| {
        let mut message = secret(1);
        message["id"] = json!(id);
        change(&mut message);
        json!({ "messages": [message] })
    };
    let first = app.append("person-1", &with(|_| {})).await;
    assert_eq!(first.status, 201);
    erase(&app, id).await;
    let changes: [fn(&mut serde_json::Value); 2] = [|_| {}, |message| message["data"] = json!("other")];
    for change in changes {
        let again = app.append("person-1", &with(change)).await;
        assert_eq!(again.status, 200, "{}", again.text);
        assert_eq!(again.json()["messages"], first.json()["messages"]);
    }
    app.append("person-1", &with(|message| message["type"] = json!("Other"))).await.problem(409, "message-id-reused");
    app.append("person-2", &with(|_| {})).await.problem(409, "message-id-reused");
    assert_erased(&app.get(&format!("/v1/messages/{id}")).await.json());
    app.stop().await;
}

#[tokio::test]
async fn a_page_from_before_an_erasure_is_not_said_to_be_unchanged() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let (first, _) = write_secret(&app, "person-1").await;
    let (second, _) = write_secret(&app, "person-1").await;
    let page = |tag: String| {
        let request = app.http.get(format!("{}/v1/streams/person-1/messages", app.url)).header("if-none-match", tag);
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    let tag = |answer: &Answer| answer.headers["etag"].to_str().unwrap().to_owned();
    let mut before = page("\"\"".into()).await;
    assert_eq!(tag(&before), "\"1\"");
    for id in [first, second] {
        assert_eq!(page(tag(&before)).await.status, 304);
        erase(&app, &id).await;
        let after = page(tag(&before)).await;
        assert_eq!(after.status, 200, "{}", after.text);
        assert_ne!(tag(&after), tag(&before));
        before = after;
    }
    assert!(!before.text.contains(SECRET));
    // The pages of other streams are what they were.
    write_secret(&app, "person-2").await;
    assert_eq!(tag(&app.get("/v1/streams/person-2/messages").await), "\"0\"");
    app.stop().await;
}

/// Its commit arrives, and the answer does not: it is not said to be done, and sent again it does no harm.
#[tokio::test]
async fn an_erasure_whose_answer_is_lost_is_done_once_and_shown_nowhere() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut live = app.follow("/v1/all/events").await;
    live.next("caught-up").await;
    let (id, position) = write_secret(&app, "person-1").await;
    live.next("message").await;
    proxy.lose_answers_of("erase_message", 1);
    app.delete(&format!("/v1/messages/{id}?reason=asked")).await.problem(503, "database-unavailable");
    assert_eq!(proxy.lost_answers(), 1);
    // What the instance was not told, its tail finds out.
    let is_forgotten = || async {
        let mut events = app.follow(&format!("/v1/all/events?from={position}")).await;
        let message = events.next("message").await.json();
        message["erased"].is_object().then_some(message)
    };
    assert_erased(&crate::support::waiting::eventually("the erasure to be noticed", is_forgotten).await);
    let again = erase(&app, &id).await;
    assert_erased(&again);
    app.stop().await;
}

/// The service may do all else without the right to change messages.
#[tokio::test]
async fn a_role_that_may_not_change_messages_is_told_the_grant() {
    let database = TestDatabase::migrated().await;
    let administrator = Session::open_plain(&database.url).await;
    let role = unique("lesser");
    for statement in [
        "CREATE ROLE :role",
        "GRANT USAGE ON SCHEMA message_store, headwater TO :role",
        "GRANT SELECT, INSERT ON message_store.messages TO :role",
        "GRANT USAGE, SELECT ON SEQUENCE message_store.messages_global_position_seq TO :role",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA headwater TO :role",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA headwater TO :role",
    ] {
        administrator.run(&statement.replace(":role", &role)).await;
    }
    let separator = if database.url.contains('?') { '&' } else { '?' };
    let app = TestApp::with(&format!("{}{separator}options=-c%20role%3D{role}", database.url), |_| {}).await;
    let (id, _) = write_secret(&app, "person-1").await;
    let path = format!("/v1/messages/{id}?reason=asked");
    let problem = app.delete(&path).await.problem(500, "internal-error");
    assert!(problem["detail"].as_str().unwrap().contains("GRANT UPDATE ON message_store.messages"), "{problem}");
    assert!(app.get(&format!("/v1/messages/{id}")).await.text.contains(SECRET));
    administrator.run(&format!("GRANT UPDATE ON message_store.messages TO {role}")).await;
    assert_erased(&erase(&app, &id).await);
    app.stop().await;
    administrator.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
