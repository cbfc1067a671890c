//! Creates, reads, changes and deletes subscriptions.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::body::{DefinitionBody, SettingsBody, span};
use super::manage::ConsumerBody;
use super::subscription_name;
use crate::domain::subscription::Definition;
use crate::http::extract::{Json, NoBody, Object, Path, Query};
use crate::http::pages::NoQuery;
use crate::http::parameters::Validator;
use crate::http::problem::Problem;
use crate::http::{App, tags};
use crate::service::auth::Caller;
use crate::service::subscriptions::{PartitionLag, Put, State as Running, Status, StoredSubscription};

/// How many consumers a partition of a competing subscription names: there may be many partitions, each with all of them.
const CONSUMERS_NAMED_MAX: usize = 10;

/// A subscription.
#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionBody {
    pub name: String,
    pub definition: DefinitionBody,
    pub status: SubscriptionStatus,
}

/// The status of a subscription.
#[derive(Serialize, ToSchema)]
pub struct SubscriptionStatus {
    pub state: SubscriptionState,
    /// Why it stopped.
    #[schema(value_type = Option<StopReason>)]
    pub stopped: Option<Box<RawValue>>,
    /// Messages not acked, in all partitions. Not given in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub committed_lag: Option<i64>,
    /// Messages not delivered, in all partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub delivered_lag: Option<i64>,
    /// False while both lags are what was counted until now, at least 1: if a subscription is far behind, the rest is
    /// counted in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub lag_exact: Option<bool>,
    /// Messages that were trimmed although they had not been acked. Not given in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, minimum = 0)]
    pub trimmed: Option<i64>,
    /// How long the oldest delivery has not been acked; null if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, example = "1200ms")]
    pub oldest_unacked_age: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub consumers: Option<Vec<ConsumerBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub partitions: Option<Vec<PartitionBody>>,
}

/// What a subscription does.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    Running,
    Paused,
    /// The subscription has stopped until it is resumed: `stopped` says why, and before which message.
    Stopped,
    /// The aggregated stream that it consumes was deleted.
    SourceDeleted,
}

/// Why a subscription stopped, and the message that it stopped before.
#[derive(ToSchema)]
#[allow(dead_code)] // described only: the database keeps it
pub struct StopReason {
    /// Null if the reason is not one message.
    #[schema(required = true)]
    pub partition: Option<i32>,
    /// Null if the reason is not one message.
    #[schema(required = true)]
    pub position: Option<i64>,
    #[schema(value_type = StopCause)]
    pub cause: String,
    /// The reason that the consumer gave last, or what is wrong.
    pub reason: Option<String>,
    #[schema(format = DateTime)]
    pub time: String,
}

/// Why a subscription stopped.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code)] // described only: the database keeps it
pub enum StopCause {
    /// A consumer refused a message with the action `stop`.
    Nacked,
    /// A message was delivered as often as it may be.
    Exhausted,
    /// The filter does not compile in this version; without it, everything would be delivered.
    Filter,
    /// The log has changed (a backup was restored, or a replica took over), and the last message that was delivered is
    /// not in it.
    HistoryChanged,
}

/// How far a partition is behind.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionPartition)]
pub struct PartitionBody {
    pub partition: i32,
    /// The last message that was acked with all before it; one less than the first position if none was.
    pub committed_position: i64,
    /// The last message that was delivered.
    pub delivered_position: i64,
    /// Messages not acked.
    pub committed_lag: i64,
    /// Messages not delivered.
    pub delivered_lag: i64,
    /// Messages delivered and not acked.
    pub in_flight: i64,
    /// How long the oldest message in flight has not been acked.
    #[schema(example = "1200ms")]
    pub oldest_unacked_age: Option<String>,
    /// The consumer that holds it (partitioned).
    pub consumer: Option<String>,
    /// The consumers that take from it: its holder, or in a competing subscription all consumers, of which at most ten are
    /// named here.
    pub consumers: Vec<String>,
    pub epoch: i64,
    /// True while the partition waits for a message that has failed.
    pub held_back: bool,
}

/// Subscriptions by name.
#[derive(Serialize, ToSchema)]
pub struct SubscriptionList {
    pub subscriptions: Vec<SubscriptionBody>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatusQuery {
    /// Waits until everything up to this position is acked; with `wait`.
    #[param(minimum = 0)]
    min_position: Option<i64>,
    /// How long to wait for `min_position`, such as `5s`.
    #[param(example = "5s")]
    wait: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only names after this one.
    after: Option<String>,
    /// How many subscriptions at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// Create a subscription
///
/// A second request with the same definition changes nothing.
#[utoipa::path(
    put, path = "/v1/subscriptions/{name}", operation_id = "createSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "1 to 200 bytes without control characters")),
    request_body = DefinitionBody,
    responses(
        (status = 201, description = "Created", body = SubscriptionBody),
        (status = 200, description = "It existed already, with the same definition", body = SubscriptionBody),
        (status = 409, description = "definition-differs", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn create_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<DefinitionBody>>,
) -> Result<(StatusCode, axum::Json<SubscriptionBody>), Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    let definition = body.definition(&mut rules);
    let definition = rules.finish(definition)?;
    let status = match app.subscriptions.definitions.put(&name, &definition, &caller).await? {
        Put::New => StatusCode::CREATED,
        Put::Same => StatusCode::OK,
    };
    Ok((status, axum::Json(to_body(app.subscriptions.inspection.status(&name, caller.rights()).await?))))
}

/// Read a subscription's definition and status
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}", operation_id = "readSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"), StatusQuery),
    responses((status = 200, body = SubscriptionBody)),
)]
pub async fn read_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<StatusQuery>,
) -> Result<axum::Json<SubscriptionBody>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    let wait = rules.wait_for(query.min_position, query.wait.as_deref(), app.limits.wait_max);
    let wait = rules.finish(wait)?;
    let status = match query.min_position {
        Some(position) => app.subscriptions.inspection.status_at(&name, position, wait, caller.rights()).await?,
        None => app.subscriptions.inspection.status(&name, caller.rights()).await?,
    };
    Ok(axum::Json(to_body(status)))
}

/// Change a subscription's settings
///
/// Connected consumers go on with the new settings.
#[utoipa::path(
    patch, path = "/v1/subscriptions/{name}", operation_id = "changeSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = SettingsBody,
    responses((status = 200, body = SubscriptionBody)),
)]
pub async fn change_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(mut body)): Json<Object<SettingsBody>>,
) -> Result<axum::Json<SubscriptionBody>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    let patch = body.patch(&mut rules);
    app.subscriptions.definitions.patch(&name, rules.finish(patch)?, caller.rights()).await?;
    Ok(axum::Json(to_body(app.subscriptions.inspection.status(&name, caller.rights()).await?)))
}

/// Delete a subscription
///
/// Its cursors, pending messages and parked messages are deleted with it.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{name}", operation_id = "deleteSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    responses((status = 204, description = "Deleted")),
)]
pub async fn delete_subscription(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<StatusCode, Problem> {
    subscription_name(&name)?;
    app.subscriptions.definitions.delete(&name, caller.rights()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List subscriptions
#[utoipa::path(
    get, path = "/v1/subscriptions", operation_id = "listSubscriptions", tag = tags::SUBSCRIBE,
    params(ListQuery), responses((status = 200, body = SubscriptionList)),
)]
pub async fn list_subscriptions(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<SubscriptionList>, Problem> {
    let mut rules = Validator::default();
    let limit = rules.limit(query.limit);
    let after = rules.after(query.after);
    let after = rules.finish(after)?;
    let mut found = app.subscriptions.definitions.list(&after, limit + 1, caller.rights()).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|(last, _)| last.name.clone());
    let subscriptions = found.into_iter().map(|(stored, definition)| brief(stored, &definition)).collect();
    Ok(axum::Json(SubscriptionList { subscriptions, next }))
}

fn brief(stored: StoredSubscription, definition: &Definition) -> SubscriptionBody {
    let state = match stored.state {
        _ if stored.is_source_gone() => SubscriptionState::SourceDeleted,
        Running::Running => SubscriptionState::Running,
        Running::Paused => SubscriptionState::Paused,
        Running::Stopped => SubscriptionState::Stopped,
    };
    SubscriptionBody {
        name: stored.name,
        definition: DefinitionBody::of(definition),
        status: SubscriptionStatus {
            state,
            // The database has it as JSON already, and keeps it while a subscription that has stopped is paused.
            stopped: stored
                .stopped
                .filter(|_| stored.state == Running::Stopped)
                .and_then(|reason| RawValue::from_string(reason).ok()),
            committed_lag: None,
            delivered_lag: None,
            lag_exact: None,
            trimmed: None,
            oldest_unacked_age: None,
            consumers: None,
            partitions: None,
        },
    }
}

pub(super) fn to_body(status: Status) -> SubscriptionBody {
    let mut body = brief(status.stored, &status.definition);
    let competing = if status.definition.is_partitioned() { &[] } else { &*status.consumers };
    let competing: Vec<String> = competing.iter().take(CONSUMERS_NAMED_MAX).map(|one| one.info.name.clone()).collect();
    let partitions: Vec<PartitionBody> = status.lag.partitions.iter().map(|lag| partition(lag, &competing)).collect();
    let oldest = status.lag.partitions.iter().filter_map(|one| one.oldest_unacked_ms).max();
    body.status.committed_lag = Some(status.lag.committed());
    body.status.delivered_lag = Some(status.lag.delivered());
    body.status.trimmed = Some(status.trimmed);
    body.status.lag_exact = Some(status.lag.is_exact);
    body.status.oldest_unacked_age = Some(oldest.map(span));
    body.status.consumers = Some(status.consumers.into_iter().map(ConsumerBody::of).collect());
    body.status.partitions = Some(partitions);
    body
}

fn partition(lag: &PartitionLag, competing: &[String]) -> PartitionBody {
    PartitionBody {
        consumers: lag.consumer.iter().chain(competing).cloned().collect(),
        partition: lag.partition,
        committed_position: lag.committed,
        delivered_position: lag.delivered,
        committed_lag: lag.undelivered + lag.in_flight,
        delivered_lag: lag.undelivered,
        in_flight: lag.in_flight,
        oldest_unacked_age: lag.oldest_unacked_ms.map(span),
        consumer: lag.consumer.clone(),
        epoch: lag.epoch,
        held_back: lag.is_held_back,
    }
}
