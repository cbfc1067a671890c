//! Whatever is wrong with a request on aggregated streams is named, and changes nothing.

use serde_json::{Value, json};

use super::*;
use crate::support::database::TestDatabase;

struct Guarded {
    app: TestApp,
    sql: Client,
    _database: TestDatabase,
}

impl Guarded {
    async fn new() -> Self {
        let database = TestDatabase::migrated().await;
        let (app, sql) = (TestApp::on(&database).await, database.connect().await);
        define(&app, "standing", &of_categories(&["n"])).await;
        app.write("n-1", "T", json!({ "num": 1 })).await;
        let last = app.write("n-1", "T", json!({ "num": 2 })).await;
        projected(&app, "standing", last).await;
        until_state(&app, "standing", "live").await;
        Self { app, sql, _database: database }
    }

    async fn end(self) {
        let count = "SELECT (SELECT count(*) FROM headwater.aggregated_streams), \
            (SELECT count(*) FROM headwater.projections)";
        let row = self.sql.query_one(count, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1), "a refused request has changed something");
        holds(&self.app, &self.sql, "standing", "true", "0").await;
        assert_eq!(status(&self.app, "standing").await["state"], "live");
        assert_eq!(self.app.metric("headwater_panics_total").await, 0.0);
        let last = self.app.write("n-1", "T", json!({})).await;
        projected(&self.app, "standing", last).await;
        self.app.stop().await;
    }
}

/// Asserts that one of a problem's errors names this field, with a message that holds this text.
#[track_caller]
fn names(problem: &Value, field: &str, text: &str) {
    let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem}"));
    let is_it = |error: &&Value| error["field"] == field && error["message"].as_str().unwrap().contains(text);
    assert!(errors.iter().any(|error| is_it(&error)), "no {field} with {text:?} in {problem}");
}

fn with(field: &str, value: Value) -> Value {
    let mut definition = of_categories(&["n"]);
    definition[field] = value;
    definition
}

fn partitioned(partitioner: Value) -> Value {
    json!({ "partitioner": partitioner })
}

#[tokio::test]
async fn a_definition_that_cannot_be_read_names_the_field() {
    let guarded = Guarded::new().await;
    let too_large = "99999999999999999999";
    let pointed = |rest: &str| {
        let text = format!(r#"{{"kind": "data", "pointer": "/a", "method": "hash", {rest}}}"#);
        partitioned(serde_json::from_str(&text).unwrap())
    };
    for (definition, field) in [
        (json!({}), "partitioner"),
        (json!([]), "body"),
        (json!("standing"), "body"),
        (json!(null), "body"),
        (with("stream_wildcards", json!("n-%")), "stream_wildcards"),
        (with("stream_wildcards", json!([1])), "stream_wildcards[0]"),
        (with("stream_wildcards", json!(null)), "stream_wildcards"),
        (with("categories", json!({})), "categories"),
        (with("categories", json!(["n", null])), "categories[1]"),
        (with("types", json!("T")), "types"),
        (with("types", json!([["T"]])), "types[0]"),
        (with("filter", json!(true)), "filter"),
        (with("filter", json!(["true"])), "filter"),
        (with("partitioner", json!("constant")), "partitioner"),
        (with("partitioner", json!(null)), "partitioner"),
        (with("partitioner", json!(["constant", null, null, null, null, null, null])), "partitioner"),
        (with("partitioner", json!({})), "partitioner.kind"),
        (with("partitioner", json!({ "kind": "round_robin" })), "partitioner.kind"),
        (with("partitioner", json!({ "kind": 7 })), "partitioner.kind"),
        (with("max_partition", json!("2")), "max_partition"),
        (with("max_partition", json!(2.5)), "max_partition"),
        (with("max_partition", serde_json::from_str(too_large).unwrap()), "max_partition"),
        (with("max_partition", json!(1e300)), "max_partition"),
        (with("on_error", json!("ignore")), "on_error"),
        (with("on_error", json!(3)), "on_error"),
        (with("on_error", json!({})), "on_error.partition"),
        (with("on_error", json!([1])), "on_error"),
        (with("on_error", json!({ "partition": "0" })), "on_error.partition"),
        (with("on_error", json!({ "partition": [0] })), "on_error.partition"),
        (with("on_error", json!({ "partition": 0, "why": 1 })), "on_error.why"),
        (with("streams", json!([])), "streams"),
        (with("maxPartition", json!(1)), "maxPartition"),
        (partitioned(json!({ "kind": "constant", "partitions": 1 })), "partitioner.partitions"),
        (partitioned(json!({ "kind": "stream" })), "partitioner.partitions"),
        (partitioned(json!({ "kind": "stream", "partitions": "2" })), "partitioner.partitions"),
        (partitioned(json!({ "kind": "stream", "partitions": 2.5 })), "partitioner.partitions"),
        (partitioned(json!({ "kind": "stream", "partitions": 2, "pointer": "/a" })), "partitioner.pointer"),
        (partitioned(json!({ "kind": "cel" })), "partitioner.expression"),
        (partitioned(json!({ "kind": "cel", "expression": 0 })), "partitioner.expression"),
        (pointed(r#""partitions": 2, "missing": "0""#), "partitioner.missing"),
        (pointed(r#""partitions": 99999999999999999999"#), "partitioner.partitions"),
        (pointed(r#""partitions": 2, "otherwise": 0"#), "partitioner.otherwise"),
        (
            partitioned(json!({ "kind": "data", "pointer": "/a", "method": "random", "partitions": 2 })),
            "partitioner.method",
        ),
        (
            partitioned(json!({ "kind": "data", "pointer": 1, "method": "hash", "partitions": 2 })),
            "partitioner.pointer",
        ),
        (partitioned(json!({ "kind": "metadata", "method": "hash", "partitions": 2 })), "partitioner.pointer"),
    ] {
        for name in ["new", "standing"] {
            let answer = put(&guarded.app, name, &definition).await;
            let problem = answer.problem(400, "malformed-request");
            let named = problem["errors"][0]["field"].as_str().unwrap();
            assert_eq!(named, field, "{definition}: {problem}");
        }
    }
    for text in ["", "{", "nul", r#"{"partitioner": {"kind": "constant"}} x"#, "{'partitioner': 1}", "\u{feff}{}"] {
        let request = guarded.app.http.put(format!("{}{}", guarded.app.url, path_of("new")));
        let request = request.header("content-type", "application/json").body(text);
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.problem(400, "malformed-request");
    }
    let twice = r#"{"partitioner": {"kind": "constant"}, "types": [], "types": ["T"]}"#;
    let request = guarded.app.http.put(format!("{}{}", guarded.app.url, path_of("new")));
    let answer = Answer::of(request.header("content-type", "application/json").body(twice).send().await.unwrap()).await;
    names(&answer.problem(400, "malformed-request"), "types", "is given twice");
    let request = guarded.app.http.put(format!("{}{}", guarded.app.url, path_of("new"))).body("{}");
    Answer::of(request.send().await.unwrap()).await.problem(415, "unsupported-media-type");
    guarded.end().await;
}

#[tokio::test]
async fn a_definition_against_a_rule_names_the_field_and_the_rule() {
    let guarded = Guarded::new().await;
    let long = "x".repeat(1_001);
    let many: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    let cel = |expression: &str| partitioned(json!({ "kind": "cel", "expression": expression }));
    let pointer =
        |pointer: &str| partitioned(json!({ "kind": "data", "pointer": pointer, "method": "modulo", "partitions": 2 }));
    for (definition, field, text) in [
        (with("stream_wildcards", json!([""])), "stream_wildcards[0]", "bytes"),
        (with("stream_wildcards", json!(["ok%", "a\u{0}b"])), "stream_wildcards[1]", "control"),
        (with("stream_wildcards", json!(["a\nb%"])), "stream_wildcards[0]", "control"),
        (with("stream_wildcards", json!(["%".repeat(10_000)])), "stream_wildcards[0]", "bytes"),
        (with("stream_wildcards", json!(many)), "stream_wildcards", "100"),
        (with("categories", json!(many)), "categories", "100"),
        (with("categories", json!(["a-1"])), "categories[0]", ""),
        (with("categories", json!([""])), "categories[0]", ""),
        (with("categories", json!(["a\u{0}"])), "categories[0]", ""),
        (with("types", json!([""])), "types[0]", ""),
        (with("types", json!(["T", "a\u{0}"])), "types[1]", ""),
        (with("filter", json!("")), "filter", "empty"),
        (with("filter", json!("data.a ==")), "filter", "line 1, column"),
        (with("filter", json!("[1].exists(x, x == 1)")), "filter", "loop"),
        (with("filter", json!(long)), "filter", "1000 bytes"),
        (with("filter", json!("data.a == '\u{0}'")), "filter", ""),
        (with("filter", json!("password == 1")), "filter", "unknown name `password`"),
        (with("max_partition", json!(-1)), "max_partition", "0 to 9999"),
        (with("max_partition", json!(10_000)), "max_partition", "0 to 9999"),
        (with("max_partition", json!(i64::MAX)), "max_partition", "0 to 9999"),
        (with("max_partition", json!(i64::MIN)), "max_partition", "0 to 9999"),
        (with("on_error", json!({ "partition": -1 })), "on_error.partition", "0 to 9999"),
        (with("on_error", json!({ "partition": 10_000 })), "on_error.partition", "0 to 9999"),
        (with("on_error", json!({ "partition": i64::MAX })), "on_error.partition", "0 to 9999"),
        (partitioned(json!({ "kind": "stream", "partitions": 0 })), "partitioner.partitions", "1 to 10000"),
        (partitioned(json!({ "kind": "type", "partitions": -5 })), "partitioner.partitions", "1 to 10000"),
        (partitioned(json!({ "kind": "category", "partitions": i64::MAX })), "partitioner.partitions", "1 to 10000"),
        (partitioned(json!({ "kind": "cardinal_id", "partitions": 10_001 })), "partitioner.partitions", "1 to 10000"),
        (pointer("a"), "partitioner.pointer", "RFC 6901"),
        (pointer("/a~2"), "partitioner.pointer", "RFC 6901"),
        (pointer("/a~"), "partitioner.pointer", "RFC 6901"),
        (pointer("/\u{0}"), "partitioner.pointer", ""),
        (pointer(&format!("/{long}")), "partitioner.pointer", "1000 bytes"),
        (cel(""), "partitioner.expression", "empty"),
        (cel("   "), "partitioner.expression", "empty"),
        (cel("data.num %"), "partitioner.expression", "line 1, column"),
        (cel("data.num\n  % 3 )"), "partitioner.expression", "line 2, column"),
        (cel("data.list.map(x, x).size()"), "partitioner.expression", "loop"),
        (cel("[1, 2].all(x, x > 0) ? 1 : 0"), "partitioner.expression", "loop"),
        (cel("data.list.filter(x, true).size()"), "partitioner.expression", "loop"),
        (cel("data.list.exists_one(x, true) ? 1 : 0"), "partitioner.expression", "loop"),
        (cel(&long), "partitioner.expression", "1000 bytes"),
        (cel("size(data['\u{0}'])"), "partitioner.expression", ""),
        (cel("matches(data.a, 'x') ? 1 : 0"), "partitioner.expression", "unknown function `matches`"),
        (cel(&"(".repeat(900)), "partitioner.expression", ""),
    ] {
        for name in ["new", "standing"] {
            let answer = put(&guarded.app, name, &definition).await;
            assert_eq!(answer.status, 422, "{definition}: {}", answer.text);
            names(&answer.problem(422, "invalid"), field, text);
        }
    }
    let both = json!({
        "categories": ["a-b"], "partitioner": { "kind": "stream", "partitions": 4 }, "max_partition": 2,
        "on_error": { "partition": 3 }
    });
    let problem = put(&guarded.app, "new", &both).await.problem(422, "invalid");
    for field in ["categories[0]", "partitioner.partitions", "on_error.partition"] {
        names(&problem, field, "");
    }
    guarded.end().await;
}

/// A message for which an expression fails with a text that holds what JSON in the database may not.
#[tokio::test]
async fn a_reason_that_cannot_be_kept_as_it_is_stops_that_stream_alone() {
    let guarded = Guarded::new().await;
    let app = &guarded.app;
    for (name, expression) in [
        ("escape", r"size(data['\u0000'])"),
        ("octal", r"size(data['\000'])"),
        ("hex", r"size(data['\x00'])"),
        ("lone", r"size(data['\uD800'])"),
    ] {
        let definition = json!({ "categories": [name], "partitioner": { "kind": "cel", "expression": expression } });
        let answer = put(app, name, &definition).await;
        if answer.status == 422 {
            continue;
        }
        assert_eq!(answer.status, 201, "{}", answer.text);
        until_state(app, name, "live").await;
        let last = app.write(&format!("{name}-1"), "T", json!({})).await;
        until_state(app, name, "stopped").await;
        projected(app, "standing", last).await;
        delete(app, name).await;
    }
    sql_forget(&guarded.sql).await;
    guarded.end().await;
}

/// Waits until nothing of deleted streams is left, and takes away what is not `standing`'s.
async fn sql_forget(sql: &Client) {
    let deadline = Instant::now() + PATIENCE;
    let text = "SELECT count(*) FROM headwater.projections WHERE aggregated_stream_id IS NULL";
    while sql.query_one(text, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "deleted projections stay");
        tokio::time::sleep(POLL).await;
    }
    sql.batch_execute("DELETE FROM message_store.messages WHERE stream_name <> 'n-1'").await.unwrap();
}

#[tokio::test]
async fn odd_names_are_names_and_impossible_ones_are_refused() {
    let guarded = Guarded::new().await;
    let app = &guarded.app;
    let longest = "ö".repeat(100);
    for name in [
        "a/b",
        "50%",
        "a+b",
        "'; DROP TABLE x; --",
        "\"quoted\"",
        "a b",
        "größe",
        "?x=1",
        "#",
        ".",
        "..",
        "%41",
        &longest,
    ] {
        if matches!(name, "." | "..") {
            // A client takes these out of the path before it sends it.
            continue;
        }
        define(app, name, &of_categories(&["n"])).await;
        assert_eq!(app.get(&path_of(name)).await.json()["name"], name);
        projected(app, name, 2).await;
        assert_eq!(partition(app, name, 0).await.len(), 2);
        let mut events = app.follow(&format!("{}/events?from=beginning", path_of(name))).await;
        assert_eq!(events.next("message").await.json()["aggregated_stream"], name);
        let mut events = app.follow(&format!("/v1/events?from=beginning&aggregated_stream={}", encode(name))).await;
        assert_eq!(events.next("message").await.json()["aggregated_stream"], name);
        order(app, name, "pause").await;
        delete(app, name).await;
        app.get(&path_of(name)).await.problem(404, "not-found");
    }
    for name in ["a\u{0}b", "a\nb", "\u{7f}", "a\u{85}", &"x".repeat(201)] {
        let path = path_of(name);
        names(&put(app, name, &of_categories(&["n"])).await.problem(422, "invalid"), "name", "");
        for path in [path.clone(), format!("{path}/events"), format!("{path}/partitions/0/messages")] {
            names(&app.get(&path).await.problem(422, "invalid"), "name", "");
        }
        for verb in ["pause", "resume", "rebuild"] {
            let answer = call(app, Method::POST, &format!("{path}/{verb}"), None).await;
            names(&answer.problem(422, "invalid"), "name", "");
        }
    }
    let not_utf8 = "/v1/aggregated-streams/%FF";
    names(&app.get(not_utf8).await.problem(400, "malformed-request"), "name", "UTF-8");
    for verb in ["pause", "resume", "rebuild"] {
        let answer = call(app, Method::POST, &format!("{}/{verb}", path_of("nowhere")), None).await;
        answer.problem(404, "not-found");
    }
    sql_forget(&guarded.sql).await;
    guarded.end().await;
}

#[tokio::test]
async fn parameters_are_checked() {
    let guarded = Guarded::new().await;
    let base = path_of("standing");
    let huge = "99999999999999999999";
    for (path, status, field) in [
        (format!("{base}?wait=1s"), 422, "wait"),
        (format!("{base}?min_position=-1"), 422, "min_position"),
        (format!("{base}?min_position={huge}"), 400, "min_position"),
        (format!("{base}?min_position=x"), 400, "min_position"),
        (format!("{base}?min_position=1&wait=soon"), 400, "wait"),
        (format!("{base}?min_position=1&wait=2h"), 422, "wait"),
        (format!("{base}?minposition=1"), 400, "minposition"),
        (format!("{base}/partitions/-1/messages"), 422, "partition"),
        (format!("{base}/partitions/10000/messages"), 422, "partition"),
        (format!("{base}/partitions/4294967296/messages"), 422, "partition"),
        (format!("{base}/partitions/{huge}/messages"), 400, "partition"),
        (format!("{base}/partitions/0x1/messages"), 400, "partition"),
        (format!("{base}/partitions/%00/messages"), 400, "partition"),
        (format!("{base}/partitions/0/messages?from=-1"), 422, "from"),
        (format!("{base}/partitions/0/messages?from={huge}"), 400, "from"),
        (format!("{base}/partitions/0/messages?limit=0"), 422, "limit"),
        (format!("{base}/partitions/0/messages?limit=1001"), 422, "limit"),
        (format!("{base}/partitions/0/messages?limit=-1"), 400, "limit"),
        (format!("{base}/partitions/0/messages?wait=-1s"), 400, "wait"),
        (format!("{base}/partitions/0/messages?partition=0"), 400, "partition"),
        (format!("{base}/positions"), 422, "time"),
        (format!("{base}/positions?time=2026-01-01T00:00:00Z&global_position=1"), 422, "time"),
        (format!("{base}/positions?time=yesterday"), 400, "time"),
        (format!("{base}/positions?global_position=-1"), 422, "global_position"),
        (format!("{base}/positions?global_position={huge}"), 400, "global_position"),
        (format!("{base}/events?partition=-1"), 422, "partition"),
        (format!("{base}/events?partition=0&partition=10000"), 422, "partition"),
        (format!("{base}/events?partition=x"), 400, "partition"),
        (format!("{base}/events?from=-1"), 400, "from"),
        (format!("{base}/events?from=2.1"), 400, "from"),
        (format!("{base}/events?last_event_id=5.3"), 400, "last_event_id"),
        (format!("{base}/events?last_event_id=1.0"), 400, "last_event_id"),
        (format!("{base}/events?last_event_id=-1"), 400, "last_event_id"),
        (format!("{base}/events?event_names=kind"), 400, "event_names"),
        (format!("{base}/events?filter=data.x%20%3D%3D"), 422, "filter"),
        (format!("{base}/events?category=n"), 400, "category"),
        ("/v1/events?category=n&aggregated_stream=standing&last_event_id=1.2".into(), 400, "last_event_id"),
        ("/v1/events?category=n&last_event_id=1.1".into(), 400, "last_event_id"),
        ("/v1/events?aggregated_stream=".into(), 422, "aggregated_stream"),
        ("/v1/aggregated-streams?limit=0".into(), 422, "limit"),
        ("/v1/aggregated-streams?limit=1001".into(), 422, "limit"),
        ("/v1/aggregated-streams?after=%00".into(), 422, "after"),
        ("/v1/aggregated-streams?from=a".into(), 400, "from"),
    ] {
        let answer = guarded.app.get(&path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        let slug = if status == 400 { "malformed-request" } else { "invalid" };
        let problem = answer.problem(status, slug);
        let named = problem["errors"][0]["field"].as_str().unwrap();
        assert!(named == field || field.starts_with(named), "{path}: {problem}");
    }
    guarded.app.get("/v1/events?aggregated_stream=nowhere").await.problem(404, "not-found");
    let beyond = format!("{base}/events?last_event_id=1000000");
    guarded.app.get(&beyond).await.problem(409, "history-changed");
    let header = [("last-event-id", "1.1")];
    let mut request = guarded.app.http.get(format!("{}{base}/events", guarded.app.url));
    for (name, value) in header {
        request = request.header(name, value);
    }
    let answer = Answer::of(request.send().await.unwrap()).await;
    names(&answer.problem(400, "malformed-request"), "Last-Event-ID", "");
    for (method, path) in [(Method::PUT, format!("{base}?x=1")), (Method::DELETE, format!("{base}?x=1"))] {
        let answer = call(&guarded.app, method, &path, Some(&of_categories(&["n"]))).await;
        names(&answer.problem(400, "malformed-request"), "x", "is unknown");
    }
    for verb in ["pause", "resume", "rebuild"] {
        let answer = call(&guarded.app, Method::POST, &format!("{base}/{verb}?now=1"), None).await;
        names(&answer.problem(400, "malformed-request"), "now", "is unknown");
        guarded.app.get(&format!("{base}/{verb}")).await.problem(405, "method-not-allowed");
    }
    // At the very end of what numbers can be, there is simply nothing.
    let page = guarded.app.get(&format!("{base}/partitions/9999/messages?from={}", i64::MAX)).await.json();
    assert_eq!(page, json!({ "messages": [], "next": i64::MAX, "at_end": true }));
    let positions = guarded.app.get(&format!("{base}/positions?global_position={}", i64::MAX)).await.json();
    assert_eq!(positions, json!({ "positions": [{ "partition": 0, "position": 2 }] }));
    guarded.end().await;
}

#[tokio::test]
async fn there_are_only_so_many() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.aggregated_streams_max = 2).await;
    define(&app, "one", &of_categories(&["n"])).await;
    define(&app, "two", &of_categories(&["n"])).await;
    names(&put(&app, "three", &of_categories(&["n"])).await.problem(422, "invalid"), "name", "2 aggregated streams");
    assert_eq!(put(&app, "two", &of_categories(&["n"])).await.status, 200);
    delete(&app, "one").await;
    define(&app, "three", &of_categories(&["n"])).await;
    app.stop().await;
}
