//! `stream.trim(count)`, of a stream alone and of a group's, and `stream.set_id(id)`.

use serde_json::{Value, json};

use super::{ConsumerGroup, add, pending, range, service};
use crate::subscriptions::numbers;
use crate::support::app::TestApp;

/// `len(stream)`
async fn length(app: &TestApp, stream: &str) -> Value {
    app.get(&format!("/v1/streams/{stream}")).await.json()["message_count"].clone()
}

/// `stream.trim(count)`: how many were removed.
async fn trim(app: &TestApp, stream: &str, count: i64) -> Value {
    let done = trim_with(app, stream, json!({ "keep_last": count })).await;
    assert_eq!((&done["is_complete"], &done["kept_unacked"]), (&json!(true), &json!(false)), "{done}");
    done["trimmed"].clone()
}

async fn trim_with(app: &TestApp, stream: &str, body: Value) -> Value {
    let answer = app.post(&format!("/v1/streams/{stream}/trim"), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// `for i in range(count): stream.add({'data': 'message-%s' % i})`
async fn fill(app: &TestApp, stream: &str, count: i64) {
    let numbered: Vec<i64> = (0..count).collect();
    for some in numbered.chunks(100) {
        let message = |n: &i64| json!({ "type": "Message", "data": { "message": format!("message-{n}"), "n": n } });
        let messages: Vec<Value> = some.iter().map(message).collect();
        assert_eq!(app.append(stream, &json!({ "messages": messages })).await.status, 201);
    }
}

/// A thousand messages, then `trim(10)`. Redis removes 909 unless it is told to be exact; here that is the only way.
#[tokio::test]
async fn a_stream_is_trimmed_to_its_newest_messages() {
    let (_database, app) = service().await;
    fill(&app, "stream-2", 1_000).await;
    assert_eq!(trim(&app, "stream-2", 10).await, 990);
    assert_eq!(length(&app, "stream-2").await, 10);
    // `trim(10, approximate=False)`
    assert_eq!(trim(&app, "stream-2", 10).await, 0);
    let left: Vec<String> = (990..1_000).map(|n| format!("message-{n}")).collect();
    assert_eq!(range(&app, "stream-2", "").await, left, "`list(stream)`");
    assert_eq!(range(&app, "stream-2", "from=998").await, left[8..], "the ids are the same as before");
    // A range that begins with an id that is gone is the rest in Redis. Here nobody takes the rest for the whole.
    let gone = app.get("/v1/streams/stream-2/messages?from=5").await.problem(410, "position-trimmed");
    assert_eq!(gone["first_position"], 990);
    app.stop().await;
}

/// `add(data, maxlen=10)`: two requests; between them the stream is longer.
#[tokio::test]
async fn a_maximal_length_is_a_trim_after_the_append() {
    let (_database, app) = service().await;
    for n in 0..25 {
        assert_eq!(add(&app, "stream-a", json!({ "message": n })).await, n);
        assert_eq!(trim(&app, "stream-a", 10).await, i64::from(n >= 10));
        assert_eq!(length(&app, "stream-a").await, 10.min(n + 1));
    }
    assert_eq!(range(&app, "stream-a", "").await, (15..25).map(Value::from).collect::<Vec<_>>());
    // Redis empties a stream by `trim(0)`; here the newest message stays, because it is the version of the stream.
    let refused = app.post("/v1/streams/stream-a/trim", &json!({ "keep_last": 0 })).await.problem(422, "invalid");
    assert_eq!(refused["errors"][0]["field"], "keep_last");
    assert_eq!(length(&app, "stream-a").await, 10);
    app.stop().await;
}

/// A deleted message is counted by the length until it is among the oldest that go.
#[tokio::test]
async fn the_place_of_a_deleted_message_goes_by_a_trim() {
    let (_database, app) = service().await;
    for n in 0..4 {
        add(&app, "stream-a", json!({ "message": n })).await;
    }
    let page = app.get("/v1/streams/stream-a/messages").await.json();
    let id = page["messages"][1]["id"].as_str().unwrap();
    assert_eq!(app.delete(&format!("/v1/messages/{id}")).await.status, 200);
    assert_eq!(length(&app, "stream-a").await, 4);
    assert_eq!(trim(&app, "stream-a", 3).await, 1);
    assert_eq!(range(&app, "stream-a", "").await, [json!(null), json!(2), json!(3)]);
    assert_eq!(trim(&app, "stream-a", 2).await, 1);
    assert_eq!(range(&app, "stream-a", "").await, [2, 3]);
    app.get(&format!("/v1/messages/{id}")).await.problem(404, "not-found");
    app.stop().await;
}

/// `stream.set_id(id)` sets the id below which none is given again. There is nothing to be set here: positions never go
/// back, whatever is trimmed and deleted, and a larger one than the next cannot be chosen.
#[tokio::test]
async fn set_id_of_a_stream_has_nothing_to_set() {
    let (_database, app) = service().await;
    fill(&app, "stream-2", 1_000).await;
    let last = app.get("/v1/streams/stream-2/messages/last").await.json();
    assert_eq!(app.delete(&format!("/v1/messages/{}", last["id"].as_str().unwrap())).await.status, 200);
    assert_eq!(trim(&app, "stream-2", 1).await, 999);
    assert_eq!(app.get("/v1/streams/stream-2").await.json()["version"], 999);
    let chosen = json!({ "messages": [{ "type": "Message", "position": 5_000 }] });
    let refused = app.append("stream-2", &chosen).await.problem(400, "malformed-request");
    assert_eq!(refused["errors"][0]["field"], "messages[0].position");
    assert_eq!(add(&app, "stream-2", json!({ "message": "next" })).await, 1_000);
    app.stop().await;
}

/// `cg.stream_a.trim(count)`: Redis removes what is pending and what no consumer has read yet. Here both stay, unless
/// that is what is wanted.
#[tokio::test]
async fn a_groups_stream_is_trimmed_of_what_was_acked() {
    let (_database, app) = service().await;
    fill(&app, "stream-a", 20).await;
    let cg = ConsumerGroup::create(&app, "beginning").await;
    let stream_a = &cg.0[0];
    let read = stream_a.fetch("c1", 10).await;
    stream_a.acked("c1", &read[..5]).await;
    let done = trim_with(&app, "stream-a", json!({ "keep_last": 2 })).await;
    assert_eq!((&done["trimmed"], &done["kept_unacked"]), (&json!(5), &json!(true)));
    assert_eq!((length(&app, "stream-a").await, pending(stream_a).await.len()), (json!(15), 5));

    // As Redis does.
    let done = trim_with(&app, "stream-a", json!({ "keep_last": 2, "unless_unacked": false })).await;
    assert_eq!((&done["trimmed"], &done["first_position"]), (&json!(13), &json!(18)));
    assert_eq!(numbers(&stream_a.fetch("c2", 100).await), [18, 19]);
    // Ten were not read, and three of them not acked: the group is told of all that it has missed.
    assert_eq!(stream_a.status().await["trimmed"], 13);
    app.stop().await;
}

/// `set_id('0-0')` of a group whose stream was trimmed: what is left is unread.
#[tokio::test]
async fn a_group_that_is_set_back_begins_with_what_is_left() {
    let (_database, app) = service().await;
    fill(&app, "stream-a", 20).await;
    let cg = ConsumerGroup::create(&app, "beginning").await;
    let stream_a = &cg.0[0];
    stream_a.drain("c1").await;
    assert_eq!(trim(&app, "stream-a", 3).await, 17);
    for to in [json!("beginning"), json!(4), json!(17)] {
        assert_eq!(stream_a.post("/seek", &json!({ "to": to })).await.status, 200);
        assert_eq!(stream_a.status().await["delivered_lag"], 3, "{to}");
        assert_eq!(numbers(&stream_a.drain("c1").await), [17, 18, 19], "{to}");
    }
    app.stop().await;
}
