//! A subscription's definition on the wire.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::delivery::OnExhausted;
use crate::domain::named::named_if_any;
use crate::domain::stream_name::Category;
use crate::domain::subscription::{
    ACK_TIMEOUT_MS, AckMode, BACKOFF_MS, CONSUMER_TIMEOUT_MS, Definition, Mode, Settings, SettingsPatch, StartAt,
    SubscriptionSource,
};
use crate::domain::time::Timestamp;
use crate::http::extract::Object;
use crate::http::parameters::Validator;

/// How many partitions a source is divided into by default. A single stream is one partition.
const PARTITIONS_DEFAULT: i64 = 16;

macro_rules! with_settings {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Default, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* $field: $type,)*
            #[serde(default, deserialize_with = "named_if_any")]
            #[schema(default = "explicit", value_type = Option<AckMode>)]
            ack: Option<AckMode>,
            /// A message that is not acked within this time has failed, and is delivered again.
            #[serde(default)]
            #[schema(default = "30s", example = "30s")]
            ack_timeout: Option<String>,
            /// A consumer without an open event stream that makes no request for this long is removed.
            #[serde(default)]
            #[schema(default = "10s", example = "10s")]
            consumer_timeout: Option<String>,
            /// How many messages a consumer may have without having acked them.
            #[serde(default)]
            #[schema(minimum = 1, maximum = 10000, default = 100)]
            max_in_flight: Option<i64>,
            /// After this many deliveries that failed, `on_exhausted` says what becomes of a message.
            #[serde(default)]
            #[schema(minimum = 1, maximum = 1000000, default = 5)]
            max_deliveries: Option<i64>,
            /// How long a message waits after its first failure, its second, and so on; the last step counts for all
            /// further failures.
            #[serde(default)]
            #[schema(max_items = 20, default = json!(["1s", "5s", "30s"]), example = json!(["1s", "5s", "30s"]))]
            backoff: Option<Vec<String>>,
            #[serde(default, deserialize_with = "named_if_any")]
            #[schema(default = "park", value_type = Option<OnExhausted>)]
            on_exhausted: Option<OnExhausted>,
        }

        impl $name {
            pub fn patch(&mut self, rules: &mut Validator) -> SettingsPatch {
                let backoff_ms = self.backoff.take().map(|steps| {
                    let step = |(at, step): (usize, &String)| {
                        duration_ms(rules, &format!("backoff[{at}]"), Some(step), BACKOFF_MS).unwrap_or_default()
                    };
                    steps.iter().enumerate().map(step).collect::<Vec<i64>>()
                });
                let mut duration = |field, text: &Option<String>, bounds| duration_ms(rules, field, text.as_deref(), bounds);
                SettingsPatch {
                    ack: self.ack,
                    ack_timeout_ms: duration("ack_timeout", &self.ack_timeout, ACK_TIMEOUT_MS),
                    consumer_timeout_ms: duration("consumer_timeout", &self.consumer_timeout, CONSUMER_TIMEOUT_MS),
                    max_in_flight: self.max_in_flight,
                    max_deliveries: self.max_deliveries,
                    backoff_ms,
                    on_exhausted: self.on_exhausted,
                }
            }
        }
    };
}

with_settings!(
    /// What a subscription consumes, and how.
    #[schema(as = SubscriptionDefinition)]
    DefinitionBody {
        #[schema(value_type = SourceBody)]
        source: Object<SourceBody>,
        /// Where the subscription begins: `beginning`, `end`, a position (inclusive) or an RFC 3339 time. Used once, when
        /// the subscription is created.
        #[serde(default)]
        from: Option<FromBody>,
        /// Only messages of these types.
        #[serde(default)]
        #[schema(default = json!([]), max_items = 100)]
        types: Option<Vec<String>>,
        /// Only messages for which this CEL expression is true.
        #[serde(default)]
        #[schema(max_length = 1000)]
        filter: Option<String>,
        #[serde(default, deserialize_with = "named_if_any")]
        #[schema(default = "partitioned", value_type = Option<Mode>)]
        mode: Option<Mode>,
        /// How many partitions the source is divided into, by the hash of the cardinal id; a keyed aggregated stream, by
        /// the hash of the key. Any other aggregated stream brings its own, and a competing subscription divides nothing:
        /// there it is null.
        #[serde(default)]
        #[schema(minimum = 1, maximum = 1024, default = 16)]
        partitions: Option<i64>,
    }
);

with_settings!(
    /// The settings of a subscription that may be changed. Those that are not given stay.
    #[schema(as = SubscriptionSettings)]
    SettingsBody {}
);

/// What is consumed: exactly one of the fields.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubscriptionSource)]
pub struct SourceBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    stream_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false, max_items = 100)]
    categories: Option<Vec<String>>,
    /// True: every message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    aggregated_stream: Option<String>,
}

/// Where to begin.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be beginning, end, a position of 0 or more, or an RFC 3339 time")]
#[schema(as = SubscriptionFrom)]
pub enum FromBody {
    Position(i64),
    /// `beginning`, `end`, a position, or an RFC 3339 time.
    Text(String),
}

impl FromBody {
    /// Reads a start; `None` if the text is none.
    pub fn start(&self) -> Option<StartAt> {
        match self {
            FromBody::Position(position) => Some(StartAt::Position(*position)),
            FromBody::Text(text) => match (text.as_str(), text.parse(), Timestamp::parse_rfc3339(text)) {
                ("beginning", ..) => Some(StartAt::Beginning),
                ("end", ..) => Some(StartAt::End),
                (_, Ok(position), _) => Some(StartAt::Position(position)),
                (_, _, Some(time)) => Some(StartAt::Time(time.0)),
                _ => None,
            },
        }
    }
}

impl DefinitionBody {
    /// The definition with every default filled in. Adds to `rules` what cannot be read; other rules are the domain's.
    pub fn definition(mut self, rules: &mut Validator) -> Definition {
        let settings = Settings::default().patched(self.patch(rules));
        let source = self.source.0.source(rules);
        let is_stream = matches!(source, SubscriptionSource::Stream(_));
        let from = self.from.map_or(Some(StartAt::Beginning), |from| from.start());
        if from.is_none() {
            rules.malformed("from", "must be beginning, end, a position of 0 or more, or an RFC 3339 time");
        }
        Definition {
            from: from.unwrap_or(StartAt::Beginning),
            types: self.types.unwrap_or_default(),
            filter: self.filter,
            mode: self.mode.unwrap_or(Mode::Partitioned),
            partitions: self.partitions.unwrap_or(if is_stream { 1 } else { PARTITIONS_DEFAULT }),
            settings,
            source,
        }
    }

    fn show(&mut self, settings: &Settings) {
        self.ack = Some(settings.ack);
        self.ack_timeout = Some(span(settings.ack_timeout_ms));
        self.consumer_timeout = Some(span(settings.consumer_timeout_ms));
        self.max_in_flight = Some(settings.max_in_flight);
        self.max_deliveries = Some(settings.max_deliveries);
        self.backoff = Some(settings.backoff_ms.iter().map(|step| span(*step)).collect());
        self.on_exhausted = Some(settings.on_exhausted);
    }

    pub fn of(definition: &Definition) -> Self {
        let mut body = Self {
            source: Object(SourceBody::of(&definition.source)),
            from: Some(match definition.from {
                StartAt::Beginning => FromBody::Text("beginning".into()),
                StartAt::End => FromBody::Text("end".into()),
                StartAt::Position(position) => FromBody::Position(position),
                StartAt::Time(micros) => FromBody::Text(Timestamp(micros).to_rfc3339()),
            }),
            types: Some(definition.types.clone()),
            filter: definition.filter.clone(),
            mode: Some(definition.mode),
            partitions: definition.divides_its_source().then_some(definition.partitions),
            ..Self::default()
        };
        body.show(&definition.settings);
        body
    }
}

impl SourceBody {
    fn source(self, rules: &mut Validator) -> SubscriptionSource {
        // Once it is one of `categories`, it has the name of those.
        if let Some(Err(error)) = self.category.as_deref().map(Category::parse) {
            rules.invalid("source.category", error.to_string());
        }
        let mut given: Vec<SubscriptionSource> = Vec::new();
        given.extend(self.stream_name.map(SubscriptionSource::Stream));
        given.extend(self.category.map(|name| SubscriptionSource::Categories(vec![name])));
        given.extend(self.categories.map(SubscriptionSource::Categories));
        given.extend(self.all.map(SubscriptionSource::All));
        given.extend(self.aggregated_stream.map(SubscriptionSource::Aggregated));
        if given.len() != 1 {
            let rule = "must have exactly one of stream_name, category, categories, all and aggregated_stream";
            rules.invalid("source", rule);
        }
        given.pop().unwrap_or(SubscriptionSource::All(true))
    }

    fn of(source: &SubscriptionSource) -> Self {
        match source {
            SubscriptionSource::Stream(name) => Self { stream_name: Some(name.clone()), ..Self::default() },
            SubscriptionSource::Categories(names) => match names.as_slice() {
                [name] => Self { category: Some(name.clone()), ..Self::default() },
                names => Self { categories: Some(names.to_vec()), ..Self::default() },
            },
            SubscriptionSource::All(all) => Self { all: Some(*all), ..Self::default() },
            SubscriptionSource::Aggregated(name) | SubscriptionSource::Keyed(name) => {
                Self { aggregated_stream: Some(name.clone()), ..Self::default() }
            }
        }
    }
}

/// Reads a duration within bounds, in milliseconds.
pub fn duration_ms(rules: &mut Validator, field: &str, text: Option<&str>, bounds: RangeInclusive<i64>) -> Option<i64> {
    let bound = |ms: &i64| Duration::from_millis(ms.unsigned_abs());
    let duration = rules.duration(field, text, bound(bounds.start()), bound(bounds.end()))?;
    // The bounds fit, so the duration does.
    Some(duration.as_millis() as i64)
}

/// A duration as people write it: `500ms`, `30s`, `5m`.
pub fn span(ms: i64) -> String {
    match ms {
        ms if ms >= 120_000 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_they_are_written() {
        for (ms, text) in
            [(0, "0s"), (500, "500ms"), (1_500, "1500ms"), (30_000, "30s"), (60_000, "60s"), (300_000, "5m")]
        {
            assert_eq!(span(ms), text);
            let read = humantime::parse_duration(text).unwrap();
            assert_eq!(read.as_millis() as i64, ms);
        }
    }

    #[test]
    fn a_definition_is_shown_as_it_was_given() {
        let text = r#"{"source":{"category":"a"},"from":7,"types":["T"],"filter":"true","mode":"partitioned","partitions":4,
            "ack":"auto","ack_timeout":"1s","consumer_timeout":"2s","max_in_flight":9,"max_deliveries":3,"backoff":["1s"],
            "on_exhausted":"stop"}"#;
        let Object(body): Object<DefinitionBody> = serde_json::from_str(text).unwrap();
        let definition = body.definition(&mut Validator::default());
        let shown = serde_json::to_value(DefinitionBody::of(&definition)).unwrap();
        assert_eq!(shown, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
}
