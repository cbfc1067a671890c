//! Followers are told at once, and get nothing at positions of a log that is gone.

use std::time::{Duration, Instant};

use headwater::domain::observation::Observation;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{TRUNCATE, write_to};
use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::sql_writer;
use crate::support::waiting::eventually;

const PATHS: [&str; 6] = [
    "/v1/streams/a-1/events?",
    "/v1/streams/quiet-1/events?",
    "/v1/categories/a/events?",
    "/v1/all/events?",
    "/v1/events?stream_name=a-1&category=b",
    "/v1/aggregated-streams/everything/events?",
];

/// A poll, and what a busy machine adds to it; less than the time between two heartbeats.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

async fn aggregate(app: &TestApp) {
    let definition = json!({ "stream_wildcards": ["%"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/everything", &definition).await.status, 201);
}

/// The next event is the end of the stream, with the reason.
async fn closed(events: &mut Events, path: &str) {
    let began = Instant::now();
    let closing = events.next_event().await;
    assert!(closing.is("closing"), "{path}: {closing:?}");
    assert_eq!(closing.json(), json!({ "reason": "history-changed" }), "{path}");
    assert_eq!(events.next_block(PATIENCE).await, None, "{path}");
    assert!(began.elapsed() < NOTICED_WITHIN, "{path}: {:?}", began.elapsed());
}

/// The newest rows are deleted, and the sequence is set back to what is left.
async fn set_back(sql: &Client, up_to: i64) {
    sql.batch_execute(&format!(
        "BEGIN; DELETE FROM message_store.messages WHERE global_position > {up_to}; \
         SELECT setval('message_store.messages_global_position_seq', {up_to}); COMMIT"
    ))
    .await
    .unwrap();
}

/// Twenty other messages, in one transaction with what was done before them.
const REGROW: &str = "INSERT INTO message_store.messages (stream_name, position, type, data) \
    SELECT 'other-1', (SELECT coalesce(max(position), -1) FROM message_store.messages WHERE stream_name = 'other-1') + n, \
    'Other', '{}' FROM generate_series(1, 20) AS n";

#[tokio::test]
async fn followers_are_told_whatever_way_the_log_went_back() {
    for way in ["truncated", "truncated and regrown", "set back", "set back and regrown", "a hole at the checkpoint"] {
        let database = TestDatabase::migrated().await;
        let sql = database.connect().await;
        let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
        aggregate(&apps[0]).await;
        write_to(&apps[0], "a-1", 10).await;
        let mut followers = Vec::new();
        for app in &apps {
            for path in PATHS {
                let mut events = app.follow(path).await;
                events.next("caught-up").await;
                followers.push((events, path));
            }
            let request = app.http.get(format!("{}/v1/all/events?from=end", app.url));
            let request = request.header("accept", "application/x-ndjson");
            let mut lines = request.send().await.unwrap();
            lines.chunk().await.unwrap();
            let reading = tokio::spawn(async move { lines.text().await.unwrap() });
            followers.push((app.follow("/v1/all/events").await, "/v1/all/events"));
            followers.last_mut().unwrap().0.next("caught-up").await;
            tokio::spawn(async move {
                let text = reading.await.unwrap();
                assert!(text.contains(r#""reason":"history-changed""#), "{text}");
            });
        }
        let watchers = apps.each_ref().map(|app| app.service.observer.watch());
        match way {
            "truncated" => sql.batch_execute(TRUNCATE).await.unwrap(),
            "truncated and regrown" => {
                sql.batch_execute(&format!("BEGIN; {TRUNCATE}; {REGROW}; COMMIT")).await.unwrap();
            }
            "set back" => set_back(&sql, 4).await,
            "set back and regrown" => {
                let sql_text = format!(
                    "BEGIN; DELETE FROM message_store.messages WHERE global_position > 4; \
                     SELECT setval('message_store.messages_global_position_seq', 4); {REGROW}; COMMIT"
                );
                sql.batch_execute(&sql_text).await.unwrap();
            }
            _ => {
                let sql_text = format!(
                    "BEGIN; {TRUNCATE}; {REGROW}; DELETE FROM message_store.messages WHERE global_position = 10; COMMIT"
                );
                sql.batch_execute(&sql_text).await.unwrap();
            }
        }
        for (events, path) in &mut followers {
            closed(events, &format!("{way}: {path}")).await;
        }
        for (app, mut watcher) in apps.iter().zip(watchers) {
            TestApp::observed(&mut watcher, way, |seen| matches!(seen, Observation::HistoryChanged { .. })).await;
            let ready = app.get("/readyz").await;
            assert_eq!(ready.status, 200, "{}", ready.text);
            let changed = ready.json()["history_changed"].clone();
            assert_eq!(changed["settled"], 10, "{way}: {changed}");
            assert!(changed["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{changed}");
            assert_eq!(app.metric("headwater_history_changes_total").await, 1.0);
        }
        // They begin anew, and get the log that is there now.
        let expected = sql_writer::standing(&sql, "true").await;
        let last = apps[1].write("b-9", "Written", json!({})).await;
        for app in &apps {
            for path in ["/v1/all/events?from=beginning", "/v1/aggregated-streams/everything/events?from=beginning"] {
                if path.contains("aggregated") && way != "truncated" {
                    continue;
                }
                let mut events = app.follow(path).await;
                let mut positions = Vec::new();
                while positions.last() != Some(&last) {
                    let event = events.next("message").await;
                    let data = event.json();
                    let message = if data["message"].is_object() { data["message"].clone() } else { data };
                    positions.push(message["global_position"].as_i64().unwrap());
                }
                assert_eq!(positions[..positions.len() - 1], expected[..], "{way}: {path}");
            }
        }
        for app in apps {
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn deleting_is_no_other_history() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    write_to(&app, "a-1", 10).await;
    let mut all = app.follow("/v1/all/events").await;
    all.next("caught-up").await;
    for condition in ["global_position > 7", "global_position = 5", "global_position < 3", "true"] {
        sql.batch_execute(&format!("DELETE FROM message_store.messages WHERE {condition}")).await.unwrap();
        let last = app.write("b-1", "Written", json!({})).await;
        assert_eq!(position_of(&all.next_event().await), last, "{condition}");
        app.service.tail.refresh().await;
    }
    assert_eq!(app.metric("headwater_history_changes_total").await, 0.0);
    assert!(app.get("/readyz").await.json().get("history_changed").is_none());
    app.stop().await;
}

#[tokio::test]
async fn a_jump_of_the_sequence_is_no_other_history() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    write_to(&app, "a-1", 3).await;
    let mut all = app.follow("/v1/all/events").await;
    all.next("caught-up").await;
    sql.batch_execute("SELECT setval('message_store.messages_global_position_seq', 900)").await.unwrap();
    assert_eq!(app.write("a-1", "Written", json!({})).await, 901);
    assert_eq!(position_of(&all.next_event().await), 901);
    app.service.tail.refresh().await;
    assert_eq!(app.metric("headwater_history_changes_total").await, 0.0);
    app.stop().await;
}

#[tokio::test]
async fn what_is_read_right_after_a_truncation_is_right() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    for round in 0..20 {
        let count = 3 + round % 7;
        let positions = write_to(&app, "a-1", count).await;
        let page = app.get("/v1/all/messages").await.json();
        let found: Vec<i64> =
            page["messages"].as_array().unwrap().iter().map(|one| one["global_position"].as_i64().unwrap()).collect();
        assert_eq!(found, positions, "round {round}");
        let mut events = app.follow("/v1/categories/a/events?from=beginning").await;
        assert_eq!(events.positions_until(*positions.last().unwrap()).await, positions, "round {round}");
        let report = app.get("/v1/reports/categories").await.json();
        assert_eq!(report["categories"][0]["message_count"], json!(count), "round {round}: {report}");
        sql.batch_execute(TRUNCATE).await.unwrap();
    }
    app.stop().await;
}

#[tokio::test]
async fn long_polls_end() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    aggregate(&app).await;
    let last = *write_to(&app, "a-1", 5).await.last().unwrap();
    app.get(&format!("/v1/aggregated-streams/everything?min_position={last}&wait=10s")).await;
    let mut polls = Vec::new();
    for path in [
        "/v1/all/messages?from=6&wait=30s",
        "/v1/categories/a/messages?from=6&wait=30s",
        "/v1/streams/a-1/messages?from=5&wait=30s",
        "/v1/aggregated-streams/everything/partitions/0/messages?from=5&wait=30s",
    ] {
        let (http, url) = (app.http.clone(), format!("{}{path}", app.url));
        polls.push((path, tokio::spawn(async move { Answer::of(http.get(url).send().await.unwrap()).await })));
    }
    // They wait once nothing of theirs is read any more: a later request is answered after them.
    app.get("/v1/all/messages?from=6&wait=500ms").await;
    sql.batch_execute(TRUNCATE).await.unwrap();
    for (path, poll) in polls {
        let began = Instant::now();
        let problem: Value = poll.await.unwrap().problem(409, "history-changed");
        assert_eq!(problem["head"], 0, "{path}: {problem}");
        assert!(began.elapsed() < NOTICED_WITHIN, "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_log_that_was_truncated_while_the_service_was_away_is_noticed_when_it_is_back() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    write_to(&app, "a-1", 5).await;
    app.get("/v1/reports/categories").await;
    let kept = "SELECT position FROM headwater.settled_position";
    while sql.query_one(kept, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        app.service.tail.refresh().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.stop().await;
    sql.batch_execute(&format!("{TRUNCATE}; {REGROW}")).await.unwrap();
    let app = TestApp::on(&database).await;
    assert_eq!(app.get("/readyz").await.json()["history_changed"]["reason"], "other_message");
    let report = app.get("/v1/reports/categories").await.json();
    let found: Vec<(&str, i64)> = report["categories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["category"].as_str().unwrap(), one["message_count"].as_i64().unwrap()))
        .collect();
    assert_eq!(found, [("other", 20)], "{report}");
    app.stop().await;
}

/// A backup brings the number of its log's history with it, each time that it is restored.
#[tokio::test]
async fn a_backup_that_is_restored_again_is_another_log_each_time() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    write_to(&apps[0], "a-1", 10).await;
    sql.batch_execute("CREATE TABLE backup AS SELECT * FROM headwater.settled_position").await.unwrap();
    write_to(&apps[0], "a-1", 10).await;
    for app in &apps {
        app.service.tail.refresh().await;
    }
    let page = "/v1/all/messages?from=11&limit=5";
    let mut known: Vec<(String, i64)> = Vec::new();
    for restored in ["first", "second", "third"] {
        let mut watchers = apps.each_ref().map(|app| app.service.observer.watch());
        let restore = format!(
            "BEGIN; DELETE FROM message_store.messages WHERE global_position > 10; \
             SELECT setval('message_store.messages_global_position_seq', 10); \
             DELETE FROM headwater.settled_position; INSERT INTO headwater.settled_position SELECT * FROM backup; \
             INSERT INTO message_store.messages (stream_name, position, type, data) \
             SELECT 'other-1', n - 1, '{restored}', '{{}}' FROM generate_series(1, 20) AS n; COMMIT"
        );
        sql.batch_execute(&restore).await.unwrap();
        for (app, watcher) in apps.iter().zip(&mut watchers) {
            TestApp::observed(watcher, restored, |seen| matches!(seen, Observation::HistoryChanged { .. })).await;
            app.service.tail.refresh().await;
            // Each of them follows the same, so that they share what is read.
            let mut together = Vec::new();
            for _ in 0..3 {
                together.push(app.follow("/v1/all/events?from=beginning").await);
            }
            for events in &mut together {
                let messages = events.messages(30).await;
                let types: Vec<_> = messages[10..].iter().map(|message| message["type"].as_str().unwrap()).collect();
                assert_eq!(types, [restored; 20]);
            }
        }
        for (tag, _) in &known {
            let request = apps[0].http.get(format!("{}{page}", apps[0].url)).header("if-none-match", tag);
            assert_eq!(request.send().await.unwrap().status(), 200, "{restored}: {tag} is of a log that is gone");
        }
        let tag = eventually("the page to have a tag", async || {
            let answer = apps[0].get(page).await;
            answer.headers.get("etag").map(|tag| tag.to_str().unwrap().to_owned())
        })
        .await;
        let number = apps[0].service.tail.history_number();
        assert_eq!(apps[1].service.tail.history_number(), number, "all instances know it by one number");
        assert!(known.iter().all(|(_, former)| *former < number), "{known:?}, then {number}");
        known.push((tag, number));
    }
    for app in apps {
        app.stop().await;
    }
}
