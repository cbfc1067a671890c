//! Texts that keep the same rules wherever they are sent: names, expressions, durations.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{operations, reference};

/// What is sent under these names is such a text; in a list, each of its items.
const TEXTS: [(&str, &str); 11] = [
    ("aggregated_stream", "Name"),
    ("categories", "Category"),
    ("category", "Category"),
    ("correlation", "Category"),
    ("filter", "CelExpression"),
    ("heartbeat", "Duration"),
    ("name", "Name"),
    ("stream_name", "StreamName"),
    ("type", "MessageType"),
    ("types", "MessageType"),
    ("wait", "Duration"),
];

/// The name of a stream: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(
    as = StreamName, value_type = String, example = "account-123",
    min_length = 1, max_length = 1000, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct StreamNameText(#[allow(dead_code)] String); // described only, as all of these

/// The name of a category, which is what stream names have before their first `-`: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(
    as = Category, value_type = String, example = "account",
    min_length = 1, max_length = 1000, pattern = "^[^-\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct CategoryText(#[allow(dead_code)] String);

/// The type of a message: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(
    as = MessageType, value_type = String, example = "Deposited",
    min_length = 1, max_length = 1000, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct MessageTypeText(#[allow(dead_code)] String);

/// The name of an aggregated stream or a subscription: at most 200 bytes.
#[derive(ToSchema)]
#[schema(
    as = Name, value_type = String, example = "orders",
    min_length = 1, max_length = 200, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
)]
pub struct NameText(#[allow(dead_code)] String);

/// A CEL expression that is true or false, over `type, data, metadata, stream_name, category, position,
/// global_position, time`: at most 1000 bytes.
#[derive(ToSchema)]
#[schema(as = CelExpression, value_type = String, example = "data.amount > 100", min_length = 1, max_length = 1000)]
pub struct CelExpressionText(#[allow(dead_code)] String);

/// A duration: a number and its unit, `ms`, `s`, `m` or `h`.
#[derive(ToSchema)]
#[schema(as = Duration, value_type = String, example = "30s", pattern = "^(0|[0-9]{1,9}(ms|s|m|h))$")]
pub struct DurationText(#[allow(dead_code)] String);

/// Gives the texts in parameters and in bodies that are sent their schema. What is answered may break these rules: other
/// programs write messages too.
pub fn name_texts(document: &mut Value) {
    for operation in operations(document) {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten();
        for parameter in parameters.filter(|parameter| parameter["in"] != "header") {
            let name = parameter["name"].as_str().unwrap_or_default().to_owned();
            name_text(&name, &mut parameter["schema"]);
        }
    }
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for schema in schemas.into_iter().flat_map(|schemas| schemas.values_mut()) {
        // Only what is sent refuses what it does not know.
        if schema["additionalProperties"] == json!(false)
            && let Some(properties) = schema["properties"].as_object_mut()
        {
            properties.iter_mut().for_each(|(name, schema)| name_text(name, schema));
        }
    }
}

fn name_text(name: &str, schema: &mut Value) {
    let Some((_, text)) = TEXTS.iter().find(|(known, _)| *known == name) else { return };
    if schema["type"] == "array" {
        schema["items"] = reference(text);
    } else if schema["type"] == "string" {
        let mut named = reference(text);
        if let Some(description) = schema.get("description") {
            named["description"] = description.clone();
        }
        *schema = named;
    }
}
