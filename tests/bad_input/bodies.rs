//! Bodies that are no append request.

use headwater::http::openapi::document;
use serde_json::{Value, json};

use super::{AT_ONCE, Guarded, STREAM, names};
use crate::support::app::Answer;
use crate::support::raw_http::RawHttp;

#[tokio::test]
async fn a_wrong_json_type_is_named_wherever_it_stands() {
    let guarded = Guarded::new().await;
    for (body, field, rule) in [
        ("null", "body", "must be an object"),
        ("true", "body", "must be an object"),
        ("5", "body", "must be an object"),
        (r#""text""#, "body", "must be an object"),
        ("[]", "body", "must be an object"),
        (r#"[null, false, [{"type": "T"}]]"#, "body", "must be an object"),
        ("{}", "messages", "is missing"),
        (r#"{"messages": null}"#, "messages", "must be a list"),
        (r#"{"messages": {}}"#, "messages", "must be a list"),
        (r#"{"messages": "T"}"#, "messages", "must be a list"),
        (r#"{"messages": [5]}"#, "messages[0]", "must be an object"),
        (r#"{"messages": [{"type": "T"}, null]}"#, "messages[1]", "must be an object"),
        (r#"{"messages": [[null, "T", null, null, null]]}"#, "messages[0]", "must be an object"),
        (r#"{"messages": [{}]}"#, "messages[0].type", "is missing"),
        (r#"{"messages": [{"type": "T"}, {"data": 1}]}"#, "messages[1].type", "is missing"),
        (r#"{"messages": [{"type": 5}]}"#, "messages[0].type", "must be text"),
        (r#"{"messages": [{"type": null}]}"#, "messages[0].type", "must be text"),
        (r#"{"messages": [{"type": ["T"]}]}"#, "messages[0].type", "must be text"),
        (r#"{"messages": [{"type": "T", "id": 7}]}"#, "messages[0].id", "must be a UUID"),
        (r#"{"messages": [{"type": "T", "id": "seven"}]}"#, "messages[0].id", "must be a UUID"),
        (r#"{"messages": [{"type": "T", "id": ""}]}"#, "messages[0].id", "must be a UUID"),
        (r#"{"messages": [{"type": "T", "time": 1700000000}]}"#, "messages[0].time", "must be text"),
        (r#"{"messages": [{"type": "T", "time": {}}]}"#, "messages[0].time", "must be text"),
        (r#"{"expected_version": "1", "messages": [{"type": "T"}]}"#, "expected_version", "must be a whole number"),
        (r#"{"expected_version": 1.5, "messages": [{"type": "T"}]}"#, "expected_version", "must be a whole number"),
        (r#"{"expected_version": 1.0, "messages": [{"type": "T"}]}"#, "expected_version", "without a point"),
        (r#"{"expected_version": true, "messages": [{"type": "T"}]}"#, "expected_version", "must be a whole number"),
        (
            r#"{"expected_version": 9223372036854775808, "messages": [{"type": "T"}]}"#,
            "expected_version",
            "to 9223372036854775807",
        ),
        (r#"{"expected_version": 1e400, "messages": [{"type": "T"}]}"#, "expected_version", "number is out of range"),
        (r#"{"must_exist": 1, "messages": [{"type": "T"}]}"#, "must_exist", "must be true or false"),
        (r#"{"must_exist": null, "messages": [{"type": "T"}]}"#, "must_exist", "must be true or false"),
    ] {
        let problem = guarded.post(body).await.problem(400, "malformed-request");
        names(&problem, field, rule);
    }
    guarded.end().await;
}

#[tokio::test]
async fn an_unknown_field_is_refused_by_its_name() {
    let guarded = Guarded::new().await;
    for (body, field) in [
        (r#"{"expectedVersion": 1, "messages": [{"type": "T"}]}"#, "expectedVersion"),
        (r#"{"messages": [{"type": "T", "Data": {}}]}"#, "messages[0].Data"),
        (r#"{"messages": [{"type": "T"}, {"type": "T", "position": 0}]}"#, "messages[1].position"),
        (r#"{"messages": [{"type": "T"}], "stream_name": "account-1"}"#, "stream_name"),
    ] {
        names(&guarded.post(body).await.problem(400, "malformed-request"), field, "is unknown");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_field_given_twice_is_refused() {
    let guarded = Guarded::new().await;
    for (body, field) in [
        (r#"{"messages": [{"type": "T"}], "messages": [{"type": "U"}]}"#, "messages"),
        (r#"{"messages": [{"type": "T", "type": "U"}]}"#, "messages[0].type"),
    ] {
        names(&guarded.post(body).await.problem(400, "malformed-request"), field, "is given twice");
    }
    guarded.end().await;
}

#[tokio::test]
async fn what_is_no_json_is_refused_with_its_place() {
    let guarded = Guarded::new().await;
    for body in [
        "",
        " ",
        "{",
        "}",
        "messages",
        "{'messages': []}",
        r#"{"messages": [{"type": "T"}],}"#,
        r#"{"messages": [{"type": "T"}]"#,
        r#"{"messages": [{"type": "T", "data": {]}"#,
        r#"{"messages": [{"type": "T", "data": NaN}]}"#,
        r#"{"messages": [{"type": "T", "data": +1}]}"#,
        r#"{"messages": [{"type": "T", "data": 01}]}"#,
        r#"{"messages": [{"type": "T", "data": "\x"}]}"#,
        r#"{"messages": [{"type": "T", "data": "\u00"}]}"#,
        "{\"messages\": [{\"type\": \"T\", \"data\": \"a\nb\"}]}",
        "\u{feff}{\"messages\": [{\"type\": \"T\"}]}",
        r#"{"messages": [{"type": "\ud800"}]}"#,
    ] {
        let problem = guarded.post(body).await.problem(400, "malformed-request");
        let message = problem["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("line 1, column") || message.contains("line 2, column"), "{body:?}: {message}");
    }
    guarded.end().await;
}

#[tokio::test]
async fn one_json_value_and_nothing_after_it() {
    let guarded = Guarded::new().await;
    let body = r#"{"messages": [{"type": "T"}]} {"messages": [{"type": "U"}]}"#;
    names(&guarded.post(body).await.problem(400, "malformed-request"), "body", "nothing after it");
    guarded.end().await;
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_refused() {
    let guarded = Guarded::new().await;
    for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x28\xa1", b"\xf4\x90\x80\x80"] {
        for (before, after) in [
            (&br#"{"messages": [{"type": "T"#[..], &br#""}]}"#[..]),
            (br#"{"messages": [{"type": "T", "data": ""#, br#""}]}"#),
            (br#"{"messages": [{"type": "T", "data": {"k"#, br#"": 1}}]}"#),
        ] {
            let body = [before, bad, after].concat();
            send(&guarded, "application/json", body).await.problem(400, "malformed-request");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_body_that_is_not_called_json_is_refused() {
    let guarded = Guarded::new().await;
    let body = br#"{"messages": [{"type": "T"}]}"#;
    for media_type in [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/",
        "json",
        "",
    ] {
        let problem = send(&guarded, media_type, body.to_vec()).await.problem(415, "unsupported-media-type");
        let accepted = serde_json::json!(["application/json", "application/x-ndjson"]);
        assert_eq!(problem["accepted"], accepted, "{media_type}");
    }
    let without = guarded.app.http.post(format!("{}{STREAM}", guarded.app.url)).body(body.to_vec()).send().await;
    Answer::of(without.unwrap()).await.problem(415, "unsupported-media-type");
    guarded.end().await;
}

#[tokio::test]
async fn json_by_its_other_names_is_taken() {
    let guarded = Guarded::new().await;
    for media_type in ["application/json; charset=utf-8", "Application/JSON", "application/cloudevents+json"] {
        let answer = send(&guarded, media_type, b"{}".to_vec()).await;
        names(&answer.problem(400, "malformed-request"), "messages", "is missing");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_with_the_limit() {
    let guarded = Guarded::with(|settings| settings.body_bytes_max = 2_000).await;
    let message = r#"{"type": "T"}"#;
    let body = format!(r#"{{"messages": [{}]}}"#, vec![message; 200].join(","));
    let problem = guarded.post(body).await.problem(413, "body-too-large");
    assert_eq!(problem["limit"], 2_000);
    guarded.end().await;
}

#[tokio::test]
async fn a_body_just_under_the_default_limit_is_read_and_one_above_is_not() {
    let guarded = Guarded::new().await;
    let padded = |bytes: usize| format!("{}{{}}", " ".repeat(bytes - 2));
    names(&guarded.post(padded(4 << 20)).await.problem(400, "malformed-request"), "messages", "is missing");
    guarded.post(padded((4 << 20) + 1)).await.problem(413, "body-too-large");
    guarded.end().await;
}

async fn send(guarded: &Guarded, media_type: &str, body: Vec<u8>) -> Answer {
    let request = guarded.app.http.post(format!("{}{STREAM}", guarded.app.url)).header("content-type", media_type);
    Answer::of(request.body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn a_body_that_is_encoded_is_refused_with_the_header_that_says_so() {
    let guarded = Guarded::new().await;
    for coding in ["gzip", "br", "deflate", "gzip, identity", "x-unknown"] {
        let request = guarded.app.http.post(format!("{}{STREAM}", guarded.app.url));
        let request = request.header("content-type", "application/json").header("content-encoding", coding);
        let answer = Answer::of(request.body(r#"{"messages": [{"type": "T"}]}"#).send().await.unwrap()).await;
        let problem = answer.problem(415, "unsupported-media-type");
        assert!(problem["detail"].as_str().unwrap().contains("Content-Encoding"), "{problem}");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let guarded = Guarded::new().await;
    for length in
        ["4194305", "1000000000000", "18446744073709551612", "18446744073709551615", "99999999999999999999999"]
    {
        for more in ["", "Expect: 100-continue\r\n"] {
            let mut raw = RawHttp::connect(&guarded.app.url).await;
            let head =
                "POST /v1/streams/account-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
            raw.send(format!("{head}{more}Content-Length: {length}\r\n\r\n").as_bytes()).await;
            let problem = raw.answer_within(AT_ONCE).await.expect("an answer").problem(413, "body-too-large");
            assert_eq!(problem["limit"], 4 << 20, "{length}");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_client_that_writes_its_whole_body_first_reads_why_it_was_refused() {
    let guarded = Guarded::new().await;
    let head = "POST /v1/streams/account-1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type:";
    for (media_type, status, slug) in
        [("application/json", 413, "body-too-large"), ("text/plain", 413, "body-too-large")]
    {
        let mut raw = RawHttp::connect(&guarded.app.url).await;
        let bytes = 40 << 20;
        raw.send(format!("{head} {media_type}\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).await;
        raw.send_all(&vec![b' '; bytes]).await.expect("the service takes what it has refused");
        raw.answer().await.expect("an answer").problem(status, slug);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_body_where_there_is_none_is_refused_as_an_unknown_field_is() {
    let guarded = Guarded::new().await;
    let answered = async |method: &str, path: &str, body: &str| {
        let url = format!("{}{path}", guarded.app.url);
        let request = guarded.app.http.request(method.to_uppercase().parse().unwrap(), url);
        Answer::of(request.header("content-type", "application/json").body(body.to_owned()).send().await.unwrap()).await
    };
    let document: Value = serde_json::from_str(&document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |of| (path, of)));
    let without_body: Vec<(&str, &str)> = operations
        .filter(|(_, (method, operation))| {
            ["post", "put", "patch", "delete"].contains(&&***method) && operation["requestBody"].is_null()
        })
        .map(|(path, (method, _))| (&**method, &**path))
        .collect();
    assert!(without_body.len() >= 12, "{without_body:?}");
    for (method, path) in without_body {
        // No such thing is there: the body is looked at before.
        let path = path.replace("{id}", "0192f1c2-0000-7000-8000-000000000001").replace(['{', '}'], "");
        for (body, field, rule) in [
            (r#"{"partitioner": 1}"#, "partitioner", "is unknown"),
            ("[]", "body", "must be an object"),
            ("0", "body", "must be an object"),
            ("{} {}", "body", "one JSON value"),
            ("nonsense", "body", "is not valid JSON"),
        ] {
            names(&answered(method, &path, body).await.problem(400, "malformed-request"), field, rule);
        }
    }
    // Clients that put JSON into every POST are served.
    let definition: Value = json!({ "partitioner": { "kind": "constant" } });
    assert_eq!(guarded.app.put("/v1/aggregated-streams/a", &definition).await.status, 201);
    for body in ["{}", " {\n}", "null", ""] {
        assert_eq!(answered("post", "/v1/aggregated-streams/a/pause", body).await.status, 200, "{body:?}");
    }
    assert_eq!(answered("delete", "/v1/aggregated-streams/a", "{}").await.status, 204);
    guarded.end().await;
}
