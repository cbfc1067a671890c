//! Subscriptions: making them, consuming, acking, and looking at what they hold.

mod acks;
mod body;
mod consume;
mod definitions;
mod events;
mod manage;
mod measure;
mod parked;
mod pending;
mod stream;

use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::parameters::Rules;
use super::problem::{Problem, ProblemKind};
use crate::domain::Violation;
use crate::domain::named::check_name;
use crate::service::subscriptions::{At, SubscriptionError};

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

/// A place in a partition, or a position alone where there is only partition 0.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a position, or an object of a partition and a position")]
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

fn consumer_name(rules: &mut Rules, name: &str) {
    if let Err(rule) = check_name(name) {
        rules.invalid("consumer", rule);
    }
}

/// A number of entries within bounds.
fn entries(rules: &mut Rules, field: &str, count: usize) {
    if !(1..=ENTRIES_MAX).contains(&count) {
        rules.invalid(field, format!("must have from 1 to {ENTRIES_MAX} entries, not {count}"));
    }
}

/// The place after which a list goes on: `partition:position`, as its `next` says.
fn after(rules: &mut Rules, text: Option<&str>) -> At {
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
        let detail = format!("{error}.");
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
            SubscriptionError::TooManySubscriptions { max } => {
                let rule = format!("cannot be created: the limit of {max} subscriptions is reached");
                Problem::invalid(vec![Violation::new("name", rule)])
            }
            SubscriptionError::TooManyConsumers { .. } => Problem::new(ProblemKind::Overloaded, capitalised(&detail)),
            SubscriptionError::Overloaded => {
                Problem::new(ProblemKind::Overloaded, "Too many acks are waiting to be committed.")
            }
            SubscriptionError::Draining => Problem::new(ProblemKind::Draining, "The service is shutting down."),
            SubscriptionError::Fenced(fenced) => Problem::new(
                ProblemKind::Fenced,
                format!(
                    "The lease or delivery in partition {} has been lost: its epoch is {} now, not {}.",
                    fenced.partition, fenced.current_epoch, fenced.epoch
                ),
            )
            .with("partition", fenced.partition)
            .with("epoch", fenced.epoch)
            .with("current_epoch", fenced.current_epoch),
            SubscriptionError::Store(error) => error.into(),
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
