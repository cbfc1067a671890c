//! Consuming: by an event stream, or by long poll.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::events::{DeliveredMessage, SubscriptionEventLine};
use super::{consumer_name, delivered, subscription_name};
use crate::domain::subscription::MAX_IN_FLIGHT_MAX;
use crate::http::event_stream::respond;
use crate::http::extract::{Json, Object, Path, Query};
use crate::http::follow::heartbeat;
use crate::http::frames::{Frames, Wire};
use crate::http::operations::allows_only;
use crate::http::pages::NoQuery;
use crate::http::parameters::Validator;
use crate::http::problem::Problem;
use crate::http::{App, tags};
use crate::service::auth::Caller;
use crate::service::subscriptions::{ConsumeRequest, FetchRequest};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsumeQuery {
    /// The consumer's name: one that comes back with it gets its partitions back.
    #[param(example = "w1")]
    consumer: String,
    /// How many messages it may have without having acked them; the subscription's own `max_in_flight` holds too.
    #[param(minimum = 1, maximum = 10000)]
    max_in_flight: Option<i64>,
    /// How long the event stream may be quiet before a heartbeat, such as `5s`.
    #[param(example = "15s")]
    heartbeat: Option<String>,
}

/// A request for messages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FetchRequest)]
pub struct FetchBody {
    /// The consumer's name: one that comes back with it gets its partitions back.
    #[schema(example = "w1")]
    consumer: String,
    /// How many messages at most.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// How many bytes of messages at most. The first message is delivered even if it is larger.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_bytes: Option<u64>,
    /// How long to wait for a first message, such as `30s`.
    #[serde(default)]
    #[schema(example = "30s")]
    wait: Option<String>,
    /// What the consumer was given and has not acked comes first, and by itself: the same deliveries, under the same
    /// epochs. So nothing is lost if an answer does not arrive. False: only messages that it was not given before, for a
    /// consumer that makes several fetches at once.
    #[serde(default = "yes")]
    #[schema(default = true)]
    backlog: bool,
}

fn yes() -> bool {
    true
}

/// What a fetch answers.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: the answer is put together from texts that are JSON already
pub struct FetchResult {
    pub messages: Vec<DeliveredMessage>,
}

/// Consume a subscription as an event stream
///
/// The consumer joins the subscription, and leaves when the connection ends. It gets no more messages while
/// `max_in_flight` of them are not acked; acks go by `ackMessages`, to any instance.
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}/events", operation_id = "followSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"), ConsumeQuery),
    responses(
        (status = 200, description = "Events: assigned, message, trimmed, revoked, caught-up, heartbeat, closing",
            content((SubscriptionEventLine = "text/event-stream"), (SubscriptionEventLine = "application/x-ndjson"))),
        (status = 503, description = "overloaded (too many consumers), database-unavailable, draining", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn follow_subscription(
    State(app): State<App>,
    caller: Caller,
    method: Method,
    Path(name): Path<String>,
    Query(query): Query<ConsumeQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // HEAD changes nothing, and a consumer that joins takes partitions from others.
    if method == Method::HEAD {
        return Ok(allows_only("GET", &method));
    }
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &query.consumer);
    if query.max_in_flight.is_some_and(|max| !(1..=MAX_IN_FLIGHT_MAX).contains(&max)) {
        rules.invalid("max_in_flight", format!("must be from 1 to {MAX_IN_FLIGHT_MAX}"));
    }
    let heartbeat = heartbeat(&mut rules, query.heartbeat.as_deref(), &app);
    let request = rules.finish(ConsumeRequest {
        subscription: name,
        consumer: query.consumer,
        in_flight_max: query.max_in_flight,
        heartbeat,
    })?;
    let events = app.consume(&caller, request).await?;
    Ok(respond(&app.event_groups, events, Frames::new(Wire::accepted(&headers), false)))
}

/// Fetch messages of a subscription
///
/// The same as the event stream, by long poll. The consumer joins with its first request, and is a member until it has
/// made no request for `consumer_timeout`.
#[utoipa::path(
    post, path = "/v1/subscriptions/{name}/fetch", operation_id = "fetchMessages", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription")),
    request_body = FetchBody,
    responses(
        (status = 200, body = FetchResult),
        (status = 503, description = "overloaded (too many consumers), database-unavailable, draining", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn fetch_messages(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<FetchBody>>,
) -> Result<Response, Problem> {
    subscription_name(&name)?;
    let mut rules = Validator::default();
    consumer_name(&mut rules, &body.consumer);
    let messages_max = rules.limit(body.limit);
    if body.max_bytes == Some(0) {
        rules.invalid("max_bytes", "must be 1 or more");
    }
    let wait = rules.duration("wait", body.wait.as_deref(), Duration::ZERO, app.limits.wait_max);
    let wait = rules.finish(wait)?.unwrap_or_default();
    let bytes_max = body.max_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    let request = FetchRequest {
        subscription: name,
        consumer: body.consumer,
        messages_max,
        bytes_max: bytes_max.min(app.limits.page_bytes_max),
        wait,
        backlog: body.backlog,
    };
    let deliveries = app.subscriptions.consumers.fetch(&request, caller.rights()).await?;
    Ok(delivered(&deliveries, ""))
}
