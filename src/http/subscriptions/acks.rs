//! What consumers answer to deliveries: acks, nacks, and that they need more time.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::duration_ms;
use super::{consumer_name, entries, subscription_name};
use crate::domain::delivery::NackAction;
use crate::domain::named::named_if_any;
use crate::domain::subscription::{ACK_TIMEOUT_MS, BACKOFF_MS};
use crate::http::extract::{Json, Object, Path, Query};
use crate::http::pages::NoQuery;
use crate::http::parameters::Validator;
use crate::http::problem::Problem;
use crate::http::{App, tags};
use crate::service::auth::Caller;
use crate::service::subscriptions::{AckRequest, At, NackEntry};

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 10_000;

/// A delivery, as the delivered message names it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeliveryPlace)]
pub struct DeliveryPlace {
    /// 0 if it is not given: competing subscriptions have no other, unless their source is an aggregated stream.
    #[serde(default)]
    partition: i32,
    position: i64,
    epoch: i64,
}

/// Acks of one consumer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AckRequest)]
pub struct AckBody {
    #[schema(example = "w1")]
    consumer: String,
    /// Partitioned: each acks everything in its partition up to its position, but of parked messages that are replayed only
    /// the one at its position. Competing: each acks one message.
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<DeliveryPlace>)]
    acks: Vec<Object<DeliveryPlace>>,
}

/// What came of the acks.
#[derive(Serialize, ToSchema)]
pub struct AckResult {
    pub acked: usize,
    /// Acks under an epoch that is over: the lease or the delivery has been lost.
    pub fenced: usize,
    /// Acks of deliveries that do not exist: acked before, or never made.
    pub missing: usize,
}

/// A message that a consumer cannot process, and what it asks for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Nack)]
pub struct NackBodyEntry {
    #[serde(default)]
    partition: i32,
    position: i64,
    epoch: i64,
    #[serde(default, deserialize_with = "named_if_any")]
    #[schema(default = "retry", value_type = Option<ActionBody>)]
    action: Option<ActionBody>,
    /// How long a retry waits; the subscription's `backoff` if it is not given.
    #[serde(default)]
    #[schema(example = "5s")]
    delay: Option<String>,
    /// Kept with a parked message, and in the status of a stopped subscription.
    #[serde(default)]
    #[schema(max_length = 10000)]
    reason: Option<String>,
}

/// What is to become of a message that a consumer cannot process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NackAction)]
pub enum ActionBody {
    /// Deliver it again, unless it was delivered as often as it may be.
    Retry,
    /// Park it: it is put aside until somebody replays or deletes it.
    Park,
    /// Do not deliver it again.
    Skip,
    /// Stop the whole subscription before it.
    Stop,
}

/// Nacks of one consumer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NackRequest)]
pub struct NackBody {
    #[schema(example = "w1")]
    consumer: String,
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<NackBodyEntry>)]
    nacks: Vec<Object<NackBodyEntry>>,
}

/// What came of the nacks.
#[derive(Serialize, ToSchema)]
pub struct NackResult {
    pub nacked: usize,
    pub fenced: usize,
    pub missing: usize,
}

/// Deliveries that a consumer is still processing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExtensionRequest)]
pub struct ExtensionBody {
    #[schema(example = "w1")]
    consumer: String,
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<DeliveryPlace>)]
    extensions: Vec<Object<DeliveryPlace>>,
    /// How long they may take from now on; the subscription's `ack_timeout` if it is not given.
    #[serde(default)]
    #[schema(example = "60s")]
    ack_timeout: Option<String>,
}

/// What came of the extensions.
#[derive(Serialize, ToSchema)]
pub struct ExtensionResult {
    pub extended: usize,
    pub fenced: usize,
    pub missing: usize,
}

/// Ack messages
///
/// A request may be sent again without harm. If all acks are fenced, because their leases or deliveries have been lost,
/// the answer is the problem `fenced`.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/acks", operation_id = "ackMessages", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = AckBody,
    responses(
        (status = 200, description = "Committed, durably", body = AckResult),
        (status = 409, description = "fenced: nothing was changed", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn ack_messages(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<AckBody>>,
) -> Result<axum::Json<AckResult>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &body.consumer);
    entries(&mut rules, "acks", body.acks.len());
    let request = rules.finish(AckRequest { consumer: body.consumer, entries: places(&body.acks) })?;
    let counts = app.subscriptions.acks.ack(&name, request, caller.rights()).await?;
    Ok(axum::Json(AckResult { acked: counts.done, fenced: counts.fenced, missing: counts.missing }))
}

/// Refuse messages (nack)
///
/// In a partitioned subscription a retry takes the whole partition back to that message: order is never broken.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/nacks", operation_id = "nackMessages", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = NackBody,
    responses(
        (status = 200, body = NackResult),
        (status = 409, description = "fenced: nothing was changed", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn nack_messages(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<NackBody>>,
) -> Result<axum::Json<NackResult>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &body.consumer);
    entries(&mut rules, "nacks", body.nacks.len());
    let nacks = body.nacks.into_iter().enumerate().map(|(at, Object(nack))| read_nack(&mut rules, at, nack)).collect();
    let nacks: Vec<NackEntry> = rules.finish(nacks)?;
    let counts = app.subscriptions.acks.nack(&name, &body.consumer, nacks, caller.rights()).await?;
    Ok(axum::Json(NackResult { nacked: counts.done, fenced: counts.fenced, missing: counts.missing }))
}

/// Ask for more time for messages
///
/// The messages count as failed only when that time is over. In a partitioned subscription the time is one for the whole
/// partition.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/extensions", operation_id = "extendMessages", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = ExtensionBody,
    responses(
        (status = 200, body = ExtensionResult),
        (status = 409, description = "fenced: nothing was changed", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn extend_messages(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<ExtensionBody>>,
) -> Result<axum::Json<ExtensionResult>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &body.consumer);
    entries(&mut rules, "extensions", body.extensions.len());
    let timeout = duration_ms(&mut rules, "ack_timeout", body.ack_timeout.as_deref(), ACK_TIMEOUT_MS);
    let request = rules.finish(AckRequest { consumer: body.consumer, entries: places(&body.extensions) })?;
    let counts = app.subscriptions.acks.extend(&name, request, timeout, caller.rights()).await?;
    Ok(axum::Json(ExtensionResult { extended: counts.done, fenced: counts.fenced, missing: counts.missing }))
}

fn places(entries: &[Object<DeliveryPlace>]) -> Vec<(At, i64)> {
    let place =
        |Object(one): &Object<DeliveryPlace>| (At { partition: one.partition, position: one.position }, one.epoch);
    entries.iter().map(place).collect()
}

fn read_nack(rules: &mut Validator, at: usize, nack: NackBodyEntry) -> NackEntry {
    let action = nack.action.unwrap_or(ActionBody::Retry);
    let delay_ms = duration_ms(rules, &format!("nacks[{at}].delay"), nack.delay.as_deref(), BACKOFF_MS);
    if nack.delay.is_some() && action != ActionBody::Retry {
        rules.invalid(&format!("nacks[{at}].delay"), "must be given with the action retry only");
    }
    if let Some(reason) = &nack.reason {
        if reason.len() > REASON_BYTES_MAX {
            rules.invalid(&format!("nacks[{at}].reason"), format!("must be at most {REASON_BYTES_MAX} bytes"));
        }
        if reason.contains('\0') {
            rules.invalid(&format!("nacks[{at}].reason"), "must not contain NUL characters");
        }
    }
    NackEntry {
        at: At { partition: nack.partition, position: nack.position },
        epoch: nack.epoch,
        action: match action {
            ActionBody::Retry => NackAction::Retry { delay_ms },
            ActionBody::Park => NackAction::Park,
            ActionBody::Skip => NackAction::Skip,
            ActionBody::Stop => NackAction::Stop,
        },
        reason: nack.reason,
    }
}
