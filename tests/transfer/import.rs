//! Importing: into an empty store, after what a store has, and beside a service that runs.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use super::{Lines, command, count, finish, ids, import, imported, line, many, run_with_input, stored};
use crate::aggregated::{define, until};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::position_of;
use crate::support::sql_writer;
use crate::support::waiting::until_true;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_passed_over() {
    let database = TestDatabase::empty().await;
    let sql = database.connect().await;
    let lines = many(12_000);
    let file = Lines::of(&lines);
    assert_eq!(imported(&database.url, &file.path, &[]).await, "12,000 messages imported, 0 were there already\n");
    let all = stored(&sql).await;
    for more in [&[][..], &["--append"], &["--check"], &["--check", "--append"]] {
        let said = imported(&database.url, &file.path, more).await;
        let only_checks = more.contains(&"--check");
        let expected = if only_checks { "12,000 messages can be imported" } else { "0 messages imported, 12,000 were" };
        assert!(said.starts_with(expected), "{more:?}: {said}");
        assert_eq!(stored(&sql).await, all);
    }
    // A longer export of the same log goes on from there.
    let (code, _, error) = run_with_input(&database.url, &["import"], many(12_700)).await;
    assert_eq!((code, error.as_str()), (0, "700 messages imported, 12,000 were there already\n"));
    assert_eq!(count(&sql).await, 12_700);
}

#[tokio::test(flavor = "multi_thread")]
async fn checking_writes_nothing() {
    let database = TestDatabase::migrated().await;
    let file = Lines::of(&many(6_000));
    assert_eq!(imported(&database.url, &file.path, &["--check"]).await, "6,000 messages can be imported\n");
    assert_eq!(count(&database.connect().await).await, 0);
}

/// Not even the schemas. The file is judged as for an empty store.
#[tokio::test(flavor = "multi_thread")]
async fn checking_leaves_a_database_without_schemas_alone() {
    let database = TestDatabase::empty().await;
    let good = many(6_000);
    let file = Lines::of(&good);
    assert_eq!(imported(&database.url, &file.path, &["--check"]).await, "6,000 messages can be imported\n");
    let wrong = Lines::of(&(good + &line("a-0", 3, 9_000)));
    let (code, _, error) = import(&database.url, &wrong.path, &["--check"]).await;
    assert!(code == 1 && error.contains("line 6001: position 3 of stream a-0 is not free"), "{error}");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('message_store', 'headwater')";
    assert_eq!(database.connect().await.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Nothing comes on standard input, and it does not end.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_waits_for_input_hears_that_it_is_to_stop() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let mut child = command(&database.url, &["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(many(6_000).as_bytes()).unwrap();
    // The first batch is written, the second is not whole.
    until_true(&sql, "SELECT count(*) = 5000 FROM message_store.messages").await;
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let ended = tokio::time::timeout(Duration::from_secs(5), finish(child)).await;
    drop(stdin);
    let (code, _, error) = ended.expect("it hears it");
    assert!(code == 1 && error.contains("stopped before line 5001"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_messages_come_after_those_that_are_there() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql_writer::write(&sql, "a-0", "{}").await;
    let own = sql_writer::write(&sql, "other-1", "{}").await;
    // a-0 is at version 0: the file brings positions from 1 on.
    let lines = line("a-0", 1, 1) + &line("b-0", 4, 2) + &line("a-0", 7, 300);
    imported(&database.url, &Lines::of(&lines).path, &["--append"]).await;
    let sql_text = "SELECT stream_name || position || '@' || global_position FROM message_store.messages \
        WHERE global_position > $1 ORDER BY global_position";
    let rows: Vec<String> = sql.query(sql_text, &[&own]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let expected = [("a-01", own + 1), ("b-04", own + 2), ("a-07", own + 3)];
    assert_eq!(rows, expected.map(|(name, at)| format!("{name}@{at}")));
    // The next message of a program has the next version.
    let app = TestApp::on(&database).await;
    let answer = app.append("a-0", &json!({ "expected_version": 7, "messages": [{ "type": "T" }] })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    // Parts of the same export may overlap.
    imported(&database.url, &Lines::of(&(lines + &line("b-0", 5, 301))).path, &["--append"]).await;
    assert_eq!(count(&sql).await, 7);
    app.stop().await;
}

/// A follower, an aggregated stream and a subscription of a running service see every message, once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_sees_what_is_imported() {
    for more in [&[][..], &["--append"]] {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        let sql = database.connect().await;
        define(&app, "everything", &json!({ "categories": ["a", "b"], "partitioner": { "kind": "constant" } })).await;
        let mut live = app.follow("/v1/all/events?from=end").await;
        live.next("caught-up").await;
        let file = Lines::of(&many(11_000));
        imported(&database.url, &file.path, more).await;
        let written = sql_writer::standing(&sql, "true").await;
        assert_eq!(written.len(), 11_000);
        let mut seen = Vec::new();
        while seen.len() < written.len() {
            seen.push(position_of(&live.next("message").await));
        }
        assert_eq!(seen, written, "{more:?}");
        until(&app, "everything", "is projected", |status| status["projected_position"] == *written.last().unwrap())
            .await;
        let links = "SELECT array_agg(global_position ORDER BY position) FROM headwater.aggregated_messages";
        assert_eq!(sql.query_one(links, &[]).await.unwrap().get::<_, Vec<i64>>(0), written, "{more:?}");
        let next = app.write("a-9", "After", json!({})).await;
        assert_eq!(position_of(&live.next("message").await), next);
        app.stop().await;
    }
}

/// Positions that the service has settled as holes are given to messages: to its followers this is another log.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_ahead_of_an_import_begins_again() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    define(&app, "everything", &json!({ "categories": ["a", "b"], "partitioner": { "kind": "constant" } })).await;
    for n in 0..30 {
        app.write("a-0", "Old", json!({ "n": n })).await;
    }
    until(&app, "everything", "is projected", |status| status["projected_position"] == 30).await;
    let mut live = app.follow("/v1/all/events?from=end").await;
    live.next("caught-up").await;
    sql.batch_execute("DELETE FROM message_store.messages").await.unwrap();
    let file = Lines::of(&many(200));
    imported(&database.url, &file.path, &[]).await;
    let closing = live.next("closing").await;
    assert_eq!(closing.json()["reason"], "history-changed");
    let written = sql_writer::standing(&sql, "true").await;
    until(&app, "everything", "is projected again", |status| {
        status["projected_position"] == *written.last().unwrap() && status["partitions"][0]["message_count"] == 200
    })
    .await;
    let mut again = app.follow("/v1/all/events?from=beginning").await;
    assert_eq!(again.positions_until(*written.last().unwrap()).await, written);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_at_once_write_each_message_once() {
    for more in [&[][..], &["--append"]] {
        let database = TestDatabase::migrated().await;
        let file = Lines::of(&many(15_000));
        let (one, other) =
            tokio::join!(imported(&database.url, &file.path, more), imported(&database.url, &file.path, more));
        let sql = database.connect().await;
        assert_eq!(count(&sql).await, 15_000, "{one}{other}");
        let expected: Vec<_> = file.text().lines().map(super::id_of).collect();
        assert_eq!(ids(&sql).await, expected);
    }
}
