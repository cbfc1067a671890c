//! The OpenAPI document: checked in as it is served, whole, and sound.

use std::collections::HashSet;

use headwater::http::openapi::{Version, document, document_in};
use headwater::http::problem::ProblemKind;
use serde_json::Value;

use super::assert_generated;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Every route there is under the contract; a new one is added here by hand.
const ROUTES: [(&str, &str, &str); 69] = [
    ("get", "/v1/streams/{stream_name}/messages", "readStream"),
    ("post", "/v1/streams/{stream_name}/messages", "appendMessages"),
    ("post", "/v1/appends", "appendToStreams"),
    ("get", "/v1/streams/{stream_name}/messages/last", "readLastMessage"),
    ("get", "/v1/streams/{stream_name}", "readStreamSummary"),
    ("get", "/v1/categories/{category}/messages", "readCategory"),
    ("get", "/v1/all/messages", "readAll"),
    ("get", "/v1/messages/{id}", "readMessage"),
    ("delete", "/v1/messages/{id}", "eraseMessage"),
    ("post", "/v1/streams/{stream_name}/trim", "trimStream"),
    ("put", "/v1/categories/{category}/retention", "setRetention"),
    ("get", "/v1/categories/{category}/retention", "readRetention"),
    ("delete", "/v1/categories/{category}/retention", "deleteRetention"),
    ("get", "/v1/retentions", "listRetentions"),
    ("get", "/v1/streams/{stream_name}/events", "followStream"),
    ("get", "/v1/caller", "readCaller"),
    ("get", "/v1/settings", "readSettings"),
    ("get", "/v1/categories/{category}/events", "followCategory"),
    ("get", "/v1/all/events", "followAll"),
    ("get", "/v1/events", "followSeveral"),
    ("get", "/v1/aggregated-streams", "listAggregatedStreams"),
    ("put", "/v1/aggregated-streams/{name}", "defineAggregatedStream"),
    ("get", "/v1/aggregated-streams/{name}", "readAggregatedStream"),
    ("delete", "/v1/aggregated-streams/{name}", "deleteAggregatedStream"),
    ("post", "/v1/aggregated-streams/{name}/pause", "pauseAggregatedStream"),
    ("post", "/v1/aggregated-streams/{name}/resume", "resumeAggregatedStream"),
    ("post", "/v1/aggregated-streams/{name}/rebuild", "rebuildAggregatedStream"),
    ("get", "/v1/aggregated-streams/{name}/partitions/{partition}/messages", "readPartition"),
    ("get", "/v1/aggregated-streams/{name}/keys", "listAggregatedKeys"),
    ("get", "/v1/aggregated-streams/{name}/keys/{key}/messages", "readAggregatedKey"),
    ("get", "/v1/aggregated-streams/{name}/positions", "findPartitionPositions"),
    ("get", "/v1/aggregated-streams/{name}/events", "followAggregatedStream"),
    ("get", "/v1/subscriptions", "listSubscriptions"),
    ("put", "/v1/subscriptions/{name}", "createSubscription"),
    ("get", "/v1/subscriptions/{name}", "readSubscription"),
    ("patch", "/v1/subscriptions/{name}", "changeSubscription"),
    ("delete", "/v1/subscriptions/{name}", "deleteSubscription"),
    ("get", "/v1/subscriptions/{name}/events", "followSubscription"),
    ("post", "/v1/subscriptions/{name}/fetch", "fetchMessages"),
    ("post", "/v1/subscriptions/{name}/acks", "ackMessages"),
    ("post", "/v1/subscriptions/{name}/nacks", "nackMessages"),
    ("post", "/v1/subscriptions/{name}/extensions", "extendMessages"),
    ("get", "/v1/subscriptions/{name}/pending", "listPending"),
    ("get", "/v1/subscriptions/{name}/pending/summary", "summarisePending"),
    ("post", "/v1/subscriptions/{name}/claims", "claimMessages"),
    ("get", "/v1/subscriptions/{name}/consumers", "listConsumers"),
    ("delete", "/v1/subscriptions/{name}/consumers/{consumer}", "removeConsumer"),
    ("post", "/v1/subscriptions/{name}/seek", "seekSubscription"),
    ("post", "/v1/subscriptions/{name}/pause", "pauseSubscription"),
    ("post", "/v1/subscriptions/{name}/resume", "resumeSubscription"),
    ("get", "/v1/subscriptions/{name}/parked", "listParked"),
    ("post", "/v1/subscriptions/{name}/parked/replay", "replayParked"),
    ("delete", "/v1/subscriptions/{name}/parked/{partition}/{position}", "deleteParked"),
    ("get", "/v1/reports/streams", "reportStreams"),
    ("get", "/v1/reports/categories", "reportCategories"),
    ("get", "/v1/reports/types", "reportTypes"),
    ("get", "/v1/reports/settled", "reportSettled"),
    ("get", "/v1/reports/storage", "reportStorage"),
    ("get", "/v1/reports/metrics", "reportMetrics"),
    ("get", "/v1/reports/event-streams", "reportEventStreams"),
    ("get", "/v1/keys", "listApiKeys"),
    ("post", "/v1/keys", "createApiKey"),
    ("delete", "/v1/keys/{id}", "revokeApiKey"),
    ("post", "/v1/tickets", "createTicket"),
    ("get", "/version", "readVersion"),
    ("get", "/livez", "isAlive"),
    ("get", "/readyz", "isReady"),
    ("get", "/metrics", "readMetrics"),
    ("get", "/problems/{problem}", "readProblemPage"),
];

pub fn parsed() -> Value {
    serde_json::from_str(&document()).unwrap()
}

/// Every operation as (method, path, operation).
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| METHODS.contains(&key.as_str())) {
            found.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    found
}

/// Calls `look` on every value in the document.
pub fn visit(value: &Value, look: &mut impl FnMut(&Value)) {
    look(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|value| visit(value, look)),
        Value::Array(items) => items.iter().for_each(|value| visit(value, look)),
        _ => {}
    }
}

#[test]
fn the_document_in_the_repository_is_what_the_code_says() {
    assert_generated("openapi/openapi.json", &document(), "cargo run -- openapi > openapi/openapi.json");
    let command = "cargo run -- openapi --version 3.2 > openapi/openapi-3.2.json";
    assert_generated("openapi/openapi-3.2.json", &document_in(Version::V3_2), command);
}

#[test]
fn the_documents_are_openapi_3_1_and_3_2_and_every_reference_leads_somewhere() {
    for (version, begin) in [(Version::V3_1, "3.1"), (Version::V3_2, "3.2")] {
        let document: Value = serde_json::from_str(&document_in(version)).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with(begin));
        let mut count = 0;
        visit(&document, &mut |value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
                assert!(
                    document.pointer(pointer).is_some(),
                    "{reference} leads nowhere: name it in `components(schemas(…))` of src/http/openapi.rs"
                );
                count += 1;
            }
        });
        assert!(count > 20);
    }
}

#[test]
fn every_route_has_its_operation_with_a_name_of_its_own() {
    let document = parsed();
    let found = operations(&document);
    let names: HashSet<_> = found.iter().map(|(_, _, operation)| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(names.len(), found.len(), "an operationId is there twice");
    for (method, path, operation) in &found {
        let id = operation["operationId"].as_str().unwrap();
        assert!(
            id.starts_with(|c: char| c.is_ascii_lowercase()) && id.chars().all(|c| c.is_ascii_alphanumeric()),
            "{id}"
        );
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}: no summary");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{method} {path}");
    }
    let mut listed: Vec<_> = ROUTES.iter().map(|(m, p, id)| (m.to_string(), p.to_string(), id.to_string())).collect();
    let mut found: Vec<_> =
        found.into_iter().map(|(m, p, o)| (m, p, o["operationId"].as_str().unwrap().to_owned())).collect();
    listed.sort();
    found.sort();
    assert_eq!(found, listed);
}

#[test]
fn every_path_parameter_is_described_and_every_answer_too() {
    let document = parsed();
    for (method, path, operation) in operations(&document) {
        let empty = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&empty);
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let parameter = parameters.iter().find(|parameter| parameter["name"] == name && parameter["in"] == "path");
            assert_eq!(parameter.unwrap_or_else(|| panic!("{method} {path}: {name}"))["required"], true);
        }
        let mut names = HashSet::new();
        for parameter in parameters {
            assert!(names.insert((parameter["in"].to_string(), parameter["name"].to_string())), "{path}: {parameter}");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            if status.starts_with(['4', '5']) {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
                assert!(
                    response["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{method} {path} {status}"
                );
            }
        }
    }
}

#[test]
fn every_problem_is_in_the_document() {
    let document = parsed();
    let listed: HashSet<_> = document["components"]["schemas"]["ProblemType"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap().trim_start_matches("/problems/").to_owned())
        .collect();
    let all: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug().to_owned()).collect();
    assert_eq!(listed, all);
    let mut described = String::new();
    for (_, _, operation) in operations(&document) {
        described.push_str(&operation["responses"].to_string());
    }
    let unsaid: Vec<_> = all
        .iter()
        // Any path may answer these: they are about the request as HTTP, before it belongs to an operation.
        .filter(|slug| !["method-not-allowed", "url-too-long", "headers-too-large"].contains(&slug.as_str()))
        .filter(|slug| !described.contains(slug.as_str()))
        .collect();
    assert!(unsaid.is_empty(), "no operation says that it may answer {unsaid:?}");
}

#[test]
fn examples_are_of_their_own_type() {
    let document = parsed();
    let mut count = 0;
    visit(&document, &mut |value| {
        let Some(example) = value.get("example") else { return };
        let schema = value.get("schema").unwrap_or(value);
        let types: Vec<_> = match &schema["type"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => return,
        };
        let fits = types.iter().any(|one| match *one {
            "string" => example.is_string(),
            "integer" => example.is_i64(),
            "number" => example.is_number(),
            "boolean" => example.is_boolean(),
            "array" => example.is_array(),
            "object" => example.is_object(),
            "null" => example.is_null(),
            _ => false,
        });
        assert!(fits, "{example} is no {types:?} in {value}");
        if schema["format"] == "date-time" {
            let text = example.as_str().unwrap();
            assert!(headwater::domain::time::Timestamp::parse_rfc3339(text).is_some(), "{text}");
        }
        count += 1;
    });
    assert!(count > 5);
}
