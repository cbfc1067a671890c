//! What is said of a request that cannot be read is said in plain words: no name of a type, and nothing of a library's.
//!
//! The OpenAPI document says which parameters and fields there are; each of them is given every wrong value in turn.

use serde_json::{Map, Value, json};

use super::{Guarded, names};
use crate::support::app::{Answer, encode};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// The deepest part of a body that is made wrong.
const DEPTH_MAX: usize = 5;
/// What only a library says, or Rust.
const FORBIDDEN: [&str; 23] = [
    "untagged",
    "variant",
    "enum",
    "invalid digit",
    "borrowed",
    "did not match",
    "expected",
    "i64",
    "u64",
    "i32",
    "u32",
    "usize",
    "struct",
    "invalid type",
    "invalid value",
    "map",
    "sequence",
    "floating point",
    "parsing",
    "trailing",
    "target type",
    "unsupported value",
    "`, ",
];

fn document() -> Value {
    serde_json::from_str(include_str!("../../openapi/openapi.json")).unwrap()
}

/// Every operation: its method, its path and what the document says of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| METHODS.iter().map(move |method| (*method, path.as_str(), &item[*method])))
        .filter(|(_, _, operation)| operation.is_object())
        .collect()
}

/// The path with right values in it, but for this parameter.
fn filled(path: &str, wrong: Option<(&str, &str)>) -> String {
    let segment = |segment: &str| match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
        Some(name) => match (wrong, name) {
            (Some((wrong, value)), name) if wrong == name => encode(value),
            (_, "partition" | "position") => "0".to_owned(),
            (_, "id") => "0192f1c2-0000-7000-8000-000000000000".to_owned(),
            (_, "category") => "nothing".to_owned(),
            _ => "nothing-1".to_owned(),
        },
        None => segment.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// The refusal, if it was refused: what is answered without end is not read.
async fn refusal(guarded: &Guarded, method: &str, path: &str, body: Option<String>) -> Option<Value> {
    let method = method.to_uppercase().parse().unwrap();
    let mut request = guarded.app.http.request(method, format!("{}{path}", guarded.app.url));
    if let Some(body) = body.clone() {
        request = request.header("content-type", "application/json").body(body);
    }
    let response = request.send().await.unwrap();
    if response.status().is_success() || response.status().is_redirection() {
        return None;
    }
    let answer = Answer::of(response).await;
    let at = format!("{path} {} {}", body.unwrap_or_default(), answer.text);
    assert!((400..500).contains(&answer.status), "{at}");
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{at}");
    let problem = answer.json();
    let foreign = foreign_word(&problem);
    assert!(foreign.is_none(), "{foreign:?} in {at}");
    Some(problem)
}

/// A word in the problem that no user should have to know.
fn foreign_word(problem: &Value) -> Option<&'static str> {
    let text = problem.to_string().to_lowercase();
    let text = ["expected_version", "wrong-expected-version"].iter().fold(text, |text, known| text.replace(known, ""));
    FORBIDDEN.into_iter().find(|word| text.contains(word))
}

#[tokio::test]
async fn a_parameter_that_cannot_be_read_is_refused_in_plain_words() {
    let guarded = Guarded::new().await;
    let wrong = [
        "text",
        "-1",
        "1.5",
        "1e2",
        "99999999999999999999",
        "-99999999999999999999",
        "true",
        "null",
        "{}",
        "[]",
        "",
        "[[1]]",
        " 1",
        "a`b",
    ];
    let document = document();
    let mut refused = 0;
    for (method, path, operation) in operations(&document) {
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        for parameter in parameters {
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            for value in wrong {
                let paths = match place {
                    "path" if value.is_empty() => continue,
                    "path" => vec![filled(path, Some((name, value)))],
                    "query" => {
                        let one = format!("{name}={}", encode(value));
                        let path = filled(path, None);
                        vec![format!("{path}?{one}"), format!("{path}?{one}&{one}")]
                    }
                    _ => continue,
                };
                for path in paths {
                    refused += usize::from(refusal(&guarded, method, &path, None).await.is_some());
                }
            }
        }
        let path = format!("{}?{}=1", filled(path, None), encode("a`b"));
        refused += usize::from(refusal(&guarded, method, &path, None).await.is_some());
    }
    assert!(refused > 500, "only {refused} were refused");
    guarded.end().await;
}

#[tokio::test]
async fn a_field_that_cannot_be_read_is_refused_in_plain_words() {
    let guarded = Guarded::new().await;
    let document = document();
    let mut refused = 0;
    for (method, path, operation) in operations(&document) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let path = filled(path, None);
        for right in values(&document, schema, DEPTH_MAX) {
            for body in wrong_bodies(&right) {
                refused += usize::from(refusal(&guarded, method, &path, Some(body)).await.is_some());
            }
        }
    }
    assert!(refused > 1_000, "only {refused} were refused");
    guarded.app.stop().await;
}

/// Values of this schema, each of its alternatives in one of them, with every field there is.
fn values(document: &Value, schema: &Value, depth: usize) -> Vec<Value> {
    if depth == 0 || !schema.is_object() {
        return Vec::new();
    }
    if let Some(name) = schema["$ref"].as_str() {
        return values(document, document.pointer(&name[1..]).unwrap(), depth);
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        if let Some(schemas) = schema[several].as_array() {
            return schemas.iter().flat_map(|schema| values(document, schema, depth)).collect();
        }
    }
    if let Some(first) = schema["enum"].get(0) {
        return vec![first.clone()];
    }
    if let Some(properties) = schema["properties"].as_object() {
        let alternatives: Vec<(&String, Vec<Value>)> =
            properties.iter().map(|(name, schema)| (name, values(document, schema, depth - 1))).collect();
        let count = alternatives.iter().map(|(_, values)| values.len()).max().unwrap_or_default();
        let nth = |n: usize| {
            let field = |(name, values): &(&String, Vec<Value>)| {
                Some(((*name).clone(), values.get(n).or(values.first())?.clone()))
            };
            Value::Object(alternatives.iter().filter_map(field).collect::<Map<_, _>>())
        };
        return (0..count).map(nth).collect();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "integer" => vec![json!(1)],
        "boolean" => vec![json!(true)],
        "array" => values(document, &schema["items"], depth - 1).into_iter().map(|item| json!([item])).collect(),
        "object" => vec![json!({})],
        _ => vec![json!("1s")],
    }
}

/// The body with one thing wrong at a time.
fn wrong_bodies(right: &Value) -> Vec<String> {
    let wrong = [
        r#""text""#,
        r#""""#,
        "-1",
        "0",
        "1.5",
        "1.0",
        "18446744073709551615",
        "9223372036854775808",
        "1e300",
        "1e400",
        "true",
        "null",
        "{}",
        "[]",
        r#"{"x": {"y": 1}}"#,
        r#"[[{"x": null}]]"#,
        r#"{"competing": null}"#,
        "nothing",
        "",
    ];
    let mut bodies = vec![format!("{right} {{}}"), format!("{right}]"), "[".repeat(200)];
    let mut open = vec![String::new()];
    while let Some(pointer) = open.pop() {
        let part = right.pointer(&pointer).unwrap();
        // A text that is nowhere else marks the place.
        let with = |value: &str| {
            let mut body = right.clone();
            *body.pointer_mut(&pointer).unwrap() = json!("the place");
            body.to_string().replace(r#""the place""#, value)
        };
        bodies.extend(wrong.iter().map(|value| with(value)));
        if let Some(fields) = part.as_object() {
            for (name, value) in fields {
                let mut fewer = fields.clone();
                fewer.remove(name);
                bodies.push(with(&Value::Object(fewer).to_string()));
                let twice = part.to_string().replacen('{', &format!("{{{}: {value}, ", json!(name)), 1);
                bodies.push(with(&twice));
                open.push(format!("{pointer}/{name}"));
            }
            let mut more = fields.clone();
            more.insert("a`b".to_owned(), json!(1));
            bodies.push(with(&Value::Object(more).to_string()));
        }
        open.extend(part.as_array().and_then(|items| items.first()).map(|_| format!("{pointer}/0")));
    }
    bodies
}

#[tokio::test]
async fn what_may_stand_there_is_said_where_there_are_several_ways() {
    let guarded = Guarded::new().await;
    let begin = "must be beginning, end, a position of 0 or more, or an RFC 3339 time";
    let place = "must be a position, or an object of a partition and a position";
    let whole = "must be a whole number";
    for (method, path, body, field, rule) in [
        ("put", "subscriptions/s", json!({ "source": { "all": true }, "from": true }), "from", begin),
        ("put", "subscriptions/s", json!({ "source": { "all": true }, "mode": 5 }), "mode", "partitioned or competing"),
        ("put", "subscriptions/s", json!({ "source": { "all": 1 } }), "source.all", "must be true or false"),
        ("post", "subscriptions/s/seek", json!({ "to": [] }), "to", begin),
        ("post", "subscriptions/s/parked/replay", json!({ "positions": ["1"] }), "positions[0]", place),
        ("post", "subscriptions/s/parked/replay", json!({ "positions": [0, [0, 1]] }), "positions[1]", place),
        ("post", "subscriptions/s/claims", json!({ "consumer": "w1", "positions": [[0, 1]] }), "positions[0]", place),
        ("post", "subscriptions/s/claims", json!({ "consumer": "w1", "positions": [u64::MAX] }), "positions[0]", place),
        (
            "post",
            "subscriptions/s/parked/replay",
            json!({ "positions": [{ "partition": "x", "position": 1 }] }),
            "positions[0].partition",
            whole,
        ),
        (
            "post",
            "subscriptions/s/parked/replay",
            json!({ "positions": [{ "partition": 0, "position": 1, "epoch": 1 }] }),
            "positions[0].epoch",
            "is unknown",
        ),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "no" } }),
            "partitioner.kind",
            "constant, stream",
        ),
        ("put", "aggregated-streams/a", json!({ "partitioner": {} }), "partitioner.kind", "is missing"),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "stream", "partitions": "x" } }),
            "partitioner.partitions",
            whole,
        ),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "type" } }),
            "partitioner.partitions",
            "is missing",
        ),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "cel", "expression": "0", "method": "hash" } }),
            "partitioner.method",
            "is unknown",
        ),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "constant" }, "on_error": 5 }),
            "on_error",
            "must be stop, skip or an object of a partition",
        ),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "constant" }, "on_error": "ignore" }),
            "on_error",
            "must be stop, skip or an object of a partition",
        ),
        (
            "put",
            "aggregated-streams/a",
            json!({ "partitioner": { "kind": "constant" }, "on_error": [1] }),
            "on_error",
            "must be stop, skip or an object of a partition",
        ),
    ] {
        let problem = refusal(&guarded, method, &format!("/v1/{path}"), Some(body.to_string())).await;
        names(&problem.unwrap_or_else(|| panic!("{body} was taken")), field, rule);
    }
    guarded.end().await;
}
