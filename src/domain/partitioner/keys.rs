//! The keys of a message, for keyed aggregated streams.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::find;
use crate::domain::keyed::{KEY_BYTES_MAX, MESSAGE_KEYS_MAX};
use crate::domain::message::Message;
use crate::domain::stream_name::cardinal_id;

/// Every distinct value is a key, and a partition of its own, numbered from 0 when it is first seen: a keyed aggregated
/// stream. A message with several keys is in the partition of each; a message without a value is in none.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPartitioner {
    #[allow(missing_docs)] // a description would take the constant's schema apart
    #[schema(inline)]
    pub kind: KeyKind,
    /// Where a message has its keys.
    pub of: KeyOf,
    /// Where the value is, with `data` and `metadata` only: a JSON pointer (RFC 6901) to a text, a number, a boolean, or
    /// an array of at most 16 of them. A text is the key itself; of a number or a boolean it is the JSON text, as
    /// PostgreSQL's jsonb prints it (so `1` and `"1"` are the same key, `1` and `1.0` are two). A key has at most 256
    /// bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/sku", max_length = 1000, required = false, nullable = false)]
    pub pointer: Option<String>,
}

/// Always `key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// `key`.
    Key,
}

/// Where a message has its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyOf {
    /// A value in `data`.
    Data,
    /// A value in `metadata`.
    Metadata,
    /// The cardinal id of the stream's name. A stream without an id has no key.
    CardinalId,
    /// The message's type.
    Type,
}

impl KeyPartitioner {
    /// The message's keys, each once and in their order in the message, or why they are none. `path`: the steps of the
    /// pointer.
    pub(super) fn keys(&self, message: &Message, path: &[String]) -> Result<Vec<Arc<str>>, String> {
        let mut keys = Keys(Vec::new());
        match self.of {
            KeyOf::Data => keys.add_pointed(message.data(), path),
            KeyOf::Metadata => keys.add_pointed(message.metadata(), path),
            KeyOf::CardinalId => cardinal_id(&message.stream_name).map_or(Ok(()), |id| keys.add(id)),
            KeyOf::Type => keys.add(&message.message_type),
        }
        .map_err(|reason| match &self.pointer {
            Some(pointer) => format!("the value at {pointer:?} {reason}"),
            None => format!("the key {reason}"),
        })?;
        Ok(keys.0)
    }
}

struct Keys(Vec<Arc<str>>);

impl Keys {
    fn add_pointed(&mut self, json: &str, path: &[String]) -> Result<(), String> {
        let Some(value) = find(json, path).filter(|value| *value != "null") else { return Ok(()) };
        if !value.starts_with('[') {
            return self.add_value(value);
        }
        let values: Vec<&RawValue> = serde_json::from_str(value).map_err(|_| "cannot be read".to_owned())?;
        if values.len() > MESSAGE_KEYS_MAX {
            return Err(format!(
                "is an array of {} values: a message has at most {MESSAGE_KEYS_MAX} keys",
                values.len()
            ));
        }
        values.into_iter().try_for_each(|value| self.add_value(value.get()))
    }

    fn add_value(&mut self, json: &str) -> Result<(), String> {
        match json.as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(json).map_err(|_| "cannot be read".to_owned())?;
                self.add(&text)
            }
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => self.add(json),
            Some(b'n') => Err("has null in its array: a key is a text, a number or a boolean".into()),
            Some(b'[') => Err("has an array in its array: a key is a text, a number or a boolean".into()),
            _ => Err("is or has an object: a key is a text, a number or a boolean".into()),
        }
    }

    fn add(&mut self, key: &str) -> Result<(), String> {
        if key.len() > KEY_BYTES_MAX {
            return Err(format!("has {} bytes: a key has at most {KEY_BYTES_MAX}", key.len()));
        }
        if !self.0.iter().any(|known| **known == *key) {
            self.0.push(key.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Partitioner;
    use super::*;
    use crate::domain::message::MessageParts;

    fn keys(partitioner: serde_json::Value, stream_name: &str, data: &str) -> Result<Vec<String>, String> {
        let message = Message::new(MessageParts {
            stream_name,
            message_type: "EventA",
            position: 3,
            global_position: 9,
            data: Some(data),
            metadata: Some(r#"{"tenant": "acme"}"#),
            ..MessageParts::EXAMPLE
        });
        let partitioner: Partitioner = serde_json::from_value(partitioner).unwrap();
        let mut violations = Vec::new();
        let compiled = partitioner.compile(0, &mut violations);
        assert_eq!(violations, []);
        match compiled.place(&message)? {
            super::super::Partitioned::Keys(keys) => Ok(keys.iter().map(ToString::to_string).collect()),
            super::super::Partitioned::Partition(partition) => panic!("{partition}"),
        }
    }

    fn at_sku(data: &str) -> Result<Vec<String>, String> {
        keys(json!({ "kind": "key", "of": "data", "pointer": "/sku" }), "order-7+x", data)
    }

    #[test]
    fn a_value_is_a_key() {
        for (data, expected) in [
            (r#"{"sku": "X1"}"#, vec!["X1"]),
            (r#"{"sku": ""}"#, vec![""]),
            (r#"{"sku": "a\"\u00e9\n"}"#, vec!["a\"é\n"]),
            (r#"{"sku": 1}"#, vec!["1"]),
            (r#"{"sku": -1.50}"#, vec!["-1.50"]),
            (r#"{"sku": true}"#, vec!["true"]),
            (r#"{"sku": ["b", "a", "b", 1, "1", false]}"#, vec!["b", "a", "1", "false"]),
            (r#"{"sku": []}"#, vec![]),
            (r#"{"sku": null}"#, vec![]),
            (r"{}", vec![]),
            (r"[1]", vec![]),
        ] {
            assert_eq!(at_sku(data).unwrap(), expected, "{data}");
        }
    }

    #[test]
    fn what_is_no_key_is_said() {
        let seventeen = serde_json::to_string(&json!({ "sku": (0..17).collect::<Vec<_>>() })).unwrap();
        let long = serde_json::to_string(&json!({ "sku": "é".repeat(129) })).unwrap();
        for (data, expected) in [
            (r#"{"sku": {}}"#, r#"the value at "/sku" is or has an object: a key is a text, a number or a boolean"#),
            (
                r#"{"sku": [null]}"#,
                r#"the value at "/sku" has null in its array: a key is a text, a number or a boolean"#,
            ),
            (
                r#"{"sku": [[1]]}"#,
                r#"the value at "/sku" has an array in its array: a key is a text, a number or a boolean"#,
            ),
            (&seventeen, r#"the value at "/sku" is an array of 17 values: a message has at most 16 keys"#),
            (&long, r#"the value at "/sku" has 258 bytes: a key has at most 256"#),
        ] {
            assert_eq!(at_sku(data).unwrap_err(), expected, "{data}");
        }
        assert_eq!(at_sku(&serde_json::to_string(&json!({ "sku": "é".repeat(128) })).unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn names_are_keys() {
        assert_eq!(keys(json!({ "kind": "key", "of": "cardinal_id" }), "order-7+x", "{}").unwrap(), ["7"]);
        assert_eq!(keys(json!({ "kind": "key", "of": "cardinal_id" }), "order", "{}").unwrap(), [] as [&str; 0]);
        assert_eq!(keys(json!({ "kind": "key", "of": "type" }), "order-7", "{}").unwrap(), ["EventA"]);
        let tenant = json!({ "kind": "key", "of": "metadata", "pointer": "/tenant" });
        assert_eq!(keys(tenant, "order-7", "{}").unwrap(), ["acme"]);
    }
}
