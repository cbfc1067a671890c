//! Names of streams and categories: what is refused, and what is odd and only a name.

use serde_json::json;

use super::{Guarded, names};
use crate::support::app::{TestApp, encode};
use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_stream_name_keeps_the_rules_of_names_on_every_path() {
    let guarded = Guarded::new().await;
    let long = "x".repeat(1_001);
    for (segment, rule) in [
        ("%00", "control characters (U+0000 at byte 0)"),
        ("account-1%00", "control characters (U+0000 at byte 9)"),
        ("a%0Ab", "control characters (U+000A at byte 1)"),
        ("a%0Db", "control characters (U+000D at byte 1)"),
        ("a%09b", "control characters (U+0009 at byte 1)"),
        ("a%7Fb", "control characters (U+007F at byte 1)"),
        ("a%C2%85b", "control characters (U+0085 at byte 1)"),
        (&long, "at most 1000 bytes of UTF-8, not 1001"),
    ] {
        for rest in ["/messages", "/messages/last", "", "/events"] {
            let answer = guarded.app.get(&format!("/v1/streams/{segment}{rest}")).await;
            names(&answer.problem(422, "invalid"), "stream_name", rule);
        }
        let body = json!({ "messages": [{ "type": "T" }] });
        let answer = guarded.app.post(&format!("/v1/streams/{segment}/messages"), &body).await;
        names(&answer.problem(422, "invalid"), "stream_name", rule);
        let answer = guarded.app.get(&format!("/v1/events?stream_name={segment}")).await;
        names(&answer.problem(422, "invalid"), "stream_name", rule);
        for rest in ["/messages", "/events"] {
            let answer = guarded.app.get(&format!("/v1/categories/{segment}{rest}")).await;
            assert_eq!(answer.problem(422, "invalid")["errors"][0]["field"], "category");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_path_that_gives_no_utf8_is_refused_by_its_name() {
    let guarded = Guarded::new().await;
    for bad in ["%FF", "a%C0%80", "%ED%A0%80", "account-%E2%28%A1"] {
        for (path, field) in [
            (format!("/v1/streams/{bad}/messages"), "stream_name"),
            (format!("/v1/streams/{bad}/events"), "stream_name"),
            (format!("/v1/categories/{bad}/messages"), "category"),
            (format!("/v1/messages/{bad}"), "id"),
        ] {
            names(&guarded.app.get(&path).await.problem(400, "malformed-request"), field, "UTF-8");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn an_empty_name_is_refused() {
    let guarded = Guarded::new().await;
    guarded.app.get("/v1/streams/").await.problem(404, "not-found");
    for (path, field) in [
        ("/v1/streams//messages", "stream_name"),
        ("/v1/streams//events", "stream_name"),
        ("/v1/categories//messages", "category"),
        ("/v1/events?stream_name=", "stream_name"),
        ("/v1/events?category=", "category"),
    ] {
        names(&guarded.app.get(path).await.problem(422, "invalid"), field, "must not be empty");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_category_has_no_hyphen() {
    let guarded = Guarded::new().await;
    for path in ["/v1/categories/account-1/messages", "/v1/categories/-/events", "/v1/events?category=account-1"] {
        names(&guarded.app.get(path).await.problem(422, "invalid"), "category", "without `-`");
    }
    let answer = guarded.app.get("/v1/categories/account/messages?correlation=transfer-9").await;
    names(&answer.problem(422, "invalid"), "correlation", "without `-`");
    guarded.end().await;
}

#[tokio::test]
async fn an_id_is_a_uuid() {
    let guarded = Guarded::new().await;
    for id in ["1", "0192f1c2", "not-a-uuid", "%00", "0192f1c2-0000-7000-8000-00000000000g", "' OR 1=1 --"] {
        let answer = guarded.app.get(&format!("/v1/messages/{}", id.replace(' ', "%20"))).await;
        names(&answer.problem(400, "malformed-request"), "id", "must be a UUID");
    }
    guarded.app.get("/v1/messages/0192f1c2-0000-7000-8000-000000000000").await.problem(404, "not-found");
    guarded.end().await;
}

/// Names that would do harm if they were ever put into a statement, a path or a frame as they are.
const ODD: [&str; 16] = [
    "'; DROP TABLE message_store.messages; --",
    "x' OR '1'='1",
    "account-1'; DELETE FROM message_store.messages WHERE ''='",
    "\"; SELECT pg_sleep(60); --",
    "$1",
    "%s%n{}{0}",
    "100%_like-%",
    "\\",
    "../../etc/passwd",
    "a/b?c=d#e&f",
    "<script>alert(1)</script>-1",
    "日本-語",
    "e\u{301}-é",
    "\u{202e}rtl-1",
    "👩‍👩‍👧-😀",
    " ",
];

#[tokio::test]
async fn what_looks_like_sql_is_only_a_name() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (at, name) in ODD.into_iter().enumerate() {
        let message = json!({ "type": name, "data": { name: name }, "metadata": { "correlationStreamName": name } });
        let answer = app.append(name, &json!({ "expected_version": -1, "messages": [message] })).await;
        assert_eq!(answer.status, 201, "{name}: {}", answer.text);
        let encoded = encode(name);
        let page = app.get(&format!("/v1/streams/{encoded}/messages?types={encoded}")).await.json();
        assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{name}");
        assert_eq!(page["messages"][0]["stream_name"], name);
        assert_eq!(page["messages"][0]["data"][name], name);
        let last = app.get(&format!("/v1/streams/{encoded}/messages/last?type={encoded}")).await;
        assert_eq!(last.json(), page["messages"][0]);
        let summary = app.get(&format!("/v1/streams/{encoded}")).await.json();
        assert_eq!(summary["stream_name"], name);
        let category = name.split('-').next().unwrap();
        if !category.is_empty() {
            let category = encode(category);
            let path = format!("/v1/categories/{category}/messages?correlation={category}");
            assert_eq!(app.get(&path).await.json()["messages"][0]["stream_name"], name, "{path}");
        }
        let mut events = app.follow(&format!("/v1/streams/{encoded}/events?from=beginning&event_names=type")).await;
        assert_eq!(events.next(name).await.json(), page["messages"][0]);
        assert_eq!(app.get("/v1/all/messages").await.json()["messages"].as_array().unwrap().len(), at + 1);
    }
    app.stop().await;
}
