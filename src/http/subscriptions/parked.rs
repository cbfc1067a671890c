//! The dead letters of a subscription.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{PlaceBody, after, entries, next_of, subscription_name};
use crate::domain::delivery::Cause;
use crate::http::extract::{Json, NoBody, Object, Path, Query};
use crate::http::page_bodies::Message;
use crate::http::pages::NoQuery;
use crate::http::parameters::Validator;
use crate::http::problem::Problem;
use crate::http::{App, tags};
use crate::service::auth::Caller;
use crate::service::subscriptions::{At, ParkedMessage};

/// A message that was parked.
#[derive(Serialize, ToSchema)]
#[schema(as = ParkedMessage)]
pub struct ParkedBody {
    pub partition: i32,
    pub position: i64,
    /// The reason that a consumer gave last for refusing it; else why it was parked.
    pub reason: String,
    #[schema(value_type = Cause)]
    pub cause: String,
    /// The reason that a consumer gave last for refusing it.
    pub last_error: Option<String>,
    /// How often it was delivered.
    pub deliveries: i64,
    /// The consumer that had it last.
    pub consumer: Option<String>,
    #[schema(format = DateTime)]
    pub parked_at: String,
    /// Null if the message was deleted since.
    #[schema(value_type = Option<Message>)]
    pub message: Option<Box<RawValue>>,
}

/// Parked messages by partition and position.
#[derive(Serialize, ToSchema)]
pub struct ParkedList {
    pub parked: Vec<ParkedBody>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ParkedQuery {
    /// What an earlier answer gave as `next`.
    after: Option<String>,
    /// How many messages at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// Which parked messages to deliver again: one of the fields.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayRequest)]
pub struct ReplayBody {
    #[serde(default)]
    #[schema(max_items = 1000)]
    positions: Option<Vec<PlaceBody>>,
    /// True: all of them.
    #[serde(default)]
    all: Option<bool>,
}

/// What came of a replay.
#[derive(Serialize, ToSchema)]
pub struct ReplayResult {
    /// Messages that will be delivered again.
    pub replayed: i64,
}

/// List parked messages (dead letters)
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}/parked", operation_id = "listParked", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"), ParkedQuery),
    responses((status = 200, body = ParkedList)),
)]
pub async fn list_parked(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<ParkedQuery>,
) -> Result<axum::Json<ParkedList>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    let limit = rules.limit(query.limit);
    let after = after(&mut rules, query.after.as_deref());
    rules.finish(())?;
    let found = app.subscriptions.inspection.parked(&name, after, limit, caller.rights()).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|last| next_of(last.at));
    Ok(axum::Json(ParkedList { parked: found.into_iter().map(to_body).collect(), next }))
}

/// Deliver parked messages again
///
/// Their deliveries are counted anew. In a partitioned subscription they are delivered out of turn if their partition has
/// gone on.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/parked/replay", operation_id = "replayParked", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = ReplayBody,
    responses((status = 200, body = ReplayResult)),
)]
pub async fn replay_parked(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<ReplayBody>>,
) -> Result<axum::Json<ReplayResult>, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    if body.positions.is_some() == (body.all == Some(true)) || body.all == Some(false) {
        rules.invalid("positions", "must be given, or all must be true, but not both");
    }
    if let Some(positions) = &body.positions {
        entries(&mut rules, "positions", positions.len());
    }
    rules.finish(())?;
    let which = body.positions.map(|places| places.iter().map(PlaceBody::at).collect::<Vec<_>>());
    let replayed = app.subscriptions.inspection.replay(&name, which.as_deref(), caller.rights()).await?;
    Ok(axum::Json(ReplayResult { replayed }))
}

/// Delete a parked message
#[utoipa::path(
    delete, path = "/v1/subscriptions/{name}/parked/{partition}/{position}", operation_id = "deleteParked",
    tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"),
        ("partition" = i32, Path, description = "Its partition"),
        ("position" = i64, Path, description = "Its position")),
    responses((status = 204, description = "Deleted")),
)]
pub async fn delete_parked(
    State(app): State<App>,
    caller: Caller,
    Path((name, partition, position)): Path<(String, String, String)>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<StatusCode, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    let (read_partition, read_position) = (partition.parse(), position.parse());
    if read_partition.is_err() {
        rules.malformed("partition", "must be a partition's number");
    }
    if read_position.is_err() {
        rules.malformed("position", "must be a position");
    }
    rules.finish(())?;
    let at = At { partition: read_partition.unwrap_or(-1), position: read_position.unwrap_or(-1) };
    match app.subscriptions.inspection.delete_parked(&name, at, caller.rights()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(format!("parked message {partition}/{position} of the subscription {name}"))),
    }
}

fn to_body(parked: ParkedMessage) -> ParkedBody {
    let deliveries = parked.delivery_count;
    let otherwise = match parked.cause.as_str() {
        "exhausted" => format!("delivered {deliveries} times without an ack"),
        _ => "refused by its consumer".to_owned(),
    };
    ParkedBody {
        partition: parked.at.partition,
        position: parked.at.position,
        reason: parked.last_error.clone().unwrap_or(otherwise),
        cause: parked.cause,
        last_error: parked.last_error,
        deliveries,
        consumer: parked.consumer,
        parked_at: parked.parked_at.to_rfc3339(),
        // The message has its JSON already.
        message: parked
            .message
            .and_then(|message| String::from_utf8(message.json().to_vec()).ok())
            .and_then(|json| RawValue::from_string(json).ok()),
    }
}
