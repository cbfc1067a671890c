//! Subscriptions over HTTP: definitions, consuming, acks, and reports.

mod acks;
mod body;
mod consume;
mod definitions;
mod events;
mod manage;
mod measure;
mod parked;
mod pending;

use std::fmt;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::frames::push_delivery;
use super::parameters::Validator;
use super::problem::{Problem, ProblemKind, capitalised};
use crate::domain::Violation;
use crate::domain::named::check_name;
use crate::service::subscriptions::{At, Delivery, Fenced, SubscriptionError};

pub(super) use events::{AssignedEvent, RevokedEvent};
pub(super) use measure::metrics;

/// Every route with its entry in the OpenAPI document.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(definitions::list_subscriptions))
        .routes(routes!(
            definitions::create_subscription,
            definitions::read_subscription,
            definitions::change_subscription,
            definitions::delete_subscription
        ))
        .routes(routes!(consume::follow_subscription))
        .routes(routes!(consume::fetch_messages))
        .routes(routes!(acks::ack_messages))
        .routes(routes!(acks::nack_messages))
        .routes(routes!(acks::extend_messages))
        .routes(routes!(pending::list_pending))
        .routes(routes!(pending::summarise_pending))
        .routes(routes!(pending::claim_messages))
        .routes(routes!(manage::list_consumers))
        .routes(routes!(manage::remove_consumer))
        .routes(routes!(manage::seek_subscription))
        .routes(routes!(manage::pause_subscription))
        .routes(routes!(manage::resume_subscription))
        .routes(routes!(parked::list_parked))
        .routes(routes!(parked::replay_parked))
        .routes(routes!(parked::delete_parked))
}

/// The most acks, nacks, extensions or positions of one request.
const ENTRIES_MAX: usize = 1_000;

/// A place in a partition, or a position alone if there is only partition 0.
#[derive(ToSchema)]
#[serde(untagged)]
enum PlaceBody {
    Position(i64),
    Place(Place),
}

/// A place in a partition.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Place {
    partition: i32,
    position: i64,
}

/// What serde derives would take an array for the object, and would not name the field that is wrong in it.
impl<'de> Deserialize<'de> for PlaceBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlaceVisitor;

        impl<'de> Visitor<'de> for PlaceVisitor {
            type Value = PlaceBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("must be a position, or an object of a partition and a position")
            }

            fn visit_i64<E: Error>(self, position: i64) -> Result<PlaceBody, E> {
                Ok(PlaceBody::Position(position))
            }

            fn visit_u64<E: Error>(self, position: u64) -> Result<PlaceBody, E> {
                let unexpected = |_| E::invalid_value(Unexpected::Unsigned(position), &self);
                i64::try_from(position).map(PlaceBody::Position).map_err(unexpected)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PlaceBody, A::Error> {
                Place::deserialize(MapAccessDeserializer::new(map)).map(PlaceBody::Place)
            }
        }

        deserializer.deserialize_any(PlaceVisitor)
    }
}

impl PlaceBody {
    fn at(&self) -> At {
        match self {
            PlaceBody::Position(position) => At { partition: 0, position: *position },
            PlaceBody::Place(place) => At { partition: place.partition, position: place.position },
        }
    }
}

fn subscription_name(name: &str) -> Result<(), Problem> {
    check_name(name).map_err(|rule| Problem::invalid(vec![Violation::new("name", rule)]))
}

fn consumer_name(rules: &mut Validator, name: &str) {
    if let Err(rule) = check_name(name) {
        rules.invalid("consumer", rule);
    }
}

/// Checks the number of entries in a list.
fn entries(rules: &mut Validator, field: &str, count: usize) {
    if !(1..=ENTRIES_MAX).contains(&count) {
        rules.invalid(field, format!("must have from 1 to {ENTRIES_MAX} entries, not {count}"));
    }
}

/// The place after which a list goes on: `partition:position`, as its `next` says.
fn after(rules: &mut Validator, text: Option<&str>) -> At {
    let Some(text) = text else { return At::FIRST };
    let (partition, position) = text.split_once(':').unwrap_or(("0", text));
    match (partition.parse(), position.parse()) {
        (Ok(partition), Ok(position)) => At { partition, position },
        _ => {
            rules.malformed("after", "must be what an earlier answer gave as next, such as 0:1017");
            At::FIRST
        }
    }
}

fn next_of(at: At) -> String {
    format!("{}:{}", at.partition, at.position)
}

impl From<SubscriptionError> for Problem {
    fn from(error: SubscriptionError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            SubscriptionError::NotFound { name } => Problem::not_found(format!("subscription {name}")),
            SubscriptionError::Differs { name, fields } => {
                let detail = format!(
                    "The subscription {name} exists with another definition; these fields differ: {}.",
                    fields.join(", ")
                );
                Problem::new(ProblemKind::DefinitionDiffers, detail).with("fields", fields)
            }
            SubscriptionError::Invalid(violations) => Problem::invalid(violations),
            SubscriptionError::TooManySubscriptions { .. } | SubscriptionError::TooManyOfCredential { .. } => {
                Problem::invalid(vec![Violation::new("name", format!("cannot be created: {error}"))])
            }
            SubscriptionError::Forbidden(missing) => missing.into(),
            SubscriptionError::TooManyConsumers { .. } | SubscriptionError::Overloaded => {
                Problem::new(ProblemKind::Overloaded, detail)
            }
            SubscriptionError::Draining => Problem::new(ProblemKind::Draining, detail),
            SubscriptionError::SourceDeleted { name } => {
                Problem::gone(format!("aggregated stream of the subscription {name}"), "the source has been deleted")
            }
            SubscriptionError::ConsumerRemoved { name, consumer } => {
                Problem::gone(format!("consumer {consumer} of the subscription {name}"), "the consumer was removed")
            }
            SubscriptionError::Fenced { first: Fenced { partition, epoch, current_epoch }, counts } => {
                let detail = format!(
                    "The lease or delivery in partition {partition} has been lost: its epoch is {current_epoch} now, \
                     not {epoch}."
                );
                Problem::new(ProblemKind::Fenced, detail)
                    .with("partition", partition)
                    .with("epoch", epoch)
                    .with("current_epoch", current_epoch)
                    .with("fenced", counts.fenced)
                    .with("missing", counts.missing)
            }
            SubscriptionError::Store(error) => error.into(),
        }
    }
}

/// An answer with deliveries, put together from texts that are JSON already; `more`: the fields after `messages`.
fn delivered(deliveries: &[Delivery], more: &str) -> Response {
    let mut out = BytesMut::from(&b"{\"messages\":["[..]);
    for (at, delivery) in deliveries.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b",");
        }
        push_delivery(&mut out, delivery);
    }
    out.extend_from_slice(format!("]{more}}}").as_bytes());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], out.freeze()).into_response()
}
