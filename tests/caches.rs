//! Caches, in browsers and in front of the service: what they may keep, and what they are told when it has changed.

mod folding;
mod in_front;
mod pages;

use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp, TestClient};

const SETTLED: &str = "private, max-age=60, stale-while-revalidate=300";

/// Appends this many messages to `name`, and waits until all are settled. Answers their ids.
async fn fill(app: &TestApp, name: &str, count: usize) -> Vec<String> {
    let messages: Vec<Value> = (0..count).map(|n| json!({ "type": "Written", "data": { "n": n } })).collect();
    let mut ids = Vec::new();
    for messages in messages.chunks(1_000) {
        let answer = app.append(name, &json!({ "messages": messages })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let written = answer.json();
        ids.extend(written["messages"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
    }
    app.service.tail.refresh().await;
    ids
}

/// Asks again, with the tag of an earlier answer.
async fn again(app: &TestClient, path: &str, tag: &str) -> Answer {
    Answer::of(app.http.get(format!("{}{path}", app.url)).header("if-none-match", tag).send().await.unwrap()).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

/// The tag of a page that caches may keep.
fn tag_of(answer: &Answer) -> String {
    assert_eq!((answer.status, header(answer, "cache-control")), (200, Some(SETTLED)), "{}", answer.text);
    header(answer, "etag").expect("a tag").to_owned()
}
