//! What generators of clients need of the OpenAPI document, so that their code reads well: held for every operation.

use std::collections::HashSet;

use headwater::http::openapi::{Version, document_in};
use serde_json::{Value, json};

use super::openapi::{operations, parsed, visit};

fn schemas(document: &Value) -> Vec<(String, Value)> {
    document["components"]["schemas"].as_object().unwrap().clone().into_iter().collect()
}

fn name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/components/schemas/")
}

/// Every schema in the document that is a part of another thing, with where it is.
fn parts(document: &Value) -> Vec<(String, Value)> {
    let mut open: Vec<(String, Value)> = Vec::new();
    for (method, path, operation) in operations(document) {
        open.push((format!("{method} {path}"), operation));
    }
    for (name, schema) in schemas(document) {
        // The schema itself has a name; of an `allOf` its members are its own.
        let own = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema]);
        for schema in own {
            open.extend(schema.as_object().unwrap().iter().map(|(key, part)| (format!("{name}.{key}"), part.clone())));
        }
    }
    let mut found = Vec::new();
    while let Some((place, part)) = open.pop() {
        match &part {
            Value::Object(fields) => {
                open.extend(fields.iter().map(|(key, part)| (format!("{place}.{key}"), part.clone())));
            }
            Value::Array(items) => open.extend(items.iter().map(|part| (place.clone(), part.clone()))),
            _ => {}
        }
        // What belongs to an example is no schema.
        if part.is_object() && !place.contains("example") {
            found.push((place, part));
        }
    }
    found
}

#[test]
fn every_parameter_is_described_is_never_null_and_has_a_name_of_its_own() {
    for (method, path, operation) in operations(&parsed()) {
        let mut names = HashSet::new();
        for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
            let place = format!("{method} {path}: {}", parameter["name"]);
            assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{place}: no description");
            assert!(!parameter["schema"].to_string().contains("\"null\""), "{place} may be null");
            let snake_case = parameter["name"].as_str().unwrap().to_lowercase().replace('-', "_");
            assert!(
                names.insert(snake_case),
                "{place}: generators would number it, as another has its name in snake case"
            );
        }
    }
}

#[test]
fn every_body_has_a_named_schema_or_a_stated_media_type() {
    for (method, path, operation) in operations(&parsed()) {
        let place = format!("{method} {path}");
        if let Some(body) = operation.get("requestBody") {
            for (media_type, content) in body["content"].as_object().unwrap() {
                assert!(
                    name(&content["schema"]).is_some(),
                    "{place}: the {media_type} that is sent has no named schema"
                );
            }
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{place} {status}");
            let empty = serde_json::Map::new();
            let contents = response["content"].as_object().unwrap_or(&empty);
            let has_none = ["204", "304"].contains(&status.as_str());
            assert_eq!(
                contents.is_empty(),
                has_none,
                "{place} {status}: say what is answered, by schema or media type"
            );
            for (media_type, content) in contents {
                let is_text = media_type.starts_with("text/") && content["schema"]["type"] == "string";
                assert!(
                    is_text || name(&content["schema"]).is_some(),
                    "{place} {status} {media_type}: no named schema"
                );
            }
        }
    }
}

/// What has no name: generators would number it.
fn nameless(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (place, part) in parts(document) {
        if part["properties"].is_object() && part["type"] == "object" {
            found.push(format!("{place}: an object without a name"));
        }
        if part["enum"].is_array() {
            found.push(format!("{place}: an enum without a name: `#[derive(ToSchema)]`, and no `inline`"));
        }
    }
    found
}

#[test]
fn every_object_and_every_enum_has_a_name_and_every_name_a_description() {
    let document = parsed();
    assert_eq!(nameless(&document), Vec::<String>::new());
    let mute =
        schemas(&document).into_iter().filter(|(_, schema)| schema["description"].as_str().is_none_or(str::is_empty));
    assert_eq!(mute.map(|(name, _)| name).collect::<Vec<_>>(), Vec::<String>::new(), "these have no description");
}

#[test]
fn the_rule_finds_what_has_no_name() {
    let mut document = parsed();
    document["paths"]["/v1/all/messages"]["get"]["parameters"][0]["schema"] = json!({ "enum": ["a", "b"] });
    document["components"]["schemas"]["Page"]["properties"]["next"] = json!({ "type": "object", "properties": {} });
    let found = nameless(&document).join("\n");
    assert!(found.contains("get /v1/all/messages.parameters.schema: an enum"), "{found}");
    assert!(found.contains("Page.properties.next: an object"), "{found}");
}

#[test]
fn every_variant_has_a_name() {
    let is_plain = |variant: &Value| variant["type"].is_string() && variant["type"] != "object";
    for (place, schema) in schemas(&parsed()) {
        visit(&schema, &mut |value| {
            for variant in ["oneOf", "anyOf"].iter().filter_map(|key| value[key].as_array()).flatten() {
                assert!(name(variant).is_some() || is_plain(variant), "{place}: generators would number {variant}");
            }
        });
    }
}

#[test]
fn every_duration_and_every_time_is_known_as_one() {
    let document = parsed();
    visit(&document, &mut |value| {
        let Some(example) = value["example"].as_str() else { return };
        let unit = example.trim_start_matches(|c: char| c.is_ascii_digit());
        if unit.len() < example.len() && ["ms", "s", "m", "h"].contains(&unit) {
            let schema = value.get("schema").unwrap_or(value);
            let is_known = name(schema) == Some("Duration") || schema["pattern"].is_string();
            assert!(is_known, "{value}: `value_type = Option<DurationText>`");
        }
    });
    visit(&document, &mut |value| {
        for (property, schema) in value["properties"].as_object().into_iter().flatten() {
            if (property == "time" || property.ends_with("_time")) && schema["type"].is_string() {
                assert_eq!(schema["format"], "date-time", "{property} of {value}: `format = DateTime`");
            }
        }
    });
}

#[test]
fn every_event_of_every_event_stream_has_a_schema() {
    let old = parsed();
    let new: Value = serde_json::from_str(&document_in(Version::V3_2)).unwrap();
    let mut count = 0;
    for ((method, path, old), (_, _, new)) in operations(&old).into_iter().zip(operations(&new)) {
        let place = format!("{method} {path}");
        let (old, new) = (&old["responses"]["200"]["content"], &new["responses"]["200"]["content"]);
        assert_eq!(path.ends_with("/events"), old.get("text/event-stream").is_some(), "{place}");
        for (media_type, in_3_1, in_3_2) in
            [("text/event-stream", "EventData", "EventFrame"), ("application/x-ndjson", "EventLine", "EventLine")]
        {
            let Some(content) = old.get(media_type) else { continue };
            let advice = "name the enum of its events, which ends with `EventLine`, as the body of both media types";
            assert!(name(&content["schema"]).is_some_and(|name| name.ends_with(in_3_1)), "{place}: {advice}");
            let item = name(&new[media_type]["itemSchema"]);
            assert!(item.is_some_and(|name| name.ends_with(in_3_2)), "{place}: {advice}");
            count += 1;
        }
    }
    assert!(count > 4);
    let frame = &new["components"]["schemas"]["CaughtUpEventFrame"]["properties"];
    assert_eq!(frame["event"]["const"], "caught-up");
    assert_eq!(name(&frame["data"]["contentSchema"]), Some("CaughtUpEvent"));
}

#[test]
fn lines_that_are_sent_have_a_schema_and_generators_see_json_alone() {
    let new: Value = serde_json::from_str(&document_in(Version::V3_2)).unwrap();
    let append = |document: &Value| document["paths"]["/v1/streams/{stream_name}/messages"]["post"].clone();
    let (old, new) = (append(&parsed()), append(&new));
    for (place, item) in [("/requestBody/content", "AppendLine"), ("/responses/200/content", "AppendSessionLine")] {
        let contents = old.pointer(place).unwrap().as_object().unwrap();
        assert_eq!(contents.keys().collect::<Vec<_>>(), ["application/json"]);
        assert_eq!(name(&new.pointer(place).unwrap()["application/x-ndjson"]["itemSchema"]), Some(item));
        assert!(parsed()["components"]["schemas"][item].is_object(), "{item}");
    }
}

#[test]
fn the_generators_that_are_recommended_are_those_that_are_tested() {
    let read = |path: &str| std::fs::read_to_string(super::root().join(path)).unwrap();
    let guide = read("docs/CLIENTS.md");
    let package: Value = serde_json::from_str(&read("tests/clients/typescript/package.json")).unwrap();
    let mut pinned: Vec<String> = ["@hey-api/openapi-ts", "typescript"]
        .map(|name| format!("{name}@{}", package["devDependencies"][name].as_str().unwrap()))
        .into();
    let requirements = read("tests/clients/python/requirements.in");
    pinned.extend(
        requirements.lines().filter(|line| line.starts_with("openapi-") && !line.contains("spec")).map(Into::into),
    );
    assert_eq!(pinned.len(), 4);
    for one in pinned {
        assert!(guide.contains(&one), "docs/CLIENTS.md does not name {one}");
    }
}

#[test]
fn the_body_of_a_change_has_no_defaults() {
    let document = parsed();
    let mut changes = 0;
    for (method, path, operation) in operations(&document) {
        if method != "patch" {
            continue;
        }
        changes += 1;
        for (_, content) in operation["requestBody"]["content"].as_object().unwrap() {
            let name = name(&content["schema"]).expect("a body has a schema with a name");
            let schema = &document["components"]["schemas"][name];
            assert!(!schema.to_string().contains("\"default\""), "{path}: a client sends what was not given: {schema}");
        }
    }
    assert!(changes > 0, "there is a change to look at");
}

#[test]
fn every_operation_says_what_becomes_of_too_long_a_request() {
    for (method, path, operation) in operations(&parsed()) {
        for status in ["414", "431"].iter().filter(|_| path.starts_with("/v1/")) {
            assert!(operation["responses"][status].is_object(), "{method} {path} lacks {status}");
        }
    }
}
