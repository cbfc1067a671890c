//! Gives each message its partition of an aggregated stream. A new kind of partitioner is added here alone.

use std::borrow::Cow;
use std::sync::Arc;

use cel::Value;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Violation;
use super::expression::Expression;
use super::message::Message;
use super::object::Object;
use super::stream_name::cardinal_id;

mod keys;
mod pointer;
mod written;

use self::pointer::{find, read_pointer};
pub use keys::{KeyKind, KeyOf, KeyPartitioner};

/// The most partitions of one aggregated stream: they are numbered from 0 to one less.
pub const PARTITIONS_MAX: i64 = 10_000;

/// Gives each message its partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, try_from = "Object<written::WrittenPartitioner>")]
#[allow(missing_docs)] // each variant is described by its type
pub enum Partitioner {
    Constant(ConstantPartitioner),
    Hash(HashPartitioner),
    Value(ValuePartitioner),
    Cel(CelPartitioner),
    Key(KeyPartitioner),
}

/// Everything in partition 0.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstantPartitioner {
    #[allow(missing_docs)] // a description would take the constant's schema apart
    #[schema(inline)]
    pub kind: ConstantKind,
}

/// Always `constant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConstantKind {
    /// `constant`.
    Constant,
}

/// By Message DB's 64-bit hash of a name, absolute, modulo `partitions`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HashPartitioner {
    /// Which name is hashed.
    pub kind: HashedName,
    /// From 1 to `max_partition` + 1.
    #[schema(minimum = 1, maximum = 10000)]
    pub partitions: i64,
}

/// Which name is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashedName {
    /// The stream's whole name.
    Stream,
    /// As Message DB's consumer groups do.
    CardinalId,
    /// The stream's category.
    Category,
    /// The message's type.
    Type,
}

/// By a value in the message.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValuePartitioner {
    /// Which part of the message has the value.
    pub kind: ValueIn,
    /// Where the value is: a JSON pointer (RFC 6901).
    #[schema(example = "/customer/id", max_length = 1000)]
    pub pointer: String,
    /// How the value becomes a partition.
    pub method: PartitionMethod,
    /// From 1 to `max_partition` + 1.
    #[schema(minimum = 1, maximum = 10000)]
    pub partitions: i64,
    /// The partition of messages that have no such value, or null there; without it they cannot be placed.
    #[schema(minimum = 0, maximum = 9999)]
    pub missing: Option<i64>,
}

/// Where the value is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueIn {
    /// In `data`.
    Data,
    /// In `metadata`.
    Metadata,
}

/// How a value becomes a partition: the remainder of an integer (never negative), or the hash of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartitionMethod {
    /// -7 modulo 3 is 2.
    Modulo,
    /// Of a string's text, or of another value's JSON text.
    Hash,
}

/// By a CEL expression whose integer is the partition, from 0 to `max_partition`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CelPartitioner {
    #[allow(missing_docs)] // a description would take the constant's schema apart
    #[schema(inline)]
    pub kind: CelKind,
    /// Over `type, data, metadata, stream_name, category, position, global_position, time`.
    #[schema(example = "data.quantity > 1 ? 1 : 0", max_length = 1000)]
    pub expression: String,
}

/// Always `cel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CelKind {
    /// `cel`.
    Cel,
}

/// A partitioner that is ready for messages.
#[derive(Debug)]
pub struct Compiled {
    partitioner: Partitioner,
    /// Of a `cel` partitioner.
    expression: Option<Expression>,
    /// The steps of a value's pointer.
    path: Vec<String>,
}

/// Where a partitioner puts a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitioned {
    /// Into this partition, which may be beyond the bounds.
    Partition(i64),
    /// Into the partition of each of these keys.
    Keys(Vec<Arc<str>>),
}

impl Partitioner {
    /// Checks every rule, and compiles what can be compiled. `partition_max` is the highest partition there may be.
    pub fn compile(&self, partition_max: i64, violations: &mut Vec<Violation>) -> Compiled {
        let mut refuse = |field: &str, rule: String| violations.push(Violation::new(field, rule));
        if let Some(partitions) = self.partitions() {
            let partitions_max = partition_max + 1;
            if !(1..=partitions_max).contains(&partitions) {
                refuse("partitioner.partitions", format!("must be from 1 to {partitions_max}"));
            }
        }
        let mut path = Vec::new();
        if let Some(pointer) = self.pointer() {
            match read_pointer(pointer) {
                Ok(read) => path = read,
                Err(rule) => refuse("partitioner.pointer", rule),
            }
        }
        if let Partitioner::Value(value) = self
            && value.missing.is_some_and(|missing| !(0..=partition_max).contains(&missing))
        {
            refuse("partitioner.missing", format!("must be a partition, from 0 to {partition_max}"));
        }
        let mut expression = None;
        if let Partitioner::Cel(cel) = self {
            match Expression::compile(&cel.expression) {
                Ok(compiled) => expression = Some(compiled),
                Err(error) => refuse("partitioner.expression", error.to_string()),
            }
        }
        Compiled { partitioner: self.clone(), expression, path }
    }

    fn partitions(&self) -> Option<i64> {
        match self {
            Partitioner::Constant(_) | Partitioner::Cel(_) | Partitioner::Key(_) => None,
            Partitioner::Hash(hash) => Some(hash.partitions),
            Partitioner::Value(value) => Some(value.partitions),
        }
    }

    fn pointer(&self) -> Option<&str> {
        match self {
            Partitioner::Value(value) => Some(&value.pointer),
            Partitioner::Key(key) => key.pointer.as_deref(),
            Partitioner::Constant(_) | Partitioner::Hash(_) | Partitioner::Cel(_) => None,
        }
    }
}

impl Compiled {
    /// Where the message goes, or why it cannot be placed.
    pub fn place(&self, message: &Message) -> Result<Partitioned, String> {
        let partition = match &self.partitioner {
            Partitioner::Key(key) => return key.keys(message, &self.path).map(Partitioned::Keys),
            Partitioner::Constant(_) => Ok(0),
            Partitioner::Hash(hash) => {
                let stream_name = &*message.stream_name;
                let name = match hash.kind {
                    HashedName::Stream => stream_name,
                    // A bare category has no id: its name is taken instead.
                    HashedName::CardinalId => cardinal_id(stream_name).unwrap_or(stream_name),
                    HashedName::Category => message.category(),
                    HashedName::Type => &message.message_type,
                };
                Ok(hashed(name, hash.partitions))
            }
            Partitioner::Value(value) => match value.kind {
                ValueIn::Data => self.pointed("data", message.data(), value),
                ValueIn::Metadata => self.pointed("metadata", message.metadata(), value),
            },
            Partitioner::Cel(_) => {
                let expression = self.expression.as_ref().ok_or("the expression could not be compiled")?;
                match expression.evaluate(message)? {
                    Value::Int(partition) => Ok(partition),
                    Value::UInt(partition) => {
                        i64::try_from(partition).map_err(|_| format!("the expression gives {partition}"))
                    }
                    other => Err(format!("the expression gives {} instead of an integer", kind_of(&other))),
                }
            }
        };
        partition.map(Partitioned::Partition)
    }

    fn pointed(&self, field: &str, json: &str, pointed: &ValuePartitioner) -> Result<i64, String> {
        let Some(value) = find(json, &self.path).filter(|value| *value != "null") else {
            return pointed.missing.ok_or_else(|| format!("{field} has no value at {:?}", pointed.pointer));
        };
        match pointed.method {
            PartitionMethod::Modulo => remainder(value, pointed.partitions)
                .ok_or_else(|| format!("{field} has no integer at {:?}", pointed.pointer)),
            PartitionMethod::Hash => {
                let text = serde_json::from_str::<String>(value).map_or(Cow::Borrowed(value), Cow::Owned);
                Ok(hashed(&text, pointed.partitions))
            }
        }
    }
}

/// Message DB's `hash_64`, absolute, modulo the number of partitions: its consumer groups' rule.
pub fn hashed(text: &str, partitions: i64) -> i64 {
    let digest = Md5::digest(text.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    let remainder = i64::from_be_bytes(first).unsigned_abs() % partitions.unsigned_abs().max(1);
    // Less than `partitions`, so it fits into an i64.
    remainder as i64
}

/// The remainder of a JSON integer of any length, never negative. `None` for a number that is no integer.
fn remainder(number: &str, partitions: i64) -> Option<i64> {
    let (is_negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    // jsonb keeps the zeros of 3.0 and prints numbers without exponents.
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) || fraction.bytes().any(|byte| byte != b'0')
    {
        return None;
    }
    let remainder = whole
        .bytes()
        .fold(0_i128, |remainder, digit| (remainder * 10 + i128::from(digit - b'0')) % i128::from(partitions));
    let signed = if is_negative { -remainder } else { remainder };
    i64::try_from(signed.rem_euclid(i128::from(partitions))).ok()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Float(_) => "a number that is no integer",
        Value::String(_) => "a string",
        Value::Bool(_) => "a boolean",
        Value::Null => "null",
        Value::List(_) => "a list",
        Value::Map(_) => "an object",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    fn message(stream_name: &str, data: &str) -> Message {
        Message::new(MessageParts {
            stream_name,
            message_type: "EventA",
            position: 3,
            global_position: 9,
            data: Some(data),
            metadata: Some(r#"{"tenant": "acme"}"#),
            ..MessageParts::EXAMPLE
        })
    }

    fn partition(definition: serde_json::Value, message: &Message) -> Result<i64, String> {
        let partitioner: Partitioner = serde_json::from_value(definition).unwrap();
        let mut violations = Vec::new();
        let compiled = partitioner.compile(PARTITIONS_MAX - 1, &mut violations);
        assert_eq!(violations, []);
        match compiled.place(message)? {
            Partitioned::Partition(partition) => Ok(partition),
            Partitioned::Keys(keys) => panic!("{keys:?}"),
        }
    }

    fn cel(expression: &str, data: &str) -> Result<i64, String> {
        partition(serde_json::json!({ "kind": "cel", "expression": expression }), &message("a-1", data))
    }

    fn data(pointer: &str, method: &str, json: &str) -> Result<i64, String> {
        let definition = serde_json::json!({ "kind": "data", "pointer": pointer, "method": method, "partitions": 3 });
        partition(definition, &message("a-1", json))
    }

    #[test]
    fn the_hash_is_message_db_s() {
        // SELECT message_store.hash_64('123'), ('abc-1'): computed with md5sum.
        assert_eq!(hashed("123", i64::MAX), 0x202c_b962_ac59_075b);
        assert_eq!(hashed("", 2), (0xd41d_8cd9_8f00_b204_u64 as i64).unsigned_abs() as i64 % 2);
    }

    #[test]
    fn names_are_hashed_by_what_is_asked_for() {
        let message = message("order:cmd-7+x", "{}");
        for (kind, text) in
            [("stream", "order:cmd-7+x"), ("cardinal_id", "7"), ("category", "order:cmd"), ("type", "EventA")]
        {
            let definition = serde_json::json!({ "kind": kind, "partitions": 1_000 });
            assert_eq!(partition(definition, &message), Ok(hashed(text, 1_000)), "{kind}");
        }
        assert_eq!(partition(serde_json::json!({ "kind": "constant" }), &message), Ok(0));
    }

    #[test]
    fn a_value_is_found_as_it_stands() {
        assert_eq!(data("/a/b", "modulo", r#"{"a": {"b": 7}}"#), Ok(1));
        assert_eq!(data("/a/1", "modulo", r#"{"a": [1, 5]}"#), Ok(2));
        assert_eq!(data("", "modulo", "8"), Ok(2));
        assert_eq!(data("/x~1y~0", "modulo", r#"{"x/y~": 4}"#), Ok(1));
        assert_eq!(data("/a", "hash", r#"{"a": "xé\n"}"#), Ok(hashed("xé\n", 3)));
        assert_eq!(data("/a", "hash", r#"{"a": 1.50}"#), Ok(hashed("1.50", 3)));
        for (pointer, json) in [("/b", "{}"), ("/a/01", r#"{"a": [1, 2]}"#), ("/a", r#"{"a": null}"#), ("/a/b", "3")] {
            assert!(data(pointer, "modulo", json).unwrap_err().contains("no value"), "{pointer} {json}");
        }
        let missing =
            serde_json::json!({ "kind": "metadata", "pointer": "/x", "method": "hash", "partitions": 3, "missing": 2 });
        assert_eq!(partition(missing, &message("a-1", "{}")), Ok(2));
        let tenant = serde_json::json!({ "kind": "metadata", "pointer": "/tenant", "method": "hash", "partitions": 3 });
        assert_eq!(partition(tenant, &message("a-1", "{}")), Ok(hashed("acme", 3)));
    }

    #[test]
    fn remainders_are_exact_for_any_integer_and_never_negative() {
        assert_eq!(data("/n", "modulo", r#"{"n": -7}"#), Ok(2));
        assert_eq!(data("/n", "modulo", r#"{"n": 123456789012345678901234567890}"#), Ok(0));
        assert_eq!(data("/n", "modulo", r#"{"n": 123456789012345678901234567891}"#), Ok(1));
        assert_eq!(data("/n", "modulo", r#"{"n": 4.00}"#), Ok(1));
        for odd in ["4.5", "\"4\"", "true", "{}"] {
            assert!(data("/n", "modulo", &format!(r#"{{"n": {odd}}}"#)).unwrap_err().contains("no integer"), "{odd}");
        }
    }

    #[test]
    fn an_expression_s_integer_is_the_partition() {
        assert_eq!(cel("type == 'EventA' ? data.num % 3 : 0", r#"{"num": 176}"#), Ok(2));
        assert_eq!(cel("data.num % 3", r#"{"num": -7}"#), Ok(-1), "refused later, as a partition below 0");
        assert_eq!(cel("size(data.s)", r#"{"s": "abc"}"#), Ok(3));
        assert!(cel("data.num", r#"{"num": 1.5}"#).unwrap_err().contains("no integer"));
        assert!(cel("data.nom", r#"{"num": 1}"#).is_err());
        assert!(cel("type", "{}").unwrap_err().contains("a string"));
    }

    #[test]
    fn every_rule_names_its_field() {
        let fields = |definition: serde_json::Value| {
            let partitioner: Partitioner = serde_json::from_value(definition).unwrap();
            let mut violations = Vec::new();
            partitioner.compile(9, &mut violations);
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(serde_json::json!({ "kind": "stream", "partitions": 0 })), ["partitioner.partitions"]);
        assert_eq!(fields(serde_json::json!({ "kind": "stream", "partitions": 11 })), ["partitioner.partitions"]);
        assert_eq!(
            fields(serde_json::json!({ "kind": "cel", "expression": "[1].all(x, x)" })),
            ["partitioner.expression"]
        );
        let pointed = |pointer: &str, missing: i64| serde_json::json!({ "kind": "data", "pointer": pointer, "method": "hash", "partitions": 2, "missing": missing });
        assert_eq!(fields(pointed("a", 0)), ["partitioner.pointer"]);
        assert_eq!(fields(pointed("/a~2", 10)), ["partitioner.pointer", "partitioner.missing"]);
    }
}
