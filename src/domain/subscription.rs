//! Definitions of subscriptions: what one consumes, how it divides and delivers, and which of that may change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Violation;
use super::delivery::{OnExhausted, Policy};
use super::expression::{Expression, ExpressionError};
use super::filter::{FILTER_TYPES_MAX, Filter};
use super::message::Message;
use super::named::{check_name, differing_fields, sort_names};
use super::partitioner::hashed;
use super::source::{SOURCE_TOPICS_MAX, Source};
use super::stream_name::{Category, StreamName, cardinal_id, check_type};

/// The most partitions that a subscription divides its source into by itself.
pub const SUBSCRIPTION_PARTITIONS_MAX: i64 = 1_024;
/// The most messages that a consumer may have without having acked them.
pub const MAX_IN_FLIGHT_MAX: i64 = 10_000;
/// The most deliveries of one message that can be asked for.
pub const MAX_DELIVERIES_MAX: i64 = 1_000_000;
/// The most steps of a backoff.
pub const BACKOFF_STEPS_MAX: usize = 20;
/// Bounds of `ack_timeout`, in milliseconds: a tenth of a second to a day.
pub const ACK_TIMEOUT_MS: std::ops::RangeInclusive<i64> = 100..=86_400_000;
/// Bounds of `consumer_timeout`, in milliseconds: half a second to an hour.
pub const CONSUMER_TIMEOUT_MS: std::ops::RangeInclusive<i64> = 500..=3_600_000;
/// Bounds of a step of `backoff`, in milliseconds: nothing to a day.
pub const BACKOFF_MS: std::ops::RangeInclusive<i64> = 0..=86_400_000;

/// The definition of a subscription, with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// What it consumes.
    pub source: SubscriptionSource,
    /// Where it begins.
    pub from: StartAt,
    /// Only messages of these types; empty: any.
    pub types: Vec<String>,
    /// Only messages for which this CEL expression is true.
    pub filter: Option<String>,
    /// How its messages are shared among consumers.
    pub mode: Mode,
    /// How many partitions the source is divided into, from 1 to [`SUBSCRIPTION_PARTITIONS_MAX`]. An aggregated stream
    /// without keys has its own instead.
    pub partitions: i64,
    /// What may be changed later.
    #[serde(flatten)]
    pub settings: Settings,
}

/// The part of a definition that may be changed later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What counts as acked.
    pub ack: AckMode,
    /// Within [`ACK_TIMEOUT_MS`]. A message that is not acked by then has failed.
    pub ack_timeout_ms: i64,
    /// Within [`CONSUMER_TIMEOUT_MS`]. How long a lease lasts after its consumer was last active.
    pub consumer_timeout_ms: i64,
    /// A consumer's credit, from 1 to [`MAX_IN_FLIGHT_MAX`]: how many messages it may have without having acked them.
    pub max_in_flight: i64,
    /// From 1 to [`MAX_DELIVERIES_MAX`]. So often a message is delivered before `on_exhausted` ends it.
    pub max_deliveries: i64,
    /// At most [`BACKOFF_STEPS_MAX`] delays within [`BACKOFF_MS`]: after the first failure, the second, and so on.
    pub backoff_ms: Vec<i64>,
    /// What becomes of a message after `max_deliveries`.
    pub on_exhausted: OnExhausted,
}

/// Settings of which some are given.
#[derive(Debug, Clone, Default)]
pub struct SettingsPatch {
    /// As in [`Settings`], like all fields.
    pub ack: Option<AckMode>,
    /// In milliseconds.
    pub ack_timeout_ms: Option<i64>,
    /// In milliseconds.
    pub consumer_timeout_ms: Option<i64>,
    /// A consumer's credit.
    pub max_in_flight: Option<i64>,
    /// Deliveries of one message.
    pub max_deliveries: Option<i64>,
    /// In milliseconds.
    pub backoff_ms: Option<Vec<i64>>,
    /// What becomes of a message after `max_deliveries`.
    pub on_exhausted: Option<OnExhausted>,
}

/// What a subscription consumes; the names are those of the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubscriptionSource {
    /// One stream, by its own positions.
    #[serde(rename = "stream_name")]
    Stream(String),
    /// From 1 to [`SOURCE_TOPICS_MAX`] categories, by global positions.
    #[serde(rename = "categories")]
    Categories(Vec<String>),
    /// The whole log; always true.
    #[serde(rename = "all")]
    All(bool),
    /// An aggregated stream, each partition by its own positions.
    #[serde(rename = "aggregated_stream")]
    Aggregated(String),
    /// A keyed aggregated stream, by global positions. On the wire it is an aggregated stream like others.
    #[serde(rename = "keyed_stream")]
    Keyed(String),
}

/// Where a subscription begins. It counts once, when the subscription is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// Before the first message.
    Beginning,
    /// After the last message that is settled when the subscription is made.
    End,
    /// At this position, inclusive.
    Position(i64),
    /// At the first message of this time or later, in microseconds since the Unix epoch.
    Time(i64),
}

/// How the messages are shared among consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SubscriptionMode)]
pub enum Mode {
    /// A partition is held by one consumer at a time, in order; an ack is for everything up to its position.
    Partitioned,
    /// Any consumer gets any message; each message is acked alone.
    Competing,
}

/// What counts as acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AckMode {
    /// What its consumer has acked.
    Explicit,
    /// Delivered is acked.
    Auto,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ack: AckMode::Explicit,
            ack_timeout_ms: 30_000,
            consumer_timeout_ms: 10_000,
            max_in_flight: 100,
            max_deliveries: 5,
            backoff_ms: vec![1_000, 5_000, 30_000],
            on_exhausted: OnExhausted::Park,
        }
    }
}

impl Settings {
    /// These settings, with those replaced that the patch gives.
    pub fn patched(&self, patch: SettingsPatch) -> Self {
        Self {
            ack: patch.ack.unwrap_or(self.ack),
            ack_timeout_ms: patch.ack_timeout_ms.unwrap_or(self.ack_timeout_ms),
            consumer_timeout_ms: patch.consumer_timeout_ms.unwrap_or(self.consumer_timeout_ms),
            max_in_flight: patch.max_in_flight.unwrap_or(self.max_in_flight),
            max_deliveries: patch.max_deliveries.unwrap_or(self.max_deliveries),
            backoff_ms: patch.backoff_ms.unwrap_or_else(|| self.backoff_ms.clone()),
            on_exhausted: patch.on_exhausted.unwrap_or(self.on_exhausted),
        }
    }

    /// What becomes of deliveries that fail, by these settings.
    pub fn policy(&self) -> Policy {
        Policy {
            max_deliveries: self.max_deliveries,
            backoff_ms: self.backoff_ms.clone(),
            on_exhausted: self.on_exhausted,
        }
    }

    /// Whether delivered counts as acked.
    pub fn is_auto(&self) -> bool {
        self.ack == AckMode::Auto
    }

    fn check(&self, violations: &mut Vec<Violation>) {
        let mut within = |field: &str, value: i64, min: i64, max: i64| {
            if !(min..=max).contains(&value) {
                violations.push(Violation::new(field, format!("must be from {min} to {max}")));
            }
        };
        within("max_in_flight", self.max_in_flight, 1, MAX_IN_FLIGHT_MAX);
        within("max_deliveries", self.max_deliveries, 1, MAX_DELIVERIES_MAX);
        if self.backoff_ms.len() > BACKOFF_STEPS_MAX {
            violations.push(Violation::new("backoff", format!("must have at most {BACKOFF_STEPS_MAX} steps")));
        }
    }
}

impl Definition {
    /// Checks every rule except the bounds of durations, which are checked when these are read.
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        self.check_source(&mut violations);
        if self.types.len() > FILTER_TYPES_MAX {
            violations.push(Violation::new("types", format!("must name at most {FILTER_TYPES_MAX} types")));
        }
        for (at, name) in self.types.iter().enumerate() {
            if let Err(error) = check_type(name) {
                violations.push(Violation::new(format!("types[{at}]"), error.to_string()));
            }
        }
        if let Some(Err(error)) = self.filter.as_deref().map(Expression::compile) {
            violations.push(Violation::new("filter", error.to_string()));
        }
        if matches!(self.from, StartAt::Position(position) if position < 0) {
            violations.push(Violation::new("from", "must be 0 or more"));
        }
        if !(1..=SUBSCRIPTION_PARTITIONS_MAX).contains(&self.partitions) {
            violations.push(Violation::new("partitions", format!("must be from 1 to {SUBSCRIPTION_PARTITIONS_MAX}")));
        }
        self.settings.check(&mut violations);
        violations
    }

    fn check_source(&self, violations: &mut Vec<Violation>) {
        match &self.source {
            SubscriptionSource::Stream(name) => {
                if let Err(error) = StreamName::parse(name.as_str()) {
                    violations.push(Violation::new("source.stream_name", error.to_string()));
                }
            }
            SubscriptionSource::Categories(names) => {
                if !(1..=SOURCE_TOPICS_MAX).contains(&names.len()) {
                    let rule = format!("must name from 1 to {SOURCE_TOPICS_MAX} categories");
                    violations.push(Violation::new("source.categories", rule));
                }
                for name in names {
                    if let Err(error) = Category::parse(name.as_str()) {
                        violations.push(Violation::new("source.categories", error.to_string()));
                    }
                }
            }
            SubscriptionSource::All(true) => {}
            SubscriptionSource::All(false) => violations.push(Violation::new("source.all", "must be true")),
            SubscriptionSource::Aggregated(name) | SubscriptionSource::Keyed(name) => {
                if let Err(rule) = check_name(name) {
                    violations.push(Violation::new("source.aggregated_stream", rule));
                }
            }
        }
    }

    /// The same definition; an aggregated stream is taken for a keyed one, if the other definition has it as that.
    pub fn of_the_kind_of(&self, other: &Definition) -> Definition {
        let mut same = self.clone();
        if let (SubscriptionSource::Aggregated(name), SubscriptionSource::Keyed(_)) = (&self.source, &other.source) {
            same.source = SubscriptionSource::Keyed(name.clone());
        }
        same
    }

    /// The fields in which two definitions differ. The order of names makes no difference.
    pub fn differences(&self, other: &Definition) -> Vec<String> {
        let divides = self.divides_its_source();
        differing_fields(&self.canonical(divides), &other.canonical(divides))
    }

    fn canonical(&self, divides_its_source: bool) -> Definition {
        let mut canonical = self.clone();
        sort_names(&mut canonical.types);
        if let SubscriptionSource::Categories(names) = &mut canonical.source {
            sort_names(names);
        }
        // A number of partitions means nothing then, so any two are equal.
        if !divides_its_source {
            canonical.partitions = 1;
        }
        canonical
    }

    /// Whether each partition is held by one consumer at a time.
    pub fn is_partitioned(&self) -> bool {
        self.mode == Mode::Partitioned
    }

    /// Whether its number of partitions means anything.
    pub fn divides_its_source(&self) -> bool {
        self.is_partitioned() && !matches!(self.source, SubscriptionSource::Aggregated(_))
    }

    /// The log that it consumes; `None` for an aggregated stream. One without keys is read partition by partition.
    pub fn log(&self) -> Option<Source> {
        match &self.source {
            SubscriptionSource::Stream(name) => Some(Source::stream(name)),
            SubscriptionSource::Categories(names) => Source::several(&[], names),
            SubscriptionSource::All(_) => Some(Source::all()),
            SubscriptionSource::Aggregated(_) | SubscriptionSource::Keyed(_) => None,
        }
    }

    /// A filter of the types alone, which the database can judge; an expression can only be judged by the service.
    pub fn types_filter(&self) -> Filter {
        Filter { types: self.types.clone().into(), ..Filter::default() }
    }

    /// Compiles the filter. It was checked when it was given, but perhaps by an older version.
    pub fn expression(&self) -> Result<Option<Arc<Expression>>, ExpressionError> {
        Ok(self.filter.as_deref().map(Expression::compile).transpose()?.map(Arc::new))
    }

    /// The partition of a message, unless the source is an aggregated stream. `headwater.subscription_partition` has the
    /// same rule.
    pub fn partition_of(&self, message: &Message) -> i32 {
        if self.mode == Mode::Competing || self.partitions == 1 {
            return 0;
        }
        let name = &*message.stream_name;
        hashed(cardinal_id(name).unwrap_or(name), self.partitions) as i32
    }

    /// The partitions of a message with these keys, of a keyed aggregated stream: each once.
    pub fn partitions_of_keys<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Vec<i32> {
        if self.mode == Mode::Competing || self.partitions == 1 {
            return vec![0];
        }
        let mut partitions: Vec<i32> = keys.map(|key| hashed(key, self.partitions) as i32).collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// How many partitions the source is divided into, unless it is an aggregated stream.
    pub fn partition_count(&self) -> usize {
        match self.mode {
            Mode::Partitioned => usize::try_from(self.partitions).unwrap_or(1),
            Mode::Competing => 1,
        }
    }

    /// A message's position as this subscription counts it: in its stream, or global.
    pub fn position_of(&self, message: &Message) -> i64 {
        match self.source {
            SubscriptionSource::Stream(_) => message.position,
            _ => message.global_position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition {
            source: SubscriptionSource::Categories(vec!["a".into(), "b".into()]),
            from: StartAt::Beginning,
            types: vec![],
            filter: None,
            mode: Mode::Partitioned,
            partitions: 16,
            settings: Settings::default(),
        }
    }

    #[test]
    fn what_is_stored_is_read_back() {
        for source in [
            SubscriptionSource::Stream("a-1".into()),
            SubscriptionSource::Categories(vec!["a".into()]),
            SubscriptionSource::All(true),
            SubscriptionSource::Aggregated("x".into()),
            SubscriptionSource::Keyed("x".into()),
        ] {
            for from in [StartAt::Beginning, StartAt::End, StartAt::Position(7), StartAt::Time(1_000_001)] {
                let definition = Definition { source: source.clone(), from, ..definition() };
                let text = serde_json::to_string(&definition).unwrap();
                assert_eq!(serde_json::from_str::<Definition>(&text).unwrap(), definition, "{text}");
            }
        }
    }

    #[test]
    fn the_order_of_names_is_no_difference_and_every_other_change_is_named() {
        let mut other = definition();
        other.source = SubscriptionSource::Categories(vec!["b".into(), "a".into()]);
        assert_eq!(definition().differences(&other), Vec::<String>::new());
        other.settings.max_in_flight = 7;
        other.mode = Mode::Competing;
        assert_eq!(definition().differences(&other), ["mode", "max_in_flight"]);
    }

    #[test]
    fn rules_name_their_fields() {
        let fields = |change: fn(&mut Definition)| {
            let mut changed = definition();
            change(&mut changed);
            changed.check().into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(|_| {}), Vec::<String>::new());
        assert_eq!(fields(|d| d.partitions = 1_025), ["partitions"]);
        assert_eq!(fields(|d| d.settings.max_in_flight = 0), ["max_in_flight"]);
        assert_eq!(fields(|d| d.settings.max_in_flight = 10_001), ["max_in_flight"]);
        assert_eq!(fields(|d| d.filter = Some("1 +".into())), ["filter"]);
        assert_eq!(fields(|d| d.source = SubscriptionSource::All(false)), ["source.all"]);
        assert_eq!(fields(|d| d.source = SubscriptionSource::Categories(vec!["a-1".into()])), ["source.categories"]);
        assert_eq!(fields(|d| d.from = StartAt::Position(-1)), ["from"]);
        assert_eq!(fields(|d| d.settings.backoff_ms = vec![0; 21]), ["backoff"]);
    }
}
