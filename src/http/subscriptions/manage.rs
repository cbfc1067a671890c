//! Manages consumers, cursors, and whether a subscription delivers.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{FromBody, span};
use super::definitions::{SubscriptionBody, to_body};
use super::{consumer_name, entries, subscription_name};
use crate::domain::subscription::StartAt;
use crate::http::extract::{Json, NoBody, Object, Path, Query};
use crate::http::pages::NoQuery;
use crate::http::parameters::Validator;
use crate::http::problem::Problem;
use crate::http::{App, tags};
use crate::service::auth::Caller;
use crate::service::subscriptions::CountedConsumer;

/// A consumer.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionConsumer)]
pub struct ConsumerBody {
    #[schema(example = "w1")]
    pub consumer: String,
    /// True: the consumer holds an event stream open; false: it fetches.
    pub connected: bool,
    #[schema(format = DateTime)]
    pub joined_at: String,
    /// How long its lease lasts unless it makes a request before.
    #[schema(example = "8200ms")]
    pub expires_in: String,
    /// The partitions that it holds (partitioned).
    pub partitions: Vec<i32>,
    /// How many messages it has that it has not acked.
    pub in_flight: i64,
    /// How many messages it has acked on the instance that answers, since it came there; two looks give a rate. Each
    /// instance counts the acks that it took, and forgets them with the consumer. An ack that is committed with an append
    /// counts as one.
    pub acked: u64,
}

/// The consumers of a subscription.
#[derive(Serialize, ToSchema)]
pub struct ConsumerList {
    pub consumers: Vec<ConsumerBody>,
}

/// Where to set the cursors.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SeekRequest)]
pub struct SeekBody {
    /// `beginning`, `end`, a position (the first to be delivered) or an RFC 3339 time.
    to: FromBody,
    /// Only these partitions; without them, all.
    #[serde(default)]
    #[schema(max_items = 1000)]
    partitions: Option<Vec<i32>>,
    /// True: only answer what would be done.
    #[serde(default)]
    #[schema(default = false)]
    dry_run: bool,
}

/// Where the cursors were, and where they are now.
#[derive(Serialize, ToSchema)]
pub struct SeekResult {
    pub dry_run: bool,
    pub partitions: Vec<SoughtPartition>,
}

/// Where a partition's cursor was, and where it is now.
#[derive(Serialize, ToSchema)]
pub struct SoughtPartition {
    pub partition: i32,
    /// Everything up to this position was acked.
    pub from_position: i64,
    /// Everything up to this position counts as acked.
    pub to_position: i64,
}

/// List consumers
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}/consumers", operation_id = "listConsumers", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    responses((status = 200, body = ConsumerList)),
)]
pub async fn list_consumers(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<ConsumerList>, Problem> {
    subscription_name(&name)?;
    let consumers = app.subscriptions.consumers.list(&name, caller.rights()).await?;
    Ok(axum::Json(ConsumerList { consumers: consumers.into_iter().map(ConsumerBody::of).collect() }))
}

/// Remove a consumer
///
/// Its partitions and unacked messages go to the others at once. Its event stream gets `closing`; it may join again.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{name}/consumers/{consumer}", operation_id = "removeConsumer",
    tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"),
        ("consumer" = String, Path, description = "Name of a consumer")),
    responses((status = 204, description = "Removed")),
)]
pub async fn remove_consumer(
    State(app): State<App>,
    caller: Caller,
    Path((name, consumer)): Path<(String, String)>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<StatusCode, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &consumer);
    rules.finish(())?;
    match app.subscriptions.consumers.remove(&name, &consumer, caller.rights()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("consumer {consumer} of the subscription {name}"))),
    }
}

/// Move a subscription to another place (seek)
///
/// Acks of what was delivered before change nothing: they are `fenced`, those of a competing subscription `missing`.
/// Consumers go on from the new place.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/seek", operation_id = "seekSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = SeekBody,
    responses((status = 200, body = SeekResult)),
)]
pub async fn seek_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<SeekBody>>,
) -> Result<axum::Json<SeekResult>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    let to = body.to.start();
    match to {
        None => rules.malformed("to", "must be beginning, end, a position of 0 or more, or an RFC 3339 time"),
        Some(StartAt::Position(position)) if position < 0 => rules.invalid("to", "must be 0 or more"),
        Some(_) => {}
    }
    if let Some(partitions) = &body.partitions {
        entries(&mut rules, "partitions", partitions.len());
    }
    let to = rules.finish(to)?.unwrap_or(StartAt::Beginning);
    let plans = app
        .subscriptions
        .definitions
        .seek(&name, to, body.partitions.as_deref(), body.dry_run, caller.rights())
        .await?;
    let partitions = plans.into_iter().map(|plan| SoughtPartition {
        partition: plan.partition,
        from_position: plan.from,
        to_position: plan.to,
    });
    Ok(axum::Json(SeekResult { dry_run: body.dry_run, partitions: partitions.collect() }))
}

/// Pause a subscription
///
/// Nothing is delivered until it is resumed. Consumers stay, and what they have may be acked.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/pause", operation_id = "pauseSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    responses((status = 200, body = SubscriptionBody)),
)]
pub async fn pause_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<axum::Json<SubscriptionBody>, Problem> {
    subscription_name(&name)?;
    app.subscriptions.definitions.pause(&name, caller.rights()).await?;
    Ok(axum::Json(to_body(app.subscriptions.inspection.status(&name, caller.rights()).await?)))
}

/// Resume a subscription that is paused or has stopped
///
/// The message before which it stopped is delivered again, as often as any other.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/resume", operation_id = "resumeSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    responses((status = 200, body = SubscriptionBody)),
)]
pub async fn resume_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<axum::Json<SubscriptionBody>, Problem> {
    subscription_name(&name)?;
    app.subscriptions.definitions.resume(&name, caller.rights()).await?;
    Ok(axum::Json(to_body(app.subscriptions.inspection.status(&name, caller.rights()).await?)))
}

impl ConsumerBody {
    pub fn of(CountedConsumer { info, acked }: CountedConsumer) -> Self {
        Self {
            consumer: info.name,
            connected: info.is_connected,
            joined_at: info.joined_at.to_rfc3339(),
            expires_in: span(info.expires_in_ms.max(0)),
            partitions: info.partitions,
            in_flight: info.in_flight,
            acked,
        }
    }
}
