//! Names: of what users define, of the fields in which two definitions differ, and of an enum's values.

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IntoDeserializer};
use serde_json::Value;

/// The longest name of an aggregated stream, a subscription or a consumer, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 200;

/// Checks a name, which has 1 to [`NAME_BYTES_MAX`] bytes and no control characters. The error is the rule that it breaks.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("must not be empty".into());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("must be at most {NAME_BYTES_MAX} bytes of UTF-8, not {}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    Ok(())
}

/// Sorts a list in which neither order nor repetition means anything, and takes repeated names out.
pub fn sort_names(names: &mut Vec<String>) {
    names.sort_unstable();
    names.dedup();
}

/// The fields in which two definitions differ, by their names on the wire. Durations are kept in fields that end in `_ms`,
/// which those on the wire do not.
pub fn differing_fields<T: Serialize>(one: &T, other: &T) -> Vec<String> {
    let fields = |definition| match serde_json::to_value(definition) {
        Ok(Value::Object(fields)) => fields,
        // A definition has fields of texts, numbers and lists, so that this does not happen.
        _ => Default::default(),
    };
    let (one, other) = (fields(one), fields(other));
    let differs = one.iter().filter(|(name, value)| other.get(*name) != Some(*value));
    differs.map(|(name, _)| name.trim_end_matches("_ms").to_owned()).collect()
}

/// Reads an enum that is written by its name alone. What serde derives would take `{"name": null}` too, and would not list
/// the names for a value that is no text.
pub fn named<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    by_name(&Value::deserialize(deserializer)?)
}

/// Reads an enum as [`named`] does; null is none.
pub fn named_if_any<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<Value>::deserialize(deserializer)?.map(|given| by_name(&given)).transpose()
}

/// Takes a value that is no text for the empty name, which no enum has: it is refused as an unknown name is.
fn by_name<T: DeserializeOwned, E: serde::de::Error>(given: &Value) -> Result<T, E> {
    T::deserialize(given.as_str().unwrap_or_default().into_deserializer())
}
