//! What goes over the wire, byte for byte.

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::with;
use crate::support::app::{TestApp, encode};
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::sql_writer;

/// JSON that a parser on its way would change: long numbers, the order of keys, escapes, characters beyond the plane.
const AWKWARD: &str = r#"{"z": 1, "a": 123456789012345678901234567890.1200, "bb": 1e40, "é\u2028": "\n\r\t\u001f\"\\\u00e9\ud83d\ude00",
    "deep": [[], {}, null, -0.0, 1.0, 18446744073709551616], "": "data: x\n\nid: 7\n\n", "a": 123456789012345678901234567890.1200}"#;

/// The bytes of an answer up to and with a text.
async fn bytes_until(app: &TestApp, path: &str, accept: &str, end: &str) -> String {
    let answer = app.http.get(format!("{}{path}", app.url)).header("accept", accept).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], accept);
    let mut bytes = Vec::new();
    let mut body = answer.bytes_stream();
    loop {
        bytes.extend_from_slice(&body.next().await.expect("the stream goes on").unwrap());
        let text = String::from_utf8_lossy(&bytes);
        if text.find(end).is_some_and(|at| text[at..].ends_with('\n')) {
            return String::from_utf8(bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn the_wire_is_exactly_this() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("other-1", "Written", json!(null)).await;
    let body = json!({ "messages": [{
        "id": "0192f1c2-0000-7000-8000-000000000001", "type": "Deposited", "data": { "amount": 5 },
        "metadata": { "by": "me" }, "time": "2026-11-20T12:00:00.123456Z",
    }] });
    let answer = app.append("account-1", &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let at = answer.json()["messages"][0]["global_position"].as_i64().unwrap();
    let message = format!(
        r#"{{"id":"0192f1c2-0000-7000-8000-000000000001","stream_name":"account-1","type":"Deposited","position":0,"global_position":{at},"data":{{"amount": 5}},"metadata":{{"by": "me"}},"time":"2026-11-20T12:00:00.123456Z"}}"#
    );
    for (path, cursor) in [("/v1/streams/account-1/events", 0), ("/v1/categories/account/events", at)] {
        let id = format!("{cursor}~00000001");
        let path = with(path, "from=beginning");
        let text = bytes_until(&app, &path, "text/event-stream", "caught-up").await;
        let (retry, rest) = text.strip_prefix("retry: ").unwrap().split_once("\n\n").unwrap();
        assert!((1_000..=2_000).contains(&retry.parse::<u64>().unwrap()), "{retry}");
        let (time, _) = rest.rsplit_once("\"}\n\n").unwrap();
        let time = time.rsplit_once('"').unwrap().1;
        let caught_up = format!("id: {id}\nevent: caught-up\ndata: {{\"position\":{cursor},\"time\":\"{time}\"}}\n\n");
        assert_eq!(rest, format!("id: {id}\nevent: message\ndata: {message}\n\n{caught_up}"));
        let lines = bytes_until(&app, &path, "application/x-ndjson", "caught-up").await;
        let first = format!("{{\"event\":\"message\",\"id\":\"{id}\",\"data\":{message}}}\n");
        assert!(lines.starts_with(&first), "{lines}");
    }
    app.stop().await;
}

#[tokio::test]
async fn proxies_are_told_to_keep_nothing_and_retry_comes_first_and_differs() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut delays = std::collections::HashSet::new();
    for path in ["/v1/streams/a-1/events", "/v1/categories/a/events", "/v1/all/events", "/v1/events?category=a"] {
        for _ in 0..5 {
            let mut events = app.follow(path).await;
            assert_eq!(events.headers["cache-control"], "no-store, no-transform");
            assert_eq!(events.headers["x-accel-buffering"], "no");
            assert_eq!(events.headers["content-type"], "text/event-stream");
            assert!(!events.headers.contains_key("content-encoding"));
            let first = events.next_block(crate::support::app::PATIENCE).await.unwrap();
            delays.insert(first.retry.expect("the first frame is the retry delay"));
        }
    }
    assert!(delays.len() > 5, "{delays:?}");
    assert!(delays.iter().all(|delay| (1_000..=2_000).contains(delay)), "{delays:?}");
    app.stop().await;
}

#[tokio::test]
async fn data_comes_as_postgresql_prints_it() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let path = "/v1/categories/a/events?from=beginning";
    let mut live = app.follow(path).await;
    live.next("caught-up").await;
    let body = format!(r#"{{"messages":[{{"type":"T","data":{AWKWARD},"metadata":{AWKWARD}}}]}}"#);
    let answer = app.post_text("/v1/streams/a-1/messages", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    for data in [AWKWARD, "null", "[]", "\"text\"", "1E5", "false"] {
        sql_writer::insert(&sql, "a-2", "T", data).await;
    }
    sql.batch_execute("INSERT INTO message_store.messages (stream_name, position, type) VALUES ('a-3', 0, 'T')")
        .await
        .unwrap();
    let rows = sql
        .query(
            "SELECT coalesce(data::text, 'null'), coalesce(metadata::text, 'null'), id::text \
             FROM message_store.messages ORDER BY global_position",
            &[],
        )
        .await
        .unwrap();
    let mut told = Vec::new();
    for _ in &rows {
        told.push(live.next("message").await.data.unwrap());
    }
    let mut history = app.follow(path).await;
    let lines = bytes_until(&app, path, "application/x-ndjson", "caught-up").await;
    for ((row, told), line) in rows.iter().zip(told).zip(lines.lines()) {
        let (data, metadata, id): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let expected = format!(r#","data":{data},"metadata":{metadata},"time":"#);
        assert!(told.contains(&expected) && told.contains(id), "{told}");
        assert_eq!(history.next("message").await.data.unwrap(), told);
        assert!(line.contains(&told), "{line}");
    }
    app.stop().await;
}

#[tokio::test]
async fn names_with_line_breaks_written_in_sql_break_no_frame() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let types = ["a\nid: 99", "b\r\n\r\ndata: x", "\n\nevent: closing", "c\r", "plain", "\"\\\u{1}\u{2028}"];
    let mut followers = Vec::new();
    for names in ["message", "type"] {
        let path = format!("/v1/all/events?from=beginning&event_names={names}");
        followers.push((app.follow(&path).await, names));
    }
    for message_type in types {
        sql_writer::insert(&sql, "odd\nname-1\r", message_type, "{}").await;
    }
    for names in ["message", "type"] {
        let path = format!("/v1/all/events?from=beginning&event_names={names}");
        followers.push((app.follow(&path).await, names));
    }
    for (events, names) in &mut followers {
        for (message_type, at) in types.iter().zip(1..) {
            let mut event = events.next_event().await;
            while event.is("caught-up") {
                event = events.next_event().await;
            }
            assert_eq!(event.json()["type"], *message_type);
            assert_eq!(event.json()["stream_name"], "odd\nname-1\r");
            assert_eq!(event.place(), Some(at.to_string().as_str()));
            let name = event.name.unwrap();
            if *names == "type" {
                assert_eq!(name, message_type.replace(['\n', '\r'], " "));
            } else {
                assert_eq!(name, "message");
            }
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn events_may_be_named_by_the_message_s_type() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut live = app.follow("/v1/streams/a-1/events?event_names=type").await;
    app.write("a-1", "Deposited", json!({})).await;
    app.write("a-1", "Withdrawn", json!({})).await;
    let mut history = app.follow("/v1/streams/a-1/events?event_names=type&from=beginning").await;
    for events in [&mut live, &mut history] {
        assert_eq!(events.next("Deposited").await.place(), Some("0"));
        assert_eq!(events.next("Withdrawn").await.place(), Some("1"));
    }
    app.get("/v1/streams/a-1/events?event_names=id").await.problem(400, "malformed-request");
    app.stop().await;
}

/// Whoever may append could tell followers that they have caught up, or that their stream ends.
#[tokio::test]
async fn a_type_that_is_the_name_of_another_event_stays_a_message() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let document: Value = serde_json::from_str(&headwater::http::openapi::document()).unwrap();
    let lines = document["components"]["schemas"]["EventLine"]["oneOf"].as_array().unwrap();
    let mut types: Vec<&str> = lines
        .iter()
        .map(|line| line["$ref"].as_str().unwrap().rsplit('/').next().unwrap())
        .filter(|name| *name != "MessageEventLine")
        .map(|name| document["components"]["schemas"][name]["properties"]["event"]["const"].as_str().unwrap())
        .collect();
    assert_eq!(types.len(), 6, "{types:?}");
    types.extend(["error", "open", "message"]);
    types.push("Closing");
    for message_type in &types {
        app.write("a-1", message_type, json!({})).await;
    }
    let path = "/v1/streams/a-1/events?event_names=type&from=beginning";
    let mut events = app.follow(path).await;
    for message_type in &types {
        let event = events.next_event().await;
        assert_eq!(event.json()["type"], *message_type);
        assert!(event.is(if *message_type == "Closing" { "Closing" } else { "message" }), "{event:?}");
    }
    assert!(events.next_event().await.is("caught-up"));
    let lines = bytes_until(&app, path, "application/x-ndjson", "\"Closing\"").await;
    assert_eq!(lines.matches("{\"event\":\"message\"").count(), types.len() - 1, "{lines}");
    app.stop().await;
}

#[tokio::test]
async fn ndjson_has_the_same_events_a_line_each() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for n in 0..2_400 / 300 {
        let messages: Vec<Value> =
            (0..300).map(|i| json!({ "type": "Numbered", "data": { "n": n * 300 + i } })).collect();
        assert_eq!(app.append("a-1", &json!({ "messages": messages })).await.status, 201);
    }
    let filter = "from=beginning&heartbeat=1s&filter=data.n%20%3E%3D%202390%20%7C%7C%20data.n%20%3C%203";
    for path in ["/v1/streams/a-1/events", "/v1/all/events"] {
        let path = format!("{path}?{filter}");
        let mut events: Events = app.follow(&path).await;
        let blocks = events.blocks_until("heartbeat").await;
        let lines = bytes_until(&app, &path, "application/x-ndjson", "\"heartbeat\"").await;
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
        let blocks: Vec<_> = blocks.iter().filter(|block| block.retry.is_none()).collect();
        assert_eq!(blocks.len(), lines.len());
        assert!(blocks.iter().any(|block| block.name.is_none()), "there is progress in it");
        for (block, line) in blocks.iter().zip(&lines) {
            assert_eq!(line["event"], block.name.as_deref().unwrap_or("progress"));
            assert_eq!(line["id"].as_str(), block.id.as_deref());
            if line["event"] != "caught-up" {
                assert_eq!(line["data"], block.json());
            }
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn names_come_through_the_path_as_they_are() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for name in ["a b-1", "ü/ö-2", "q?x=1&y-3", "100%-4", "plus+plus-5", "a-1+2+3"] {
        let mut events = app.follow(&format!("/v1/streams/{}/events", encode(name))).await;
        let mut several = app.follow(&format!("/v1/events?stream_name={}", encode(name))).await;
        let at = app.write(name, "Written", json!({})).await;
        for events in [&mut events, &mut several] {
            let message = &events.messages(1).await[0];
            assert_eq!((message["stream_name"].as_str(), message["global_position"].as_i64()), (Some(name), Some(at)));
        }
    }
    app.stop().await;
}
