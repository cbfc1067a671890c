//! Schemas of texts that have the same rules wherever they are sent: names, expressions, durations.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{operations, reference};

/// The fields that have such a text, or a list of them, and its schema.
const SENT: [(&str, &str); 10] = [
    ("aggregated_stream", "Name"),
    ("categories", "Category"),
    ("category", "Category"),
    ("consumer", "Name"),
    ("correlation", "Category"),
    ("filter", "CelExpression"),
    ("name", "Name"),
    ("stream_name", "StreamName"),
    ("type", "MessageType"),
    ("types", "MessageType"),
];

/// Fields of these names are durations everywhere.
const DURATIONS: [&str; 13] = [
    "ack_timeout",
    "backoff",
    "behind_for",
    "consumer_timeout",
    "delay",
    "expires_in",
    "heartbeat",
    "idle",
    "min_idle",
    "oldest_idle",
    "oldest_unacked_age",
    "ttl",
    "wait",
];

/// The name of a stream: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(
    as = StreamName, value_type = String, example = "order-1",
    min_length = 1, max_length = 1000, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct StreamNameText(#[allow(dead_code)] String); // described only, as all of these

/// The name of a category, which is what stream names have before their first `-`: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(
    as = Category, value_type = String, example = "order",
    min_length = 1, max_length = 1000, pattern = "^[^-\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct CategoryText(#[allow(dead_code)] String);

/// The type of a message: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(
    as = MessageType, value_type = String, example = "OrderPlaced",
    min_length = 1, max_length = 1000, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct MessageTypeText(#[allow(dead_code)] String);

/// The name of an aggregated stream, a subscription or a consumer: at most 200 bytes.
#[derive(ToSchema)]
#[schema(
    as = Name, value_type = String, example = "orders",
    min_length = 1, max_length = 200, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct NameText(#[allow(dead_code)] String);

/// A CEL expression that is true or false, over `type, data, metadata, stream_name, category, position,
/// global_position, time`: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(as = CelExpression, value_type = String, example = "data.quantity > 1", min_length = 1, max_length = 1000)]
pub struct CelExpressionText(#[allow(dead_code)] String);

/// A duration: a number and its unit, `ms`, `s`, `m`, `h` or `d`.
#[derive(ToSchema)]
#[schema(as = Duration, value_type = String, example = "30s", pattern = "^(0|[0-9]{1,9}(ms|s|m|h|d))$")]
pub struct DurationText(#[allow(dead_code)] String);

/// Gives these texts their schema in requests. Names in answers may break the rules: other programs write messages too.
pub fn name_texts(document: &mut Value) {
    let texts = document["components"]["schemas"].clone();
    for operation in operations(document) {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten();
        for parameter in parameters.filter(|parameter| parameter["in"] != "header") {
            let name = parameter["name"].as_str().unwrap_or_default().to_owned();
            name_text(text_of(&name, true), &mut parameter["schema"], &texts);
        }
    }
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for schema in schemas.into_iter().flat_map(|schemas| schemas.values_mut()) {
        // Only schemas of requests refuse unknown fields.
        let is_sent = schema["additionalProperties"] == json!(false);
        for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            name_text(text_of(name, is_sent), property, &texts);
        }
    }
}

fn text_of(name: &str, is_sent: bool) -> Option<&'static str> {
    if DURATIONS.contains(&name) {
        return Some("Duration");
    }
    SENT.iter().find(|(known, _)| is_sent && *known == name).map(|(_, text)| *text)
}

fn name_text(text: Option<&str>, schema: &mut Value, texts: &Value) {
    let Some(text) = text else { return };
    let is = |schema: &Value, kind: &str| schema["type"] == kind || schema["type"] == json!([kind, "null"]);
    if is(schema, "array") {
        schema["items"] = reference(text);
    } else if schema["type"] == "string" {
        let mut named = reference(text);
        for key in ["description", "default"] {
            if let Some(value) = schema.get(key) {
                named[key] = value.clone();
            }
        }
        *schema = named;
    } else if is(schema, "string") {
        // Generators make a new type of `text or null`, so the rules are repeated here.
        for (key, rule) in texts[text].as_object().into_iter().flatten() {
            if ["pattern", "minLength", "maxLength"].contains(&key.as_str()) {
                schema[key] = rule.clone();
            }
        }
    }
}
