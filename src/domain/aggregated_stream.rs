//! Definitions of aggregated streams: which messages one has, and to which partition each goes.

use std::fmt;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Violation;
use super::expression::Expression;
use super::filter::FILTER_TYPES_MAX;
use super::keyed::KeyPlace;
use super::message::Message;
use super::named::{differing_fields, sort_names};
use super::partitioner::{Compiled, PARTITIONS_MAX, Partitioned, Partitioner};
use super::selection::Streams;
use super::stream_name::{Category, STREAM_NAME_BYTES_MAX, check_type};

/// The most wildcards, and the most categories, in one definition.
pub const NAMES_MAX: usize = 100;

/// Which messages an aggregated stream has, and how they are divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AggregatedStreamDefinition)]
pub struct Definition {
    /// Streams by pattern: `%` matches any run of characters, every other character matches itself. Streams of
    /// `categories` are added; without both, every stream is selected.
    #[serde(default)]
    #[schema(default = json!([]), example = json!(["order-%"]), max_items = 100)]
    pub stream_wildcards: Vec<String>,
    /// All streams of these categories.
    #[serde(default)]
    #[schema(default = json!([]), max_items = 100)]
    pub categories: Vec<String>,
    /// Only messages of these types.
    #[serde(default)]
    #[schema(default = json!([]), max_items = 100)]
    pub types: Vec<String>,
    /// Only messages for which this CEL expression is true.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub filter: Option<String>,
    /// Gives each selected message its partition.
    pub partitioner: Partitioner,
    /// The highest partition that a message may go to. Not with the partitioner `key`, which numbers as many as there are
    /// values.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 9999, default = 9999)]
    pub max_partition: Option<i64>,
    /// What becomes of a message that the partitioner cannot place. Default: `stop`. No partition with the partitioner
    /// `key`.
    #[serde(default)]
    #[schema(default = json!("stop"))]
    pub on_error: OnError,
}

/// What becomes of a message that the partitioner cannot place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)] // each variant is described by its type
pub enum OnError {
    Action(OnErrorAction),
    Partition(FallbackPartition),
}

/// What becomes of a message that gets no partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnErrorAction {
    /// The aggregated stream stops before it, until it can be placed.
    Stop,
    /// It is skipped, and counted.
    Skip,
}

/// The partition for messages that the partitioner cannot place. They are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FallbackPartition {
    /// From 0 to `max_partition`.
    #[schema(minimum = 0, maximum = 9999)]
    pub partition: i64,
}

impl Default for OnError {
    fn default() -> Self {
        Self::Action(OnErrorAction::Stop)
    }
}

/// What serde derives would take an array for the object, and would not name the field that is wrong in it.
impl<'de> Deserialize<'de> for OnError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnErrorVisitor;

        impl<'de> Visitor<'de> for OnErrorVisitor {
            type Value = OnError;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("must be stop, skip or an object of a partition")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OnError, E> {
                let action = OnErrorAction::deserialize(text.into_deserializer());
                action.map(OnError::Action).map_err(|_: E| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnError, A::Error> {
                FallbackPartition::deserialize(MapAccessDeserializer::new(map)).map(OnError::Partition)
            }
        }

        deserializer.deserialize_any(OnErrorVisitor)
    }
}

/// A definition that is ready for messages.
#[derive(Debug)]
pub struct Aggregation {
    definition: Definition,
    streams: Streams,
    filter: Option<Expression>,
    partitioner: Compiled,
}

/// What the definition says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The message does not belong to the aggregated stream.
    NotSelected,
    /// The partition that the partitioner gave, from 0 to `max_partition`.
    Partition(i32),
    /// The keys of a keyed aggregated stream, of which there is at least one: each is a partition.
    Keys(Vec<Arc<str>>),
    /// The message cannot be placed, and `on_error` gives it this partition.
    Substituted(i32),
    /// The message cannot be placed, and `on_error` skips it.
    Skipped,
    /// The message cannot be placed, and the aggregated stream stops before it, for this reason.
    Stop(String),
}

/// A message in its partition.
#[derive(Debug, Clone)]
pub struct AggregatedMessage {
    /// From 0 to `max_partition`; of a keyed aggregated stream the lowest of its places.
    pub partition: i32,
    /// Counts from 0 in the partition, without holes.
    pub position: i64,
    /// Of a keyed aggregated stream: all its places, by partition; the first has the partition and position above.
    pub keys: Option<Arc<[KeyPlace]>>,
    /// The message, shared with everything else that has it in memory.
    pub message: Arc<Message>,
}

impl Definition {
    /// Checks every rule, and compiles what can be compiled.
    pub fn compile(&self) -> Result<Aggregation, Vec<Violation>> {
        let mut violations = Vec::new();
        self.check_names(&mut violations);
        let partition_max = self.partition_max();
        let allowed = 0..=PARTITIONS_MAX - 1;
        if self.is_keyed() {
            self.check_keyed(&mut violations);
        } else if !allowed.contains(&partition_max) {
            violations.push(Violation::new("max_partition", format!("must be from 0 to {}", allowed.end())));
        }
        if let OnError::Partition(fallback) = self.on_error
            && !self.is_keyed()
            && !(0..=partition_max).contains(&fallback.partition)
        {
            violations.push(Violation::new("on_error.partition", format!("must be from 0 to {partition_max}")));
        }
        let partitioner = self.partitioner.compile(partition_max, &mut violations);
        let filter = self.filter.as_deref().and_then(|source| match Expression::compile(source) {
            Ok(expression) => Some(expression),
            Err(error) => {
                violations.push(Violation::new("filter", error.to_string()));
                None
            }
        });
        if !violations.is_empty() {
            return Err(violations);
        }
        let streams = Streams::new(&self.stream_wildcards, &self.categories);
        Ok(Aggregation { definition: self.clone(), streams, filter, partitioner })
    }

    /// Whether its partitions are keys: values of messages.
    pub fn is_keyed(&self) -> bool {
        matches!(self.partitioner, Partitioner::Key(_))
    }

    fn check_keyed(&self, violations: &mut Vec<Violation>) {
        if self.max_partition.is_some() {
            let rule = "must be absent with the partitioner key: every value is a partition";
            violations.push(Violation::new("max_partition", rule));
        }
        if let OnError::Partition(_) = self.on_error {
            let rule = "must be stop or skip with the partitioner key: a partition is the messages of one key";
            violations.push(Violation::new("on_error", rule));
        }
    }

    /// The fields in which two definitions differ. The order in which streams and types are named means nothing.
    pub fn differences(&self, other: &Definition) -> Vec<String> {
        differing_fields(&self.canonical(), &other.canonical())
    }

    fn canonical(&self) -> Definition {
        let mut canonical = self.clone();
        canonical.max_partition = Some(self.partition_max());
        for names in [&mut canonical.stream_wildcards, &mut canonical.categories, &mut canonical.types] {
            sort_names(names);
        }
        canonical
    }

    fn partition_max(&self) -> i64 {
        self.max_partition.unwrap_or(PARTITIONS_MAX - 1)
    }

    fn check_names(&self, violations: &mut Vec<Violation>) {
        let mut refuse = |field: String, rule: String| violations.push(Violation { field, message: rule });
        let lists = [
            ("stream_wildcards", &self.stream_wildcards, NAMES_MAX),
            ("categories", &self.categories, NAMES_MAX),
            ("types", &self.types, FILTER_TYPES_MAX),
        ];
        for (field, names, max) in lists {
            if names.len() > max {
                refuse(field.into(), format!("must name at most {max}"));
            }
        }
        for (at, pattern) in self.stream_wildcards.iter().enumerate() {
            let is_good =
                (1..=STREAM_NAME_BYTES_MAX).contains(&pattern.len()) && !pattern.chars().any(char::is_control);
            if !is_good {
                let rule = format!("must be from 1 to {STREAM_NAME_BYTES_MAX} bytes without control characters");
                refuse(format!("stream_wildcards[{at}]"), rule);
            }
        }
        for (at, name) in self.categories.iter().enumerate() {
            if let Err(error) = Category::parse(name.as_str()) {
                refuse(format!("categories[{at}]"), error.to_string());
            }
        }
        for (at, name) in self.types.iter().enumerate() {
            if let Err(error) = check_type(name) {
                refuse(format!("types[{at}]"), error.to_string());
            }
        }
    }
}

impl Aggregation {
    /// The definition that was compiled.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Which streams the messages are taken from.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Where this message goes. The answer depends on the message and the definition alone.
    pub fn place(&self, message: &Message) -> Placement {
        let types = &self.definition.types;
        let is_wanted = (types.is_empty() || types.iter().any(|wanted| **wanted == *message.message_type))
            && self.streams.matches(&message.stream_name)
            && self.filter.as_ref().is_none_or(|filter| filter.passes(message));
        if !is_wanted {
            return Placement::NotSelected;
        }
        let partition_max = self.definition.partition_max();
        let reason = match self.partitioner.place(message) {
            Ok(Partitioned::Keys(keys)) if keys.is_empty() => return Placement::NotSelected,
            Ok(Partitioned::Keys(keys)) => return Placement::Keys(keys),
            // The bounds end far below 2^31, so it fits.
            Ok(Partitioned::Partition(partition)) if (0..=partition_max).contains(&partition) => {
                return Placement::Partition(partition as i32);
            }
            Ok(Partitioned::Partition(partition)) => {
                format!("the partition {partition} is not from 0 to {partition_max}")
            }
            Err(reason) => reason,
        };
        match self.definition.on_error {
            OnError::Action(OnErrorAction::Stop) => Placement::Stop(reason),
            OnError::Action(OnErrorAction::Skip) => Placement::Skipped,
            OnError::Partition(FallbackPartition { partition }) => Placement::Substituted(partition as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::message::MessageParts;

    fn definition(value: serde_json::Value) -> Definition {
        serde_json::from_value(value).unwrap()
    }

    fn message(stream_name: &str, message_type: &str, data: &str) -> Message {
        Message::new(MessageParts { stream_name, message_type, data: Some(data), ..MessageParts::EXAMPLE })
    }

    #[test]
    fn a_message_goes_where_the_definition_says() {
        let numbers = |on_error: serde_json::Value| {
            definition(json!({
                "stream_wildcards": ["aggregate-me-%"], "types": ["EventA"], "filter": "data.num != 5",
                "partitioner": {"kind": "cel", "expression": "data.num % 3"}, "max_partition": 2, "on_error": on_error
            }))
            .compile()
            .unwrap()
        };
        let stop = numbers(json!("stop"));
        let event = |data: &str| message("aggregate-me-1", "EventA", data);
        assert_eq!(stop.place(&event(r#"{"num": 176}"#)), Placement::Partition(2));
        assert_eq!(stop.place(&event(r#"{"num": 5}"#)), Placement::NotSelected);
        assert_eq!(stop.place(&message("aggregate-me-1", "EventB", r#"{"num": 1}"#)), Placement::NotSelected);
        assert_eq!(stop.place(&message("other-1", "EventA", r#"{"num": 1}"#)), Placement::NotSelected);
        let Placement::Stop(reason) = stop.place(&event(r#"{"num": -7}"#)) else { panic!("it cannot be placed") };
        assert_eq!(reason, "the partition -1 is not from 0 to 2");
        assert_eq!(numbers(json!("skip")).place(&event(r#"{"num": -7}"#)), Placement::Skipped);
        assert_eq!(numbers(json!({"partition": 1})).place(&event(r#"{"num": 1.5}"#)), Placement::Substituted(1));
    }

    #[test]
    fn neither_wildcards_nor_categories_is_every_stream() {
        let every = definition(json!({"partitioner": {"kind": "constant"}})).compile().unwrap();
        assert_eq!(every.place(&message("anything", "T", "null")), Placement::Partition(0));
    }

    #[test]
    fn every_rule_names_its_field() {
        let fields = |value| {
            let violations = definition(value).compile().unwrap_err();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        let bad = json!({
            "stream_wildcards": ["", "a\0%"], "categories": ["a-b"], "types": ["ok", ""], "filter": "data.x ==",
            "partitioner": {"kind": "stream", "partitions": 4}, "max_partition": 2, "on_error": {"partition": 3}
        });
        assert_eq!(
            fields(bad),
            [
                "stream_wildcards[0]",
                "stream_wildcards[1]",
                "categories[0]",
                "types[1]",
                "on_error.partition",
                "partitioner.partitions",
                "filter"
            ]
        );
        assert_eq!(fields(json!({"partitioner": {"kind": "constant"}, "max_partition": -1})), ["max_partition"]);
        let many: Vec<_> = (0..=NAMES_MAX).map(|n| format!("c{n}")).collect();
        assert_eq!(fields(json!({"partitioner": {"kind": "constant"}, "categories": many})), ["categories"]);
    }

    #[test]
    fn unknown_fields_are_refused_everywhere() {
        for value in [
            json!({"partitioner": {"kind": "constant"}, "streams": []}),
            json!({"partitioner": {"kind": "constant", "partitions": 3}}),
            json!({"partitioner": {"kind": "data", "pointer": "", "method": "hash", "partitions": 3, "x": 1}}),
            json!({"partitioner": {"kind": "round_robin"}}),
            json!({"partitioner": {"kind": "constant"}, "on_error": "ignore"}),
            json!({"partitioner": {"kind": "constant"}, "on_error": {"partition": 1, "x": 1}}),
            json!({}),
        ] {
            assert!(serde_json::from_value::<Definition>(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn differences_are_named_and_order_is_none() {
        let one = definition(json!({"categories": ["a", "b"], "partitioner": {"kind": "constant"}}));
        let same = definition(json!({"categories": ["b", "a"], "partitioner": {"kind": "constant"}, "filter": null,
            "max_partition": PARTITIONS_MAX - 1, "on_error": "stop"}));
        assert_eq!(one.differences(&same), Vec::<String>::new());
        let other = definition(json!({"categories": ["a"], "partitioner": {"kind": "stream", "partitions": 2},
            "on_error": "skip"}));
        assert_eq!(one.differences(&other), ["categories", "partitioner", "on_error"]);
    }

    #[test]
    fn a_definition_survives_being_stored() {
        let stored =
            definition(json!({"partitioner": {"kind": "cel", "expression": "0"}, "on_error": {"partition": 0}}));
        let text = serde_json::to_string(&stored).unwrap();
        assert_eq!(serde_json::from_str::<Definition>(&text).unwrap(), stored);
    }
}
