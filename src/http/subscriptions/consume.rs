//! Consuming: an event stream, and the same by long poll.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::events::{DeliveredMessage, SubscriptionEventLine};
use super::stream::ConsumerStream;
use super::{consumer_name, subscription_name};
use crate::domain::subscription::MAX_IN_FLIGHT_MAX;
use crate::http::extract::{Json, Object, Path, Query};
use crate::http::follow::{HEARTBEAT_MAX, HEARTBEAT_MIN, accepts_ndjson, event_response};
use crate::http::frames::{Frames, Wire, push_delivery};
use crate::http::pages::NoQuery;
use crate::http::parameters::{PAGE_LIMIT_MAX, Rules};
use crate::http::problem::{Problem, ProblemKind};
use crate::http::{App, tags};
use crate::service::subscriptions::{Consumer, Delivery, End, SubscriptionError, Wish};

/// Messages that leave in one write.
const BATCH_MESSAGES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// A consumer whose end is told asks again at once, this often.
const REJOINS_MAX: usize = 3;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsumeQuery {
    /// The consumer's name: one that comes back with it gets its partitions back.
    #[param(example = "w1")]
    consumer: String,
    /// Messages that it may have and not have acked; the subscription's own bound holds too.
    #[param(minimum = 1, maximum = 10000)]
    max_in_flight: Option<i64>,
    /// How long it may be quiet before a heartbeat, such as `5s`.
    #[param(example = "15s")]
    heartbeat: Option<String>,
}

/// A wish for messages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FetchRequest)]
pub struct FetchBody {
    /// The consumer's name: one that comes back with it gets its partitions back.
    #[schema(example = "w1")]
    consumer: String,
    /// Messages at most.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// Bytes of messages at most; one message comes all the same.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_bytes: Option<u64>,
    /// How long to wait for a message, such as `30s`.
    #[serde(default)]
    #[schema(example = "30s")]
    wait: Option<String>,
    /// What the consumer was given and has not acked comes first, and by itself: the same deliveries, under the same
    /// epochs. So nothing is lost if an answer does not arrive. False: only what it was not given before, for who has
    /// several fetches at work at once.
    #[serde(default = "yes")]
    #[schema(default = true)]
    backlog: bool,
}

fn yes() -> bool {
    true
}

/// What a fetch answers.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: it is put together from parts that stand already
pub struct FetchResult {
    pub messages: Vec<DeliveredMessage>,
}

/// Consume a subscription as an event stream
///
/// Joins the consumers of the subscription, and leaves them when the connection ends. No more messages than
/// `max_in_flight` are delivered and not acked; acks go by `ackMessages`, to any instance.
#[utoipa::path(
    get, path = "/v1/subscriptions/{name}/events", operation_id = "followSubscription", tag = tags::SUBSCRIBE,
    params(("name" = String, Path, description = "Name of a subscription"), ConsumeQuery),
    responses(
        (status = 200, description = "Events: assigned, message, revoked, caught-up, heartbeat, closing",
            content((SubscriptionEventLine = "text/event-stream"), (SubscriptionEventLine = "application/x-ndjson"))),
        (status = 503, description = "overloaded (too many consumers), database-unavailable, draining", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn follow_subscription(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<ConsumeQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    subscription_name(&name)?;
    let mut rules = Rules::default();
    consumer_name(&mut rules, &query.consumer);
    if query.max_in_flight.is_some_and(|max| !(1..=MAX_IN_FLIGHT_MAX).contains(&max)) {
        rules.invalid("max_in_flight", format!("must be from 1 to {MAX_IN_FLIGHT_MAX}"));
    }
    let heartbeat = rules
        .duration("heartbeat", query.heartbeat.as_deref(), HEARTBEAT_MIN, HEARTBEAT_MAX)
        .unwrap_or(app.limits.heartbeat);
    let heartbeat = rules.keep(heartbeat)?;
    if app.lifecycle.is_draining() {
        return Err(Problem::new(ProblemKind::Draining, "The service is shutting down."));
    }
    let Some(place) = app.followers.take() else {
        let detail = format!("The limit of {} open event streams is reached.", app.followers.max());
        return Err(Problem::new(ProblemKind::Overloaded, detail));
    };
    let subscription = app.subscriptions.find(&name).await?;
    if subscription.is_source_gone {
        return Err(source_deleted(&name));
    }
    let consumer = app.subscriptions.connect(subscription, &query.consumer).await?;
    let wire = if accepts_ndjson(&headers) { Wire::Ndjson } else { Wire::EventStream };
    let wish = Wish {
        messages: BATCH_MESSAGES_MAX,
        bytes: BATCH_BYTES_MAX,
        in_flight_max: query.max_in_flight.unwrap_or(MAX_IN_FLIGHT_MAX),
    };
    let stream = ConsumerStream::new(app, consumer, wish, Frames::new(wire, false), heartbeat, place);
    let body = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    });
    Ok(event_response(wire, Body::from_stream(body)))
}

/// Fetch messages of a subscription
///
/// The same as the event stream, by long poll. The consumer joins with its first request, and is a member until it has
/// not been heard of for `consumer_timeout`.
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
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<FetchBody>>,
) -> Result<Response, Problem> {
    subscription_name(&name)?;
    let mut rules = Rules::default();
    consumer_name(&mut rules, &body.consumer);
    let messages = rules.limit(body.limit).min(PAGE_LIMIT_MAX);
    if body.max_bytes == Some(0) {
        rules.invalid("max_bytes", "must be 1 or more");
    }
    let wait = rules.duration("wait", body.wait.as_deref(), Duration::ZERO, app.limits.wait_max);
    let wait = rules.keep(wait)?.unwrap_or_default();
    if app.lifecycle.is_draining() {
        return Err(Problem::new(ProblemKind::Draining, "The service is shutting down."));
    }
    let bytes_max = app.limits.page_bytes_max;
    let bytes =
        body.max_bytes.map_or(bytes_max, |bytes| usize::try_from(bytes).map_or(bytes_max, |b| b.min(bytes_max)));
    let wish = Wish { messages, bytes, in_flight_max: MAX_IN_FLIGHT_MAX };
    let mut attempts = 0;
    let deliveries = loop {
        let subscription = app.subscriptions.find(&name).await?;
        let mut consumer = match app.subscriptions.visit(subscription, &body.consumer, body.backlog).await {
            // It was known here, but is another one by now.
            Err(SubscriptionError::NotFound { .. }) if attempts < REJOINS_MAX => {
                attempts += 1;
                continue;
            }
            other => other?,
        };
        match fetch(&app, &mut consumer, wish, wait).await? {
            Ok(deliveries) => break deliveries,
            Err(End::SourceDeleted) => return Err(source_deleted(&name)),
            Err(_) if attempts < REJOINS_MAX => attempts += 1,
            Err(End::Deleted) => return Err(Problem::not_found(format!("subscription {name}"))),
            Err(End::Removed | End::Replaced | End::HistoryChanged) => {
                let what = format!("consumer {} of the subscription {name}", body.consumer);
                return Err(Problem::gone(what, "the consumer was removed"));
            }
        }
    };
    let mut out = BytesMut::from(&b"{\"messages\":["[..]);
    for (at, delivery) in deliveries.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b",");
        }
        push_delivery(&mut out, delivery);
    }
    out.extend_from_slice(b"]}");
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], out.freeze()).into_response())
}

fn source_deleted(name: &str) -> Problem {
    Problem::gone(format!("aggregated stream of the subscription {name}"), "the source has been deleted")
}

/// The first messages that come; none when the time is over. Or why there can be none.
async fn fetch(
    app: &App,
    consumer: &mut Consumer,
    wish: Wish,
    wait: Duration,
) -> Result<Result<Vec<Delivery>, End>, SubscriptionError> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut is_fresh = false;
    loop {
        let round = consumer.round(wish).await?;
        if let Some(end) = round.end {
            return Ok(Err(end));
        }
        // What is committed by now counts, also what nobody was told of.
        if round.deliveries.is_empty() && !std::mem::replace(&mut is_fresh, true) {
            app.tail.refresh().await;
            continue;
        }
        let is_over = tokio::time::Instant::now() >= deadline && round.next != Some(Duration::ZERO);
        if !round.deliveries.is_empty() || is_over {
            return Ok(Ok(round.deliveries));
        }
        tokio::select! {
            () = consumer.changed(round.next) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.lifecycle.draining().cancelled() => return Ok(Ok(Vec::new())),
        }
    }
}
