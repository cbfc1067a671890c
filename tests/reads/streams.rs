//! Pages of one stream, its last message, its summary, and its entity tag.

use serde_json::{Value, json};

use super::{filled, ids, numbers, one, walk};
use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_walk_forward_and_one_backward_meet_every_message_once() {
    let (_database, app) = filled("account", 3, 23).await;
    for limit in [1, 2, 7, 22, 23, 24, 1_000] {
        let forward = walk(&app, "/v1/streams/account-2/messages", limit).await;
        assert_eq!(numbers(&forward, "position"), (0..23).collect::<Vec<_>>(), "limit {limit}");
        let backward = walk(&app, "/v1/streams/account-2/messages?direction=backward", limit).await;
        assert_eq!(numbers(&backward, "position"), (0..23).rev().collect::<Vec<_>>(), "limit {limit}");
        assert!(forward.iter().all(|message| message["stream_name"] == "account-2"));
        assert_eq!(ids(&forward), ids(&backward));
    }
    app.stop().await;
}

#[tokio::test]
async fn from_is_inclusive_in_both_directions() {
    let (_database, app) = filled("account", 1, 10).await;
    for (parameters, positions, next, at_end) in [
        ("from=4&limit=2", vec![4, 5], json!(6), false),
        ("from=8&limit=2", vec![8, 9], json!(10), true),
        ("from=9", vec![9], json!(10), true),
        ("from=10", vec![], json!(10), true),
        ("from=1000", vec![], json!(1_000), true),
        ("from=9223372036854775807", vec![], json!(i64::MAX), true),
        ("direction=forward&from=0&limit=1", vec![0], json!(1), false),
        ("direction=backward&from=4&limit=2", vec![4, 3], json!(2), false),
        ("direction=backward&from=1&limit=2", vec![1, 0], Value::Null, true),
        ("direction=backward&from=0", vec![0], Value::Null, true),
        ("direction=backward&from=1000&limit=1", vec![9], json!(8), false),
        ("direction=backward&from=9223372036854775807&limit=1", vec![9], json!(8), false),
    ] {
        let page = app.get(&format!("/v1/streams/account-1/messages?{parameters}")).await.json();
        assert_eq!(numbers(page["messages"].as_array().unwrap(), "position"), positions, "{parameters}");
        assert_eq!(page["next"], next, "{parameters}");
        assert_eq!(page["at_end"], at_end, "{parameters}");
        assert_eq!(page["version"], 9, "{parameters}");
    }
    app.stop().await;
}

/// An entity that keeps snapshots is loaded by one page.
#[tokio::test]
async fn from_last_begins_with_the_newest_message_of_a_type() {
    let (_database, app) = filled("account", 2, 10).await;
    // Types by position: Opened at 0, 3, 6, 9, Deposited at 1, 4, 7, Withdrawn at 2, 5, 8.
    for (parameters, positions, next, at_end) in [
        ("from_last=Withdrawn", vec![8, 9], 10, true),
        ("from_last=Deposited&limit=2", vec![7, 8], 9, false),
        ("from_last=Opened", vec![9], 10, true),
        // Without one, it is the whole stream.
        ("from_last=Snapshot&limit=3", vec![0, 1, 2], 3, false),
        // What is left out by a filter begins a page all the same.
        ("from_last=Deposited&types=Opened", vec![9], 10, true),
        ("from_last=Deposited&filter=data.n%20%3E%208", vec![9], 10, true),
    ] {
        let page = app.get(&format!("/v1/streams/account-1/messages?{parameters}")).await.json();
        assert_eq!(numbers(page["messages"].as_array().unwrap(), "position"), positions, "{parameters}");
        assert_eq!((&page["next"], &page["at_end"]), (&json!(next), &json!(at_end)), "{parameters}");
        assert_eq!(page["version"], 9, "{parameters}");
    }
    let page = app.get("/v1/streams/unknown-1/messages?from_last=Opened").await.json();
    assert_eq!(page, json!({ "messages": [], "next": 0, "at_end": true, "version": -1 }));
    app.stop().await;
}

#[tokio::test]
async fn next_at_the_end_is_where_the_next_message_will_be() {
    let (_database, app) = filled("account", 1, 3).await;
    let next = app.get("/v1/streams/account-1/messages").await.json()["next"].as_i64().unwrap();
    app.append("account-1", &one("Closed")).await;
    let page = app.get(&format!("/v1/streams/account-1/messages?from={next}")).await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    assert_eq!(page["messages"][0]["type"], "Closed");
    app.stop().await;
}

#[tokio::test]
async fn a_stream_that_does_not_exist_is_an_empty_page_to_append_after() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let page = app.get("/v1/streams/account-1/messages").await.json();
    assert_eq!(page, json!({ "messages": [], "next": 0, "at_end": true, "version": -1 }));
    let backward = app.get("/v1/streams/account-1/messages?direction=backward").await.json();
    assert_eq!(backward, json!({ "messages": [], "next": null, "at_end": true, "version": -1 }));
    let mut body = one("Opened");
    body["expected_version"] = page["version"].clone();
    assert_eq!(app.append("account-1", &body).await.status, 201);
    app.stop().await;
}

#[tokio::test]
async fn the_last_message_and_the_last_of_a_type() {
    let (_database, app) = filled("account", 2, 8).await;
    for (parameters, position) in [("", 7), ("?type=Opened", 6), ("?type=Deposited", 7), ("?type=Withdrawn", 5)] {
        let last = app.get(&format!("/v1/streams/account-1/messages/last{parameters}")).await.json();
        assert_eq!((&last["position"], &last["stream_name"]), (&json!(position), &json!("account-1")), "{parameters}");
    }
    for path in ["/v1/streams/account-3/messages/last", "/v1/streams/account-1/messages/last?type=Closed"] {
        let problem = app.get(path).await.problem(404, "not-found");
        assert!(problem["what"].as_str().unwrap().contains("account-"), "{problem}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_summary_tells_what_is_known_of_a_stream() {
    let (database, app) = filled("account", 2, 8).await;
    let sql = database.connect().await;
    sql.batch_execute("DELETE FROM message_store.messages WHERE stream_name = 'account-1' AND position IN (0, 1, 4)")
        .await
        .unwrap();
    let summary = app.get("/v1/streams/account-1").await.json();
    let messages = app.get("/v1/streams/account-1/messages").await.json()["messages"].clone();
    assert_eq!(
        summary,
        json!({
            "stream_name": "account-1", "category": "account", "version": 7, "message_count": 5, "first_position": 2,
            "first_time": messages[0]["time"], "last_time": messages[4]["time"],
        })
    );
    app.get("/v1/streams/account-3").await.problem(404, "not-found");
    app.stop().await;
}

#[tokio::test]
async fn a_message_is_found_by_its_id() {
    let (_database, app) = filled("account", 1, 2).await;
    let messages = app.get("/v1/all/messages").await.json()["messages"].clone();
    for message in messages.as_array().unwrap() {
        let id = message["id"].as_str().unwrap();
        for id in [id.to_owned(), id.to_uppercase()] {
            assert_eq!(app.get(&format!("/v1/messages/{id}")).await.json(), *message);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn an_entity_tag_saves_reading_until_something_was_appended() {
    let (_database, app) = filled("account", 1, 3).await;
    let path = "/v1/streams/account-1/messages";
    let tag = app.get(path).await.headers["etag"].to_str().unwrap().to_owned();
    for (known, status) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        (format!("\"x\", {tag}"), 304),
        (format!("\"x\" ,W/{tag},\"y\""), 304),
        ("*".to_owned(), 304),
        ("\"x\"".to_owned(), 200),
        (tag.trim_matches('"').to_owned(), 200),
        (String::new(), 200),
    ] {
        let answer = ask(&app, path, &known).await;
        assert_eq!(answer.status, status, "{known}");
        assert_eq!(answer.headers["etag"], tag.as_str());
        assert_eq!(answer.text.is_empty(), status == 304);
    }
    app.append("account-1", &one("Closed")).await;
    let answer = ask(&app, path, &tag).await;
    assert_eq!(answer.status, 200);
    assert_ne!(answer.headers["etag"], tag.as_str());
    assert_eq!(answer.json()["version"], 3);
    app.stop().await;
}

#[tokio::test]
async fn an_empty_stream_has_an_entity_tag_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let path = "/v1/streams/account-1/messages";
    let tag = app.get(path).await.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(ask(&app, path, &tag).await.status, 304);
    app.append("account-1", &one("Opened")).await;
    assert_eq!(ask(&app, path, &tag).await.status, 200);
    app.stop().await;
}

async fn ask(app: &TestApp, path: &str, known: &str) -> Answer {
    let request = app.http.get(format!("{}{path}", app.url)).header("if-none-match", known);
    Answer::of(request.send().await.unwrap()).await
}
