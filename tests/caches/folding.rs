//! Long polls that a cache can fold: what the service answers, without a cache.

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;

const FOLDED: Option<&str> = Some("private, max-age=5");

fn cursor_of(answer: &Answer) -> i64 {
    assert_eq!((answer.status, header(answer, "cache-control")), (200, FOLDED), "{}", answer.text);
    answer.json()["cursor"].as_i64().expect("a cursor")
}

#[tokio::test]
async fn whoever_comes_new_is_told_the_interval_and_all_wait_to_its_end() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    fill(&app, "a-1", 3).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" }, "max_partition": 0 });
    assert_eq!(app.put("/v1/aggregated-streams/all-a", &definition).await.status, 201);
    app.get("/v1/aggregated-streams/all-a?min_position=3&wait=20s").await;
    for log in [
        "/v1/streams/a-1/messages",
        "/v1/categories/a/messages",
        "/v1/all/messages",
        "/v1/aggregated-streams/all-a/partitions/0/messages",
    ] {
        // Not one of these waits, or the test would take minutes.
        let first = app.get(&format!("{log}?from=0&wait=60s&cursor=0")).await;
        assert_eq!(first.json()["messages"].as_array().unwrap().len(), 3);
        let next = first.json()["next"].as_i64().unwrap();
        let current = cursor_of(&first);
        let late = app.get(&format!("{log}?from={next}&wait=60s&cursor={}", current - 1)).await;
        assert!(cursor_of(&late) >= current && late.json()["messages"] == json!([]), "{}", late.text);
        // An interval that ends with nothing names another one, or a cache would answer with it for ever.
        let first = app.get(&format!("{log}?from={next}&wait=1s&cursor=0")).await;
        let mut cursor = cursor_of(&first);
        for _ in 0..2 {
            let empty = app.get(&format!("{log}?from={next}&wait=1s&cursor={cursor}")).await;
            assert!(cursor_of(&empty) > cursor, "{}", empty.text);
            cursor = cursor_of(&empty);
        }
    }
    // Without a cursor there is none.
    assert_eq!(app.get("/v1/all/messages?from=9&wait=1ms").await.json().get("cursor"), None);
    app.stop().await;
}

#[tokio::test]
async fn a_message_ends_the_wait_of_all() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let path = "/v1/categories/a/messages?from=0&wait=60s&cursor=";
    let cursor = cursor_of(&app.get(&format!("{path}0")).await);
    // The next interval's, in case this one ends just now: one from the clock of another instance.
    let waiting = format!("{path}{}", cursor + 1);
    let poll = async {
        let answer = app.get(&waiting).await;
        assert_eq!(answer.json()["messages"].as_array().unwrap().len(), 1, "{}", answer.text);
        assert_eq!(cursor_of(&answer), cursor + 1);
    };
    let write = async {
        app.write("a-1", "Written", json!({})).await;
    };
    tokio::join!(poll, write);
    app.stop().await;
}

#[tokio::test]
async fn a_cursor_that_cannot_be_is_refused() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (query, field) in [
        ("cursor=5", "cursor"),
        ("cursor=5&wait=0s", "cursor"),
        ("cursor=5&wait=999ms", "cursor"),
        ("cursor=-1&wait=20s", "cursor"),
        ("cursor=9007199254740992&wait=20s", "cursor"),
    ] {
        for log in ["streams/a-1", "categories/a", "all"] {
            let problem = app.get(&format!("/v1/{log}/messages?{query}")).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["field"], field, "{query}: {problem}");
        }
    }
    app.get("/v1/all/messages?cursor=x&wait=20s").await.problem(400, "malformed-request");
    // The last one that there can be is taken, though it folds nothing.
    assert_eq!(app.get("/v1/all/messages?cursor=9007199254740991&wait=1s").await.status, 200);
    app.stop().await;
}
