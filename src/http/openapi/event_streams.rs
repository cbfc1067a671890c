//! Event streams in the document: a handler names the enum of its events, and all else follows from it.
//!
//! OpenAPI 3.1 has no word for a stream. There, the schema of `text/event-stream` is the data of any of its events,
//! which is what clients hand out, and that of `application/x-ndjson` is a line. 3.2 has `itemSchema`: the schema of
//! every event with its name and id.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::names::{tag, variant_name};
use super::{Version, operations, reference, schema_name};
use crate::http::body::LINES;

const EVENT_STREAM: &str = "text/event-stream";
/// What the name of an enum of events ends with: a handler names it as the schema of its event stream.
const SUFFIX: &str = "EventLine";

/// Completes the schemas of all event streams.
pub fn describe(document: &mut Value, version: Version) {
    let mut streams = BTreeMap::new();
    for operation in operations(document) {
        describe_session(operation, version);
        let is_renamed = operation["parameters"]
            .as_array()
            .is_some_and(|parameters| parameters.iter().any(|parameter| parameter["name"] == "event_names"));
        let Some(content) = operation.pointer_mut("/responses/200/content").and_then(Value::as_object_mut) else {
            continue;
        };
        for (media_type, content) in content.iter_mut() {
            if media_type != EVENT_STREAM && media_type != LINES {
                continue;
            }
            let Some(lines) = schema_name(&content["schema"]).filter(|name| name.ends_with(SUFFIX)) else { continue };
            let lines = lines.to_owned();
            *content = match (version, media_type == LINES) {
                (Version::V3_1, true) => json!({ "schema": reference(&lines) }),
                (Version::V3_1, false) => json!({ "schema": reference(&data_name(&lines)) }),
                (Version::V3_2, true) => json!({ "itemSchema": reference(&lines) }),
                (Version::V3_2, false) => json!({ "itemSchema": reference(&frame_name(&lines)) }),
            };
            *streams.entry(lines).or_insert(false) |= is_renamed;
        }
    }
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    for (lines, is_renamed) in streams {
        let events = events(&schemas[&lines], is_renamed);
        put_variants(schemas, &lines, events.iter().map(|event| (event.schema_name("EventLine"), event.line())));
        match version {
            Version::V3_1 => {
                schemas.insert(data_name(&lines), any_data(&events));
            }
            Version::V3_2 => {
                let name = frame_name(&lines);
                let description = "An event as a server sends it: its data is JSON. A frame with an id alone moves \
                                   the cursor on, and the first frame says after how many milliseconds to reconnect.";
                schemas.insert(name.clone(), json!({ "description": description }));
                put_variants(
                    schemas,
                    &name,
                    events.iter().map(|event| (event.schema_name("EventFrame"), event.frame())),
                );
            }
        }
    }
}

/// An operation that takes lines answers them, too. 3.2 says what each is; in 3.1 the schemas of the lines are there, and
/// the description says what they are for: generators know one type of a body.
fn describe_session(operation: &mut Value, version: Version) {
    if operation.pointer("/requestBody/content").is_none_or(|content| content.get(LINES).is_none()) {
        return;
    }
    for content in ["/requestBody/content", "/responses/200/content"] {
        let Some(content) = operation.pointer_mut(content).and_then(Value::as_object_mut) else { continue };
        if let Some(lines) = content.shift_remove(LINES).filter(|_| version == Version::V3_2) {
            content.insert(LINES.into(), json!({ "itemSchema": lines["schema"] }));
        }
    }
}

fn data_name(lines: &str) -> String {
    format!("{}Data", lines.trim_end_matches("Line"))
}

fn frame_name(lines: &str) -> String {
    format!("{}Frame", lines.trim_end_matches("Line"))
}

/// An event of a stream.
struct Event {
    /// Its name in the code, and on the wire unless it is renamed.
    tag: String,
    description: Value,
    /// The schema of its name: one word, or any where messages may go by their type.
    name: Value,
    /// Absent for the event that is an id alone.
    data: Option<Value>,
}

impl Event {
    /// By its data, which the same event of other streams shares: `CaughtUpEvent` is in a `CaughtUpEventLine`.
    fn schema_name(&self, suffix: &str) -> String {
        match self.data.as_ref().and_then(schema_name) {
            Some(data) => format!("{}{suffix}", data.trim_end_matches("Event")),
            None => variant_name(suffix, &self.tag),
        }
    }

    /// A line of JSON.
    fn line(&self) -> Value {
        let cursor = "The cursor after this event, as text: come back with it as `last_event_id`.";
        let mut properties = Map::new();
        properties.insert("event".into(), self.name.clone());
        properties.insert("id".into(), json!({ "type": ["string", "null"], "description": cursor }));
        // Null where there is none, but there are generators that break off at a schema of null alone.
        properties.extend(self.data.clone().map(|data| ("data".to_owned(), data)));
        let required: Vec<_> = properties.keys().cloned().collect();
        json!({ "type": "object", "description": self.description, "required": required, "properties": properties })
    }

    /// A server-sent event.
    fn frame(&self) -> Value {
        let mut properties = Map::new();
        properties.insert("id".into(), json!({ "type": "string", "description": "The cursor after this event." }));
        let mut required = vec!["id"];
        if let Some(data) = &self.data {
            let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": data });
            properties.insert("event".into(), self.name.clone());
            properties.insert("data".into(), data);
            required = vec!["event", "data"];
        }
        properties.insert("retry".into(), json!({ "type": "integer", "minimum": 0 }));
        json!({ "type": "object", "description": self.description, "required": required, "properties": properties })
    }
}

/// What the enum of events says.
fn events(schema: &Value, is_renamed: bool) -> Vec<Event> {
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    let events = variants.filter_map(|variant| {
        let (property, tag) = tag(variant)?;
        let mut name = variant["properties"][property].clone();
        if is_renamed && tag == "message" {
            name =
                json!({ "type": "string", "description": "`message`, or the message's type with `event_names=type`." });
        }
        let data = variant["properties"].get("data").cloned();
        Some(Event { tag, description: variant["description"].clone(), name, data })
    });
    events.collect()
}

/// Makes `parent` one of these variants, each a schema of its own.
fn put_variants(schemas: &mut Map<String, Value>, parent: &str, variants: impl Iterator<Item = (String, Value)>) {
    let mut references = Vec::new();
    for (name, variant) in variants {
        references.push(reference(&name));
        schemas.insert(name, variant);
    }
    schemas[parent]["oneOf"] = references.into();
}

/// Two kinds of data may look the same, so this is no `oneOf`.
fn any_data(events: &[Event]) -> Value {
    let mut kinds: Vec<_> = events.iter().filter_map(|event| event.data.clone()).collect();
    kinds.dedup();
    json!({ "description": "The data of an event.", "anyOf": kinds })
}
