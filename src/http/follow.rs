//! Following: server-sent events and their NDJSON twin.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::event_stream::EventStream;
use super::events::EventLine;
use super::extract::{Path, Query};
use super::frames::{Frames, Wire};
use super::parameters::{DurationText, GivenFilter, Rules, category, stream_name};
use super::problem::{Problem, ProblemKind};
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::filter::Filter;
use crate::domain::source::{SOURCE_TOPICS_MAX, Source};
use crate::domain::time::Timestamp;
use crate::service::read::{PlaceError, Start};
use crate::service::tail::follower::Follower;

const LAST_EVENT_ID: &str = "last-event-id";
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

macro_rules! follow_query {
    ($name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            /// Where to begin: `beginning`, `end`, a position (inclusive) or an RFC 3339 time.
            #[param(default = "end", example = "beginning")]
            from: Option<String>,
            /// The id of the last event that was received; goes before `from`. The header `Last-Event-ID`, which
            /// clients of server-sent events send by themselves, goes before both.
            last_event_id: Option<String>,
            /// Only messages of these types, separated by commas.
            #[serde(default)]
            #[param(style = Form, explode = false)]
            types: Vec<String>,
            /// Only messages for which this CEL expression is true.
            #[param(example = "data.amount > 100")]
            filter: Option<String>,
            /// Only messages of this time or later (RFC 3339).
            #[param(format = DateTime)]
            from_time: Option<String>,
            /// Only messages from before this time (RFC 3339).
            #[param(format = DateTime)]
            to_time: Option<String>,
            /// How long it may be quiet before a heartbeat, such as `5s`.
            #[param(example = "15s", value_type = Option<DurationText>)]
            heartbeat: Option<String>,
            /// `type`: the event's name is the message's type, instead of `message`.
            event_names: Option<EventNames>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            fn wish(&mut self) -> Wish {
                Wish {
                    from: self.from.take(),
                    last_event_id: self.last_event_id.take(),
                    filter: GivenFilter {
                        types: std::mem::take(&mut self.types),
                        filter: self.filter.take(),
                        from_time: self.from_time.take(),
                        to_time: self.to_time.take(),
                    },
                    heartbeat: self.heartbeat.take(),
                    event_names: self.event_names.unwrap_or(EventNames::Message),
                }
            }
        }
    };
}

follow_query!(FollowQuery {});

follow_query!(FollowSeveralQuery {
    /// A stream to follow; may be given several times.
    #[serde(default)]
    stream_name: Vec<String>,
    /// A category to follow; may be given several times.
    #[serde(default)]
    category: Vec<String>,
});

/// What the event of a message is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventNames {
    Message,
    Type,
}

/// What every follower may ask for.
struct Wish {
    from: Option<String>,
    last_event_id: Option<String>,
    filter: GivenFilter,
    heartbeat: Option<String>,
    event_names: EventNames,
}

/// Follow a stream
#[utoipa::path(
    get, path = "/v1/streams/{stream_name}/events", operation_id = "followStream", tag = tags::FOLLOW,
    params(("stream_name" = String, Path, description = "Name of a stream; it need not exist yet"), FollowQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson")))),
)]
pub async fn follow_stream(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = stream_name(name)?;
    follow(app, Source::stream(name.as_str()), query.wish(), &headers).await
}

/// Follow a category
#[utoipa::path(
    get, path = "/v1/categories/{category}/events", operation_id = "followCategory", tag = tags::FOLLOW,
    params(("category" = String, Path, description = "Name of a category: without `-`"), FollowQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson")))),
)]
pub async fn follow_category(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = category(name)?;
    follow(app, Source::category(name.as_str()), query.wish(), &headers).await
}

/// Follow all messages
#[utoipa::path(
    get, path = "/v1/all/events", operation_id = "followAll", tag = tags::FOLLOW,
    params(FollowQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson")))),
)]
pub async fn follow_all(
    State(app): State<App>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    follow(app, Source::all(), query.wish(), &headers).await
}

/// Follow several streams and categories on one connection, in global order
#[utoipa::path(
    get, path = "/v1/events", operation_id = "followSeveral", tag = tags::FOLLOW,
    params(FollowSeveralQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson")))),
)]
pub async fn follow_several(
    State(app): State<App>,
    Query(mut query): Query<FollowSeveralQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let streams = std::mem::take(&mut query.stream_name);
    let categories = std::mem::take(&mut query.category);
    for name in &streams {
        stream_name(name.clone())?;
    }
    for name in &categories {
        category(name.clone())?;
    }
    let Some(source) = Source::several(&streams, &categories) else {
        let rule =
            format!("must name from 1 to {SOURCE_TOPICS_MAX} streams and categories, with the parameter category too");
        return Err(Problem::invalid(vec![Violation::new("stream_name", rule)]));
    };
    follow(app, source, query.wish(), &headers).await
}

async fn follow(app: App, source: Source, wish: Wish, headers: &HeaderMap) -> Result<Response, Problem> {
    let mut rules = Rules::default();
    let filter = rules.filter(&wish.filter);
    let heartbeat = rules
        .duration("heartbeat", wish.heartbeat.as_deref(), HEARTBEAT_MIN, HEARTBEAT_MAX)
        .unwrap_or(app.limits.heartbeat);
    let lowest = if source.single_stream().is_some() { -1 } else { 0 };
    let start = start(&mut rules, &wish, headers, lowest);
    let (filter, start): (Filter, Start) = rules.keep((filter, start))?;
    if app.lifecycle.is_draining() {
        return Err(Problem::new(ProblemKind::Draining, "The service is stopping."));
    }
    let Some(taken) = app.followers.take() else {
        let detail = format!("There are {} followers already.", app.followers.max());
        return Err(Problem::new(ProblemKind::Overloaded, detail));
    };
    // Joined before the place is looked up: what is settled meanwhile is kept for this follower.
    let membership = app.tail.join(&source);
    let place = app.reads.place(&source, start).await.map_err(|error| match error {
        PlaceError::FromTheFuture { .. } => {
            Problem::invalid(vec![Violation::new(cursor_field(headers), error.to_string())])
        }
        PlaceError::Store(error) => error.into(),
    })?;
    let is_beyond_end = matches!(start, Start::At(_)) && app.reads.is_beyond_end(&source, place).await?;
    let wire = if accepts_ndjson(headers) { Wire::Ndjson } else { Wire::EventStream };
    let follower = Follower::new(app.tail.clone(), source, filter, place);
    drop(membership);
    let frames = Frames::new(wire, wish.event_names == EventNames::Type);
    let mut stream = EventStream::new(app, follower, frames, heartbeat, taken);
    if is_beyond_end {
        stream.keep_first_cursor();
    }
    let body = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(wire.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The first that is there: the header, the parameter, `from`.
fn start(rules: &mut Rules, wish: &Wish, headers: &HeaderMap, lowest: i64) -> Start {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    // A browser that has seen no id yet sends an empty one, or none.
    if let Some(cursor) = header.or(wish.last_event_id.as_deref()).filter(|cursor| !cursor.is_empty()) {
        return match cursor.parse::<i64>() {
            Ok(cursor) if cursor >= lowest => Start::After(cursor),
            _ => {
                rules.malformed(cursor_field(headers), "must be the id of an event of this source");
                Start::End
            }
        };
    }
    match wish.from.as_deref() {
        None | Some("end") => Start::End,
        Some("beginning") => Start::Beginning,
        Some(text) => match (text.parse::<i64>(), Timestamp::parse_rfc3339(text)) {
            (Ok(position), _) if position >= 0 => Start::At(position),
            (_, Some(time)) => Start::AtTime(time),
            _ => {
                rules.malformed("from", "must be beginning, end, a position of 0 or more, or an RFC 3339 time");
                Start::End
            }
        },
    }
}

/// Where the cursor was taken from: the header goes before the parameter.
fn cursor_field(headers: &HeaderMap) -> &'static str {
    if headers.contains_key(LAST_EVENT_ID) { "Last-Event-ID" } else { "last_event_id" }
}

fn accepts_ndjson(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accept| accept.contains("application/x-ndjson"))
}
