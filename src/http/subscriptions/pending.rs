//! Messages that were delivered and not acked: which consumer has them, for how long; and taking them over.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{duration_ms, span};
use super::events::DeliveredMessage;
use super::{PlaceBody, after, consumer_name, delivered, entries, next_of, subscription_name};
use crate::http::extract::{Json, Object, Path, Query};
use crate::http::pages::NoQuery;
use crate::http::parameters::Validator;
use crate::http::problem::Problem;
use crate::http::{App, tags};
use crate::service::auth::Caller;
use crate::service::subscriptions::{At, ClaimRequest, PendingDelivery};

/// The longest `min_idle`, in milliseconds: a year.
const IDLE_MS_MAX: i64 = 365 * 86_400_000;

/// A message that was delivered and not acked.
#[derive(Serialize, ToSchema)]
#[schema(as = PendingMessage)]
pub struct PendingBody {
    pub partition: i32,
    pub position: i64,
    pub epoch: i64,
    /// Null while the message waits for its next delivery.
    pub consumer: Option<String>,
    /// How long ago the message was delivered last.
    #[schema(example = "1200ms")]
    pub idle: String,
    pub delivery_count: i64,
    /// The reason that a consumer gave last for refusing it.
    pub last_error: Option<String>,
}

/// Pending messages by partition and position.
#[derive(Serialize, ToSchema)]
pub struct PendingList {
    pub pending: Vec<PendingBody>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// How many messages are pending.
#[derive(Serialize, ToSchema)]
#[schema(as = PendingSummary)]
pub struct SummaryBody {
    pub count: i64,
    /// How long ago the oldest of them was delivered last.
    pub oldest_idle: Option<String>,
    pub consumers: Vec<ConsumerPending>,
}

/// How many messages of one consumer are pending.
#[derive(Serialize, ToSchema)]
pub struct ConsumerPending {
    /// Null for messages that wait for their next delivery.
    pub consumer: Option<String>,
    pub count: i64,
    pub oldest_idle: String,
    pub first: PendingPlace,
    pub last: PendingPlace,
}

/// The place of a pending message.
#[derive(Serialize, ToSchema)]
pub struct PendingPlace {
    pub partition: i32,
    pub position: i64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PendingQuery {
    /// Only messages of this consumer.
    consumer: Option<String>,
    /// Only messages that were delivered at least this long ago, such as `1m`.
    #[param(example = "30s")]
    min_idle: Option<String>,
    /// What an earlier answer gave as `next`.
    after: Option<String>,
    /// How many messages at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// A request to take over messages that other consumers have not acked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClaimRequest)]
pub struct ClaimBody {
    #[schema(example = "w1")]
    consumer: String,
    /// Only messages that were delivered at least this long ago.
    #[serde(default)]
    #[schema(default = "0s", example = "60s")]
    min_idle: Option<String>,
    /// How many messages at most.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// Only messages at these places; without them, all after `after`.
    #[serde(default)]
    #[schema(max_items = 1000)]
    positions: Option<Vec<PlaceBody>>,
    /// What an earlier answer gave as `next`.
    #[serde(default)]
    after: Option<String>,
}

/// What was taken over.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: the answer is put together from texts that are JSON already
pub struct ClaimResult {
    pub messages: Vec<DeliveredMessage>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// List pending messages
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}/pending", operation_id = "listPending", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"), PendingQuery),
    responses((status = 200, body = PendingList)),
)]
pub async fn list_pending(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<PendingQuery>,
) -> Result<axum::Json<PendingList>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    if let Some(consumer) = &query.consumer {
        consumer_name(&mut rules, consumer);
    }
    let limit = rules.limit(query.limit);
    let min_idle = duration_ms(&mut rules, "min_idle", query.min_idle.as_deref(), 0..=IDLE_MS_MAX).unwrap_or(0);
    let after = after(&mut rules, query.after.as_deref());
    rules.finish(())?;
    let (inspection, consumer) = (&app.subscriptions.inspection, query.consumer.as_deref());
    let found = inspection.pending(&name, consumer, min_idle, after, limit, caller.rights()).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|last| next_of(last.at));
    Ok(axum::Json(PendingList { pending: found.into_iter().map(to_body).collect(), next }))
}

/// Count pending messages
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}/pending/summary", operation_id = "summarisePending", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    responses((status = 200, body = SummaryBody)),
)]
pub async fn summarise_pending(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<SummaryBody>, Problem> {
    subscription_name(&name)?;
    let found = app.subscriptions.inspection.pending_summary(&name, caller.rights()).await?;
    let place = |at: At| PendingPlace { partition: at.partition, position: at.position };
    Ok(axum::Json(SummaryBody {
        count: found.iter().map(|one| one.count).sum(),
        oldest_idle: found.iter().map(|one| one.oldest_ms).max().map(span),
        consumers: found
            .into_iter()
            .map(|one| ConsumerPending {
                consumer: one.consumer,
                count: one.count,
                oldest_idle: span(one.oldest_ms),
                first: place(one.first),
                last: place(one.last),
            })
            .collect(),
    }))
}

/// Claim messages that other consumers have left (competing)
///
/// Some messages, or all that were left alone for `min_idle`. They are delivered to this consumer with new epochs.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/claims", operation_id = "claimMessages", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = ClaimBody,
    responses((status = 200, body = ClaimResult)),
)]
pub async fn claim_messages(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<ClaimBody>>,
) -> Result<Response, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &body.consumer);
    let limit = rules.limit(body.limit);
    let min_idle = duration_ms(&mut rules, "min_idle", body.min_idle.as_deref(), 0..=IDLE_MS_MAX).unwrap_or(0);
    let after = after(&mut rules, body.after.as_deref());
    if let Some(positions) = &body.positions {
        entries(&mut rules, "positions", positions.len());
    }
    rules.finish(())?;
    let positions = body.positions.map(|places| places.iter().map(PlaceBody::at).collect::<Vec<_>>());
    let request = ClaimRequest {
        subscription: name,
        consumer: body.consumer,
        min_idle_ms: min_idle,
        after,
        positions,
        messages_max: limit,
        bytes_max: app.limits.page_bytes_max,
    };
    let taken = app.subscriptions.consumers.claim(&request, caller.rights()).await?;
    let next = taken.next.map_or_else(|| "null".to_owned(), |next| format!("\"{}\"", next_of(next)));
    Ok(delivered(&taken.deliveries, &format!(",\"next\":{next}")))
}

fn to_body(one: PendingDelivery) -> PendingBody {
    PendingBody {
        partition: one.at.partition,
        position: one.at.position,
        epoch: one.epoch,
        consumer: one.consumer,
        idle: span(one.idle_ms),
        delivery_count: one.delivery_count,
        last_error: one.last_error,
    }
}
