//! What was written in SQL may hold anything that the table takes; no page and no event stream breaks on it.

use serde_json::json;

use super::walk;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn data_is_byte_for_byte_what_postgresql_prints() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (data, metadata) in [
        (r#"{"b": 1, "a":2, "b":3}"#, "{}"),
        ("12345678901234567890.12345678901234567890", "-0.0"),
        (r#"{"big": 1e300, "small": 1E-300, "zero": 1.500000}"#, "[1.0, 1, 1e2]"),
        (r#""\u00e9 \ud83d\ude00 \" \\ / \/ \b\f\n\r\t \u001f \u2028""#, r#"{"é": "日本"}"#),
        ("[]", "true"),
        (r#"{"nested": [[[{"deep": [null, true, false]}]]]}"#, "null"),
    ] {
        let body = format!(r#"{{"messages": [{{"type": "T", "data": {data}, "metadata": {metadata}}}]}}"#);
        let answer = app.post_text("/v1/streams/a-1/messages", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    let sql = database.connect().await;
    let rows = sql.query("SELECT data::text, metadata::text FROM message_store.messages ORDER BY position", &[]).await;
    let page = app.get("/v1/streams/a-1/messages").await.text;
    let mut rest = page.as_str();
    for row in rows.unwrap() {
        let (data, metadata) = (row.get::<_, String>(0), row.get::<_, Option<String>>(1));
        let part = format!(r#""data":{data},"metadata":{},"time":"#, metadata.unwrap_or("null".into()));
        let at = rest.find(&part).unwrap_or_else(|| panic!("{part} is not in {rest}"));
        rest = &rest[at + part.len()..];
    }
    let mut events = app.follow("/v1/streams/a-1/events?from=beginning").await;
    for _ in 0..6 {
        let event = events.next("message").await;
        assert!(page.contains(event.data.as_deref().unwrap()), "an event's data differs from the page's");
    }
    app.stop().await;
}

/// Each with the field that is to be read back, and how.
const ODD_ROWS: [(&str, &str); 14] = [
    ("stream_name, position, type, time", "'odd-1', 0, 'T', 'infinity'"),
    ("stream_name, position, type, time", "'odd-1', 1, 'T', '-infinity'"),
    ("stream_name, position, type, time", "'odd-1', 2, 'T', '4000-01-01 BC'"),
    ("stream_name, position, type, time", "'odd-1', 3, 'T', '294276-12-31'"),
    ("stream_name, position, type, data", "'odd-1', 4, '', '{}'"),
    ("stream_name, position, type, data", "'odd-1', 5, E'a\\nb\\r\\tc', NULL"),
    ("stream_name, position, type, data", "'odd-1', 6, repeat('T', 100000), 'null'"),
    ("stream_name, position, type, data", "'odd-1', 7, 'T', to_jsonb(repeat('x', 8000000))"),
    ("stream_name, position, type, data", "'odd-1', 8, 'T', (repeat('[', 5000) || repeat(']', 5000))::jsonb"),
    ("stream_name, position, type, data", "'odd-1', 9, 'T', '1e16000'"),
    ("stream_name, position, type, metadata", "'odd-1', 10, 'T', '[1, 2]'"),
    ("stream_name, position, type, metadata", "'odd-1', 12, 'T', '{\"correlationStreamName\": {\"a\": 1}}'"),
    ("stream_name, position, type", "'', 0, 'T'"),
    ("stream_name, position, type", "E'odd\\n\"\\\\-1', 0, 'T'"),
];

#[tokio::test]
async fn odd_rows_break_no_page_and_no_event_stream() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut live = app.follow("/v1/all/events").await;
    live.next("caught-up").await;
    let sql = database.connect().await;
    for (columns, values) in ODD_ROWS {
        sql.batch_execute(&format!("INSERT INTO message_store.messages ({columns}) VALUES ({values})")).await.unwrap();
    }
    let all = walk_raw(&app, "/v1/all/messages").await;
    assert_eq!(all.len(), ODD_ROWS.len());
    let seen: Vec<_> = {
        let mut seen = Vec::new();
        for _ in 0..ODD_ROWS.len() {
            seen.push(live.next("message").await.data.unwrap());
        }
        seen
    };
    assert_eq!(seen, all);
    let mut past = app.follow("/v1/all/events?from=beginning").await;
    for message in &all {
        assert_eq!(past.next("message").await.data.as_ref(), Some(message));
    }
    assert_eq!(walk_raw(&app, "/v1/categories/odd/messages").await.len(), 12);
    assert_eq!(walk_raw(&app, "/v1/streams/odd-1/messages").await.len(), 12);
    let first = app.get("/v1/streams/odd-1/messages?limit=1").await.json();
    assert_eq!(first["messages"][0]["time"], "9999-12-31T23:59:59.999999Z");
    let second = app.get("/v1/streams/odd-1/messages?from=1&limit=1").await.json();
    assert_eq!(second["messages"][0]["time"], "0001-01-01T00:00:00.000000Z");
    let summary = app.get("/v1/streams/odd-1").await.json();
    assert_eq!((&summary["version"], &summary["message_count"]), (&json!(12), &json!(12)));
    // Expressions look at every one of them.
    for filter in [
        "data.a%20==%201",
        "size(type)%20%3E%201000",
        "metadata.correlationStreamName.a%20==%201",
        "time%20%3E%20'9999'",
    ] {
        assert_eq!(app.get(&format!("/v1/all/messages?filter={filter}")).await.status, 200, "{filter}");
    }
    assert_eq!(app.get("/v1/categories/odd/messages?correlation=transfer").await.json()["messages"], json!([]));
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    app.stop().await;
}

#[tokio::test]
async fn the_highest_position_there_can_be_breaks_nothing() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let insert = format!(
        "INSERT INTO message_store.messages (stream_name, position, type) VALUES ('odd-1', 0, 'T'), ('odd-1', {}, 'T')",
        i64::MAX
    );
    database.connect().await.batch_execute(&insert).await.unwrap();
    let page = app.get("/v1/streams/odd-1/messages").await.json();
    assert_eq!(page["messages"].as_array().unwrap().len(), 2);
    assert_eq!(page["version"], i64::MAX);
    assert_eq!(app.get("/v1/streams/odd-1/messages?limit=1").await.json()["next"], 1);
    assert_eq!(walk(&app, "/v1/streams/odd-1/messages?direction=backward", 1).await.len(), 2);
    assert_eq!(walk(&app, "/v1/streams/odd-1/messages?filter=true", 1).await.len(), 2);
    let mut events = app.follow("/v1/streams/odd-1/events?from=beginning").await;
    assert_eq!(events.messages(2).await[1]["position"], i64::MAX);
    // Nothing can follow it, and that is said instead of a wrong position.
    let answer = app.append("odd-1", &super::one("T")).await;
    assert!((400..500).contains(&answer.status), "{}", answer.text);
    assert_eq!(app.metric("headwater_panics_total").await, 0.0);
    app.stop().await;
}

/// The messages' texts, which need not be readable for this client's JSON: it has bounds of its own.
async fn walk_raw(app: &TestApp, path: &str) -> Vec<String> {
    // A plain INSERT tells nobody; reading everything looks at the log anew, so that all of it is history.
    app.get("/v1/all/messages?limit=1").await;
    let text = app.get(path).await.text;
    let mut events = app.follow(&format!("{}?from=beginning", path.replace("/messages", "/events"))).await;
    let mut messages = Vec::new();
    loop {
        let event = events.next_block(crate::support::app::PATIENCE).await.expect("the event stream goes on");
        if event.is("caught-up") {
            break;
        }
        if event.is("message") {
            messages.push(event.data.unwrap());
        }
    }
    let body = format!("{{\"messages\":[{}],\"next\":", messages.join(","));
    let differs = text.bytes().zip(body.bytes()).position(|(in_page, in_events)| in_page != in_events);
    let around = |text: &str, at: usize| text.chars().skip(at.saturating_sub(100)).take(200).collect::<String>();
    if let Some(at) = differs {
        panic!("{path}: the page has {} where the event stream has {}", around(&text, at), around(&body, at));
    }
    messages
}
