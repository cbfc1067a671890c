//! The database is away, says no, or says what cannot be read: three things, told apart.

use std::time::Duration;

use headwater::domain::observation::{FailureKind, Observation};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::eventually;

/// More than a follower's first page has.
const MESSAGES: usize = 40;

/// A service whose followers read history from the database, and a log for them.
async fn with_history(url: &str) -> TestApp {
    let app = TestApp::with(url, |_| {}).await;
    for number in 0..MESSAGES {
        app.write(&format!("a-{number}"), "T", json!({ "n": number })).await;
    }
    app
}

/// A row that was written in SQL, and cannot be what it should be.
async fn spoil(database: &TestDatabase, global_position: i64) {
    let statements = format!(
        "ALTER TABLE message_store.messages ALTER COLUMN type DROP NOT NULL; \
         UPDATE message_store.messages SET type = NULL WHERE global_position = {global_position}"
    );
    database.connect().await.batch_execute(&statements).await.unwrap();
}

/// The failures of followers of a kind that were recorded up to now: all, and those that are said.
fn failures(watcher: &mut broadcast::Receiver<Observation>, of: FailureKind) -> (usize, usize) {
    let (mut all, mut said) = (0, 0);
    loop {
        match watcher.try_recv() {
            Ok(Observation::StoreFailed { by, kind, is_news, .. }) if kind == of && by == "followers" => {
                all += 1;
                said += usize::from(is_news);
            }
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return (all, said),
        }
    }
}

/// The stream ends by itself, with this reason.
async fn ends_with(events: &mut Events, reason: &str) {
    let closing = events.next("closing").await;
    assert_eq!(closing.json()["reason"], reason);
    assert!(events.next_block(Duration::from_secs(5)).await.is_none(), "nothing comes after closing");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_fault_of_the_service_and_no_outage() {
    let database = TestDatabase::migrated().await;
    let app = with_history(&database.url).await;
    spoil(&database, 20).await;
    for path in ["/v1/categories/a/messages", "/v1/all/messages", "/v1/streams/a-19/messages"] {
        let problem = app.get(path).await.problem(500, "internal-error");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("cannot be read") && !detail.contains("column"), "{detail}");
    }
    assert_eq!(app.get("/v1/streams/a-1/messages").await.status, 200);
    assert_eq!(app.get("/readyz").await.status, 200);
    assert!(app.metric("headwater_store_errors_total{kind=\"bug\"}").await >= 3.0);
    assert_eq!(app.metric("headwater_store_errors_total{kind=\"outage\"}").await, 0.0);
}

#[tokio::test]
async fn a_follower_ends_with_a_reason_at_a_row_that_cannot_be_read() {
    let database = TestDatabase::migrated().await;
    let app = with_history(&database.url).await;
    spoil(&database, MESSAGES as i64).await;
    let mut watcher = app.service.observer.watch();
    for path in ["/v1/categories/a/events", "/v1/all/events", "/v1/events?category=a&stream_name=b-1"] {
        let mut events =
            app.follow(&format!("{path}{}from=beginning", if path.contains('?') { '&' } else { '?' })).await;
        ends_with(&mut events, "internal-error").await;
    }
    // Each tried once, and said it once.
    assert_eq!(failures(&mut watcher, FailureKind::Bug), (3, 3));
}

#[tokio::test]
async fn an_aggregated_follower_ends_with_a_reason_too() {
    let database = TestDatabase::migrated().await;
    let app = with_history(&database.url).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/all-of-a", &definition).await.status, 201);
    app.get(&format!("/v1/aggregated-streams/all-of-a?min_position={MESSAGES}&wait=10s")).await;
    spoil(&database, MESSAGES as i64).await;
    for path in ["/v1/aggregated-streams/all-of-a/events?", "/v1/events?aggregated_stream=all-of-a&category=a&"] {
        let mut events = app.follow(&format!("{path}from=beginning")).await;
        ends_with(&mut events, "internal-error").await;
    }
}

/// A role that may do what the service does, as a setting of the connection: the server may not let it log in.
async fn with_lesser_role(database: &TestDatabase) -> (String, tokio_postgres::Client, String) {
    let administrator = database.connect().await;
    let role = crate::conformance::unique("lesser");
    administrator
        .batch_execute(&format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA message_store, headwater TO {role}; \
             GRANT ALL ON ALL TABLES IN SCHEMA message_store, headwater TO {role}; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA message_store, headwater TO {role}; \
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store, headwater TO {role}; \
             GRANT pg_read_all_stats TO {role}"
        ))
        .await
        .unwrap();
    let separator = if database.url.contains('?') { '&' } else { '?' };
    (format!("{}{separator}options=-c%20role%3D{role}", database.url), administrator, role)
}

#[tokio::test]
async fn a_right_that_is_revoked_ends_who_catches_up_and_is_said_once() {
    let database = TestDatabase::migrated().await;
    let (url, administrator, role) = with_lesser_role(&database).await;
    let app = with_history(&url).await;
    let mut watcher = app.service.observer.watch();
    // The tail looks at positions only; what followers read is not theirs any more.
    let columns = "id, stream_name, position, global_position, time, metadata, data";
    administrator
        .batch_execute(&format!(
            "REVOKE SELECT ON message_store.messages FROM {role}; \
             GRANT SELECT ({columns}) ON message_store.messages TO {role}"
        ))
        .await
        .unwrap();
    let paths = ["/v1/categories/a/events", "/v1/streams/a-1/events"];
    let mut followers = Vec::new();
    for path in paths.iter().cycle().take(10) {
        followers.push(app.follow(&format!("{path}?from=beginning")).await);
    }
    for events in &mut followers {
        ends_with(events, "internal-error").await;
    }
    let (all, _) = failures(&mut watcher, FailureKind::Refused);
    assert_eq!(all, followers.len(), "each is tried once");
    let problem = app.get("/v1/categories/a/messages").await.problem(500, "internal-error");
    assert!(!problem["detail"].as_str().unwrap().contains("permission"), "the log has the details: {problem}");
    assert!(app.metric("headwater_store_errors_total{kind=\"refused\"}").await >= 11.0);
    // With the right, all is well again.
    administrator.batch_execute(&format!("GRANT SELECT ON message_store.messages TO {role}")).await.unwrap();
    let mut events = app.follow("/v1/categories/a/events?from=beginning").await;
    assert_eq!(events.messages(MESSAGES).await.len(), MESSAGES);
    app.stop().await;
    drop(events);
    administrator.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_not_allowed_is_no_outage() {
    let database = TestDatabase::migrated().await;
    let (url, administrator, role) = with_lesser_role(&database).await;
    let app = TestApp::with(&url, |_| {}).await;
    app.write("a-1", "T", json!({})).await;
    administrator.batch_execute(&format!("REVOKE INSERT ON message_store.messages FROM {role}")).await.unwrap();
    for _ in 0..3 {
        let answer = app.append("a-1", &json!({ "messages": [{ "type": "T" }] })).await;
        assert_eq!(answer.problem(500, "internal-error")["outcome"], "not_written");
    }
    administrator.batch_execute(&format!("GRANT INSERT ON message_store.messages TO {role}")).await.unwrap();
    app.write("a-1", "T", json!({})).await;
    app.stop().await;
    administrator.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

/// As an operator does it, or a limit of time: the same request may work at the next attempt.
#[tokio::test]
async fn a_statement_that_is_cancelled_may_be_sent_again() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("a-1", "T", json!({})).await;
    let (holder, other) = (database.connect().await, database.connect().await);
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'headwater' AND wait_event_type = 'Lock'";
    for is_append in [true, false] {
        holder.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let body = json!({ "messages": [{ "type": "T" }] });
        let asking = async {
            if is_append { app.append("a-1", &body).await } else { app.get("/v1/streams/a-1/messages").await }
        };
        let cancelling = async {
            loop {
                other.execute(cancel, &[]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let answer = tokio::select! {
            answer = asking => answer,
            () = cancelling => unreachable!(),
        };
        let problem = answer.problem(503, "database-unavailable");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(problem["outcome"], if is_append { json!("not_written") } else { Value::Null });
        holder.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(app.append("a-1", &json!({ "messages": [{ "type": "T" }] })).await.json()["version"], 1);
    app.stop().await;
}

/// PostgreSQL sends two signals for a cancel request. The second may come while the next page is read on that connection.
#[tokio::test]
async fn a_page_that_is_hit_by_the_end_of_the_one_before_is_read_again() {
    let database = TestDatabase::migrated().await;
    let (holder, other) = (database.connect().await, database.connect().await);
    let large = "INSERT INTO message_store.messages (stream_name, type, position, data) SELECT 'large-1', 'T', n, \
        jsonb_build_object('text', repeat('0123456789abcdef', 65536)) FROM generate_series(0, 39) AS n";
    holder.batch_execute(large).await.unwrap();
    let app = TestApp::on(&database).await;
    app.write("a-1", "T", json!({})).await;
    // Without a page that was cut before, somebody else has ended it.
    for (is_cut, hits, status) in [(true, 1, 200), (false, 1, 503), (true, 2, 503)] {
        if is_cut {
            let page = app.get("/v1/streams/large-1/messages?limit=1000&filter=position%20%3C%201").await;
            assert_eq!(page.status, 200, "{}", page.text);
        }
        holder.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let ending = async {
            let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'headwater' AND wait_event_type = 'Lock' AND query LIKE '%coalesce(v.version%'";
            for _ in 0..hits {
                eventually("the page to wait, and to be hit", || async {
                    (other.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
                })
                .await;
                // So that one signal is not taken for two.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let (page, ()) = tokio::join!(app.get("/v1/streams/a-1/messages"), ending);
        assert_eq!(page.status, status, "{is_cut}, {hits}: {}", page.text);
    }
    app.stop().await;
}

#[tokio::test]
async fn an_outage_is_waited_for_and_said_once() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = with_history(&proxy.url).await;
    let mut events = app.follow("/v1/categories/a/events?from=beginning").await;
    events.next("message").await;
    let mut watcher = app.service.observer.watch();
    proxy.take_away();
    TestApp::observed(&mut watcher, "the loss", |observation| {
        matches!(observation, Observation::StoreFailed { kind: FailureKind::Outage, is_news: false, .. })
    })
    .await;
    app.get("/v1/categories/a/messages").await.problem(503, "database-unavailable");
    proxy.restore();
    TestApp::observed(&mut watcher, "the end", |observation| matches!(observation, Observation::DatabaseFound { .. }))
        .await;
    let rest = events.messages(MESSAGES - 1).await;
    assert_eq!(rest.len(), MESSAGES - 1);
    assert_eq!(failures(&mut watcher, FailureKind::Refused).0 + failures(&mut watcher, FailureKind::Bug).0, 0);
}
