//! A cursor names a message. Where that is another one by now, it is of another history.

use serde_json::Value;

use super::{TRUNCATE, write_to};
use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::Events;

const PATHS: [&str; 5] = [
    "/v1/streams/a-1/events",
    "/v1/categories/a/events",
    "/v1/all/events",
    "/v1/events?stream_name=a-1&category=b",
    "/v1/aggregated-streams/everything/events",
];

fn with(path: &str, parameter: &str) -> String {
    format!("{path}{}{parameter}", if path.contains('?') { "&" } else { "?" })
}

async fn resume(app: &TestApp, path: &str, id: &str) -> Answer {
    let request = app.http.get(format!("{}{path}", app.url)).header("last-event-id", id);
    Answer::of(request.send().await.unwrap()).await
}

async fn aggregate(app: &TestApp) {
    let definition = serde_json::json!({ "stream_wildcards": ["%"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/everything", &definition).await.status, 201);
}

fn message(data: Value) -> Value {
    if data["message"].is_object() { data["message"].clone() } else { data }
}

#[tokio::test]
async fn an_id_names_its_message_by_the_last_eight_digits_of_its_id() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    aggregate(&app).await;
    let last = *write_to(&app, "a-1", 3).await.last().unwrap();
    for path in PATHS {
        let mut live = app.follow(path).await;
        live.next("caught-up").await;
        let mut history = app.follow(&with(path, "from=beginning")).await;
        for _ in 0..3 {
            let event = history.next("message").await;
            let message = message(event.json());
            let position = if path.contains("streams/a-1") { "position" } else { "global_position" };
            let id = message["id"].as_str().unwrap();
            assert_eq!(event.id.unwrap(), format!("{}~{}", message[position], &id[id.len() - 8..]), "{path}");
        }
        // What has no message of its own names the last there is.
        for events in [&mut live, &mut history] {
            let id = events.last_id.clone();
            assert!(id.as_ref().is_some_and(|id| id.contains('~')), "{path}: {id:?}");
        }
    }
    let several = "/v1/events?category=a&aggregated_stream=everything&from=beginning";
    let first = app.follow(several).await.next("message").await;
    assert!(first.id.unwrap().starts_with("1.1~"));
    assert_eq!(last, 3);
    app.stop().await;
}

#[tokio::test]
async fn a_log_that_has_grown_past_a_cursor_again_is_recognised() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    aggregate(&app).await;
    write_to(&app, "a-1", 5).await;
    let mut ids = Vec::new();
    for path in PATHS {
        let mut events = app.follow(&with(path, "from=beginning")).await;
        for event in events.blocks_until("caught-up").await {
            ids.extend(event.id.map(|id| (path, id)));
        }
    }
    sql.batch_execute(TRUNCATE).await.unwrap();
    write_to(&app, "a-1", 7).await;
    for (path, id) in &ids {
        let problem = resume(&app, path, id).await.problem(409, "history-changed");
        assert_eq!(problem["position"].to_string(), id.split('~').next().unwrap(), "{path} {id}");
        assert!(problem["head"].as_i64() >= Some(6), "{problem}");
        let answer = app.get(&with(path, &format!("last_event_id={id}"))).await;
        answer.problem(409, "history-changed");
        // Without the check, it is as good as another.
        let bare = id.split('~').next().unwrap();
        Events::resume(&format!("{}{path}", app.url), bare).await;
    }
    assert!(ids.len() > 20);
    app.stop().await;
}

#[tokio::test]
async fn a_place_without_a_message_is_not_taken_for_another_history() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    write_to(&app, "a-1", 5).await;
    let mut ids = Vec::new();
    for path in &PATHS[..4] {
        let mut events = app.follow(&with(path, "from=beginning")).await;
        for _ in 0..3 {
            events.next("message").await;
        }
        ids.push((path, events.last_id.unwrap()));
    }
    // Erased in the middle, and trimmed.
    for deletion in ["global_position = 3", "global_position < 5"] {
        sql.batch_execute(&format!("DELETE FROM message_store.messages WHERE {deletion}")).await.unwrap();
        for (path, id) in &ids {
            let mut events = Events::resume(&format!("{}{path}", app.url), id).await;
            let next = events.next("message").await.json()["global_position"].as_i64();
            assert_eq!(next, Some(if deletion.contains('=') && !deletion.contains('<') { 4 } else { 5 }), "{path}");
        }
    }
    app.stop().await;
}
