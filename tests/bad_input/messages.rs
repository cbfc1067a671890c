//! Append requests that can be read, and break a rule.

use serde_json::json;

use super::{Guarded, STREAM, names};
use crate::support::app::Answer;

#[tokio::test]
async fn json_that_postgresql_cannot_keep_is_refused_with_its_place() {
    let guarded = Guarded::new().await;
    let nested = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    for (value, rule) in [
        (r#""\u0000""#.to_owned(), "U+0000 (at byte 1)"),
        (r#"{"a": {"b": ["x\u0000y"]}}"#.to_owned(), "U+0000 (at byte 15)"),
        (r#"{"k\u0000": 1}"#.to_owned(), "U+0000 (at byte 3)"),
        (r#""\ud800""#.to_owned(), "half of a surrogate pair (at byte 1)"),
        (r#"{"\udfff": 1}"#.to_owned(), "half of a surrogate pair (at byte 2)"),
        (r#"["\ud83d\u0041"]"#.to_owned(), "half of a surrogate pair (at byte 2)"),
        (nested("[", "]", 513), "deeper than 512 levels (at byte 512)"),
        (nested("[", "]", 100_000), "deeper than 512 levels (at byte 512)"),
        (format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)), "deeper than 512 levels"),
        ("1e1000000".to_owned(), "more than 1000 digits"),
        ("[-1E-1000000]".to_owned(), "more than 1000 digits"),
        ("1e99999999999999999999999999".to_owned(), "more than 1000 digits"),
        ("9".repeat(1_001), "more than 1000 digits"),
        (format!("0.{}", "3".repeat(1_000)), "more than 1000 digits"),
    ] {
        for field in ["data", "metadata"] {
            let body = format!(r#"{{"messages": [{{"type": "T"}}, {{"type": "T", "{field}": {value}}}]}}"#);
            let problem = guarded.post(body).await.problem(422, "invalid");
            names(&problem, &format!("messages[1].{field}"), rule);
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_hundred_thousand_brackets_anywhere_are_refused() {
    let guarded = Guarded::new().await;
    let deep = "[".repeat(100_000);
    for body in [
        deep.clone(),
        format!(r#"{{"messages": {deep}"#),
        format!(r#"{{"messages": [{{"type": {deep}"#),
        format!(r#"{{"messages": [{{"type": "T", "data": {deep}"#),
        format!(r#"{{"unknown": {deep}"#),
        r#"{"messages": ["#.repeat(50_000),
    ] {
        guarded.post(body).await.problem(400, "malformed-request");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_type_keeps_the_rules_of_types() {
    let guarded = Guarded::new().await;
    for (message_type, rule) in [
        ("".to_owned(), "must not be empty"),
        ("a\0b".to_owned(), "control characters (U+0000 at byte 1)"),
        ("a\nb".to_owned(), "control characters (U+000A at byte 1)"),
        ("\u{85}".to_owned(), "control characters (U+0085 at byte 0)"),
        ("T".repeat(1_001), "at most 1000 bytes of UTF-8, not 1001"),
        ("ü".repeat(501), "at most 1000 bytes of UTF-8, not 1002"),
    ] {
        let answer = guarded.app.post(STREAM, &json!({ "messages": [{ "type": message_type }] })).await;
        names(&answer.problem(422, "invalid"), "messages[0].type", rule);
    }
    guarded.end().await;
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once() {
    let guarded = Guarded::new().await;
    let body = r#"{"expected_version": -2, "messages": [{"type": ""}, {"type": "T", "data": "\u0000"}]}"#;
    let problem = guarded.post(body).await.problem(422, "invalid");
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect();
    assert_eq!(fields, ["expected_version", "messages[0].type", "messages[1].data"]);
    guarded.end().await;
}

#[tokio::test]
async fn expected_versions_begin_at_minus_one() {
    let guarded = Guarded::new().await;
    for version in [-2, i64::MIN] {
        let body = json!({ "expected_version": version, "messages": [{ "type": "T" }] });
        names(&guarded.app.post(STREAM, &body).await.problem(422, "invalid"), "expected_version", "must be -1 or more");
    }
    let body = json!({ "expected_version": i64::MAX, "messages": [{ "type": "T" }] });
    assert_eq!(guarded.app.post(STREAM, &body).await.problem(409, "wrong-expected-version")["current_version"], 1);
    guarded.end().await;
}

#[tokio::test]
async fn a_request_has_from_one_to_the_limit_of_messages() {
    let guarded = Guarded::with(|settings| settings.messages_per_append_max = 3).await;
    for count in [0, 4] {
        let answer = guarded.app.post(STREAM, &json!({ "messages": vec![json!({ "type": "T" }); count] })).await;
        names(&answer.problem(422, "invalid"), "messages", &format!("from 1 to 3 messages, not {count}"));
    }
    guarded.end().await;
}

#[tokio::test]
async fn by_default_a_thousand_and_one_messages_are_too_many() {
    let guarded = Guarded::new().await;
    let answer = guarded.app.post(STREAM, &json!({ "messages": vec![json!({ "type": "T" }); 1_001] })).await;
    names(&answer.problem(422, "invalid"), "messages", "from 1 to 1000 messages, not 1001");
    guarded.end().await;
}

#[tokio::test]
async fn an_id_stands_once_in_a_request() {
    let guarded = Guarded::new().await;
    let id = "0192f1c2-0000-7000-8000-000000000001";
    for other in [id.to_owned(), id.to_uppercase(), format!("{{{id}}}"), id.replace('-', "")] {
        let messages = json!([{ "type": "T", "id": id }, { "type": "U" }, { "type": "T", "id": other }]);
        let answer = guarded.app.post(STREAM, &json!({ "messages": messages })).await;
        names(&answer.problem(422, "invalid"), "messages[2].id", "must differ");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_time_is_rfc_3339() {
    let guarded = Guarded::new().await;
    for time in [
        "",
        "now",
        "infinity",
        "2026-11-20",
        "2026-11-20T12:00:00",
        "2026-02-30T12:00:00Z",
        "2026-11-20T25:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "1700000000",
    ] {
        let answer = guarded.app.post(STREAM, &json!({ "messages": [{ "type": "T", "time": time }] })).await;
        names(&answer.problem(400, "malformed-request"), "messages[0].time", "RFC 3339");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_with_the_limit() {
    let guarded = Guarded::with(|settings| settings.message_bytes_max = 1_000).await;
    let half = "x".repeat(500);
    for message in [
        json!({ "type": "T", "data": "x".repeat(999) }),
        json!({ "type": "T", "metadata": "x".repeat(999) }),
        json!({ "type": "T", "data": half, "metadata": half }),
    ] {
        let answer = guarded.app.post(STREAM, &json!({ "messages": [{ "type": "T" }, message] })).await;
        let problem = answer.problem(413, "message-too-large");
        assert_eq!(problem["limit"], 1_000);
        assert!(problem["detail"].as_str().unwrap().starts_with("messages[1] "), "{problem}");
    }
    guarded.end().await;
}

#[tokio::test]
async fn an_idempotency_key_is_neither_empty_nor_huge() {
    let guarded = Guarded::new().await;
    for key in [String::new(), "k".repeat(1_001)] {
        let request = guarded.app.http.post(format!("{}{STREAM}", guarded.app.url)).header("idempotency-key", key);
        let answer = Answer::of(request.json(&json!({ "messages": [{ "type": "T" }] })).send().await.unwrap()).await;
        names(&answer.problem(422, "invalid"), "Idempotency-Key", "from 1 to 1000 bytes");
    }
    guarded.end().await;
}
