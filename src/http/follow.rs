//! Following: server-sent events and their NDJSON twin.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::event_stream::EventStream;
use super::events::{EventLine, SeveralEventLine};
use super::extract::{Path, Query};
use super::frames::{Frames, Wire};
use super::parameters::{GivenFilter, Rules, category, stream_name};
use super::problem::{Problem, ProblemKind};
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::cursor::Cursor;
use crate::domain::filter::Filter;
use crate::domain::source::{SOURCE_TOPICS_MAX, Source};
use crate::domain::time::Timestamp;
use crate::service::aggregated::log::AggregatedSource;
use crate::service::log::Place;
use crate::service::log::follower::Follower;
use crate::service::log::following::Following;
use crate::service::log::merged::{self, MergedFollower};
use crate::service::read::Start;

const LAST_EVENT_ID: &str = "last-event-id";
pub(super) const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
pub(super) const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

macro_rules! follow_query {
    ($name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            /// Where to begin: `beginning`, `end`, a position (inclusive) or an RFC 3339 time.
            #[param(default = "end", example = "beginning")]
            from: Option<String>,
            /// The id of the last event that was received, as text (`1017~5f3a09c1`: a position, and by what the message
            /// there is recognised); goes before `from`. A log that is another one by now is answered with
            /// `history-changed`. The header `Last-Event-ID`, which
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
            #[param(example = "15s")]
            heartbeat: Option<String>,
            /// `type`: the event's name is the message's type, instead of `message`.
            event_names: Option<EventNames>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            fn wish(&mut self) -> $crate::http::follow::Wish {
                $crate::http::follow::Wish {
                    from: self.from.take(),
                    last_event_id: self.last_event_id.take(),
                    filter: $crate::http::parameters::GivenFilter {
                        types: std::mem::take(&mut self.types),
                        filter: self.filter.take(),
                        from_time: self.from_time.take(),
                        to_time: self.to_time.take(),
                    },
                    heartbeat: self.heartbeat.take(),
                    event_names: self.event_names.unwrap_or($crate::http::follow::EventNames::Message),
                }
            }
        }
    };
}

pub(super) use follow_query;

follow_query!(FollowQuery {});

follow_query!(FollowSeveralQuery {
    /// A stream to follow; may be given several times.
    #[serde(default)]
    stream_name: Vec<String>,
    /// A category to follow; may be given several times.
    #[serde(default)]
    category: Vec<String>,
    /// An aggregated stream to follow; may be given several times.
    #[serde(default)]
    aggregated_stream: Vec<String>,
});

/// What the event of a message is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventNames {
    Message,
    Type,
}

/// What every follower may ask for.
pub(super) struct Wish {
    pub from: Option<String>,
    pub last_event_id: Option<String>,
    pub filter: GivenFilter,
    pub heartbeat: Option<String>,
    pub event_names: EventNames,
}

/// What is followed.
pub(super) enum Target {
    Log(Source),
    /// Some partitions of an aggregated stream, or all.
    Aggregated(AggregatedSource),
    /// Streams and categories, and then aggregated streams.
    Merged(Option<Source>, Vec<AggregatedSource>),
}

/// Follow a stream
#[utoipa::path(
    get, path = "/v1/streams/{stream_name}/events", operation_id = "followStream", tag = tags::FOLLOW,
    params(("stream_name" = String, Path, description = "Name of a stream; it need not exist yet"), FollowQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_stream(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = stream_name(name)?;
    follow(app, Target::Log(Source::stream(name.as_str())), query.wish(), &headers).await
}

/// Follow a category
#[utoipa::path(
    get, path = "/v1/categories/{category}/events", operation_id = "followCategory", tag = tags::FOLLOW,
    params(("category" = String, Path, description = "Name of a category: without `-`"), FollowQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_category(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = category(name)?;
    follow(app, Target::Log(Source::category(name.as_str())), query.wish(), &headers).await
}

/// Follow all messages
#[utoipa::path(
    get, path = "/v1/all/events", operation_id = "followAll", tag = tags::FOLLOW,
    params(FollowQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_all(
    State(app): State<App>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    follow(app, Target::Log(Source::all()), query.wish(), &headers).await
}

/// Follow several streams, categories and aggregated streams on one connection
///
/// In global order: what one of them has not come to yet holds back what the others have after it. A message that
/// several of them have comes once from each.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "followSeveral", tag = tags::FOLLOW,
    params(FollowSeveralQuery),
    responses((status = 200, description = "Events: message, caught-up, fell-behind, heartbeat, closing",
        content((SeveralEventLine = "text/event-stream"), (SeveralEventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
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
    let mut aggregated = Vec::new();
    for name in std::mem::take(&mut query.aggregated_stream) {
        if !aggregated.iter().any(|one: &AggregatedSource| *one.name == *name) {
            aggregated.push(super::partitions::aggregated(&app, name, None).await?);
        }
    }
    let source = Source::several(&streams, &categories);
    let topics = source.as_ref().map_or(0, |source| source.topics().len());
    let is_refused = source.is_none() && (aggregated.is_empty() || !streams.is_empty() || !categories.is_empty());
    if is_refused || topics + aggregated.len() > SOURCE_TOPICS_MAX {
        let rule = format!(
            "must name from 1 to {SOURCE_TOPICS_MAX} streams, categories and aggregated streams, with the parameters \
             category and aggregated_stream too"
        );
        return Err(Problem::invalid(vec![Violation::new("stream_name", rule)]));
    }
    let target = match (source, aggregated) {
        (Some(source), aggregated) if aggregated.is_empty() => Target::Log(source),
        (source, aggregated) => Target::Merged(source, aggregated),
    };
    follow(app, target, query.wish(), &headers).await
}

pub(super) async fn follow(app: App, target: Target, wish: Wish, headers: &HeaderMap) -> Result<Response, Problem> {
    let mut rules = Rules::default();
    let filter = rules.filter(&wish.filter);
    let heartbeat = rules
        .duration("heartbeat", wish.heartbeat.as_deref(), HEARTBEAT_MIN, HEARTBEAT_MAX)
        .unwrap_or(app.limits.heartbeat);
    let start = start(&mut rules, &wish, headers, &target);
    let (filter, (start, sources)) = rules.keep((filter, start))?;
    if app.lifecycle.is_draining() {
        return Err(Problem::new(ProblemKind::Draining, "The service is shutting down."));
    }
    let Some(taken) = app.followers.take() else {
        let detail = format!("The limit of {} open event streams is reached.", app.followers.max());
        return Err(Problem::new(ProblemKind::Overloaded, detail));
    };
    let source = target.log();
    // Joined before the place is looked up: what is settled meanwhile is kept for this follower.
    let membership = app.tail.join(&source);
    let place = app.reads.place(&source, start).await?;
    let is_beyond_end = matches!(start, Start::At(_)) && app.reads.is_beyond_end(&source, place).await?;
    let wire = if accepts_ndjson(headers) { Wire::Ndjson } else { Wire::EventStream };
    let following = following(&app, target, filter, place, sources);
    drop(membership);
    let frames = Frames::new(wire, wish.event_names == EventNames::Type);
    let mut stream = EventStream::new(app, following, frames, heartbeat, taken);
    if is_beyond_end {
        stream.keep_first_cursor();
    }
    Ok(respond(stream, wire))
}

fn respond(stream: EventStream, wire: Wire) -> Response {
    let body = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    });
    event_response(wire, Body::from_stream(body))
}

/// The head of an event stream.
pub(super) fn event_response(wire: Wire, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(wire.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The follower of a target from a place on; `sources`: how many of several have been seen at the place itself.
fn following(app: &App, target: Target, filter: Filter, place: Place, sources: u32) -> Following {
    match target {
        Target::Log(source) => Following::One(app.tail.follow(&source, place, filter)),
        Target::Aggregated(one) => Following::One(app.aggregated.follow(one, false, place, filter)),
        Target::Merged(source, aggregated) => {
            let cursor = Cursor { position: place.after, sources, check: place.check };
            let mut places = merged::places(cursor, aggregated.len() + usize::from(source.is_some()))
                .map(|after| Place::global(after, place.history));
            let mut next_place = || places.next().unwrap_or(place);
            let log = source.map(|source| app.tail.follow(&source, next_place(), filter.clone()));
            let mut followers: Vec<Follower> = log.into_iter().collect();
            for one in aggregated {
                followers.push(app.aggregated.follow(one, true, next_place(), filter.clone()));
            }
            Following::Merged(Box::new(MergedFollower::new(followers, cursor)))
        }
    }
}

impl Target {
    /// The log whose positions are the cursor.
    fn log(&self) -> Source {
        match self {
            Target::Log(source) => source.clone(),
            Target::Aggregated(_) | Target::Merged(..) => Source::all(),
        }
    }

    /// A cursor that an event of this target may have.
    fn allows(&self, cursor: Cursor) -> bool {
        let (lowest, sources) = match self {
            Target::Log(source) if source.single_stream().is_some() => (-1, 0),
            Target::Log(_) | Target::Aggregated(_) => (0, 0),
            Target::Merged(source, aggregated) => (0, aggregated.len() + usize::from(source.is_some()) - 1),
        };
        cursor.position >= lowest && cursor.sources as usize <= sources
    }
}

/// The first that is there: the header, the parameter, `from`.
///
/// Beside it, how many of several sources have been seen at the cursor's position.
fn start(rules: &mut Rules, wish: &Wish, headers: &HeaderMap, target: &Target) -> (Start, u32) {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    // A browser that has seen no id yet sends an empty one, or none.
    if let Some(cursor) = header.or(wish.last_event_id.as_deref()).filter(|cursor| !cursor.is_empty()) {
        return match cursor.parse::<Cursor>() {
            Ok(cursor) if target.allows(cursor) => (Start::After(cursor), cursor.sources),
            _ => {
                rules.malformed(cursor_field(headers), "must be the id of an event of this source");
                (Start::End, 0)
            }
        };
    }
    let start = match wish.from.as_deref() {
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
    };
    (start, 0)
}

/// Where the cursor was taken from: the header goes before the parameter.
fn cursor_field(headers: &HeaderMap) -> &'static str {
    if headers.contains_key(LAST_EVENT_ID) { "Last-Event-ID" } else { "last_event_id" }
}

pub(super) fn accepts_ndjson(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accept| accept.contains("application/x-ndjson"))
}
