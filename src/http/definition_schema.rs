//! What a definition of an aggregated stream looks like, for the OpenAPI document; `domain` reads it.

use serde::Serialize;
use utoipa::ToSchema;

/// Which messages an aggregated stream has, and how they are divided.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // described only
pub struct AggregatedStreamDefinition {
    /// Streams by pattern: `%` is any run of characters, everything else stands for itself. With `categories`; neither
    /// of them: every stream.
    #[schema(default = json!([]), example = json!(["aggregate-me-%"]), max_items = 100, nullable = false)]
    pub stream_wildcards: Option<Vec<String>>,
    /// All streams of these categories.
    #[schema(default = json!([]), max_items = 100, nullable = false)]
    categories: Option<Vec<String>>,
    /// Only messages of these types.
    #[schema(default = json!([]), max_items = 100, nullable = false)]
    types: Option<Vec<String>>,
    /// Only messages for which this CEL expression is true.
    #[schema(max_length = 1000)]
    filter: Option<String>,
    partitioner: Partitioner,
    /// The highest partition that a message may go to.
    #[schema(minimum = 0, maximum = 9999, default = 9999)]
    max_partition: Option<i64>,
    #[schema(default = json!("stop"), nullable = false)]
    on_error: Option<OnError>,
}

/// Gives each message its partition.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // described only
pub enum Partitioner {
    Constant(ConstantPartitioner),
    Hash(HashPartitioner),
    Value(ValuePartitioner),
    Cel(CelPartitioner),
}

/// Everything in partition 0.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // described only
pub struct ConstantPartitioner {
    #[schema(inline)]
    kind: ConstantKind,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described only
pub enum ConstantKind {
    Constant,
}

/// By Message DB's 64-bit hash of a name, absolute, modulo `partitions`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // described only
pub struct HashPartitioner {
    kind: HashedName,
    #[schema(minimum = 1, maximum = 10000)]
    partitions: i64,
}

/// Which name is hashed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described only
pub enum HashedName {
    Stream,
    CardinalId,
    Category,
    Type,
}

/// By a value in the message.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // described only
pub struct ValuePartitioner {
    kind: ValueIn,
    /// Where the value is: a JSON pointer (RFC 6901).
    #[schema(example = "/customer/id", max_length = 1000)]
    pointer: String,
    method: PartitionMethod,
    #[schema(minimum = 1, maximum = 10000)]
    partitions: i64,
    /// The partition of messages that have no such value, or null there; without it they cannot be placed.
    #[schema(minimum = 0, maximum = 9999)]
    missing: Option<i64>,
}

/// Where the value is looked for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described only
pub enum ValueIn {
    Data,
    Metadata,
}

/// How a value becomes a partition: the remainder of an integer (never negative), or the hash of a text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described only
pub enum PartitionMethod {
    Modulo,
    Hash,
}

/// By a CEL expression whose integer is the partition, from 0 to `max_partition`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // described only
pub struct CelPartitioner {
    #[schema(inline)]
    kind: CelKind,
    /// Over `type, data, metadata, stream_name, category, position, global_position, time`.
    #[schema(example = "type == 'EventA' ? data.num % 3 : 0", max_length = 1000)]
    expression: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described only
pub enum CelKind {
    Cel,
}

/// What becomes of a message that the partitioner cannot place.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // described only
pub enum OnError {
    Action(OnErrorAction),
    Partition(FallbackPartition),
}

/// What becomes of it without a partition.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described only
pub enum OnErrorAction {
    /// Nothing goes on before it can be placed.
    Stop,
    /// It is left out, and counted.
    Skip,
}

/// It goes to this partition, and is counted.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // described only
pub struct FallbackPartition {
    #[schema(minimum = 0, maximum = 9999)]
    partition: i64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    use super::*;
    use crate::domain::aggregated_stream::Definition;

    fn described(schema: &Value) -> BTreeSet<String> {
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    }

    fn written(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn what_is_described_is_what_is_read() {
        let definition = |partitioner: Value| {
            let definition = json!({ "partitioner": partitioner });
            serde_json::to_value(serde_json::from_value::<Definition>(definition).unwrap()).unwrap()
        };
        let schema = |schema| serde_json::to_value(schema).unwrap();
        let constant = definition(json!({"kind": "constant"}));
        assert_eq!(described(&schema(AggregatedStreamDefinition::schema())), written(&constant));
        assert_eq!(described(&schema(ConstantPartitioner::schema())), written(&constant["partitioner"]));
        for kind in schema(HashedName::schema())["enum"].as_array().unwrap() {
            let hashed = definition(json!({"kind": kind, "partitions": 2}));
            assert_eq!(described(&schema(HashPartitioner::schema())), written(&hashed["partitioner"]));
        }
        for kind in schema(ValueIn::schema())["enum"].as_array().unwrap() {
            for method in schema(PartitionMethod::schema())["enum"].as_array().unwrap() {
                let pointed = json!({"kind": kind, "pointer": "/a", "method": method, "partitions": 2});
                let value = definition(pointed);
                assert_eq!(described(&schema(ValuePartitioner::schema())), written(&value["partitioner"]));
            }
        }
        let cel = definition(json!({"kind": "cel", "expression": "0"}));
        assert_eq!(described(&schema(CelPartitioner::schema())), written(&cel["partitioner"]));
    }
}
