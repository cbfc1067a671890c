//! Following: event streams as server-sent events, or as NDJSON.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::event_stream::respond;
use super::events::{EventLine, SeveralEventLine};
use super::extract::{Path, Query};
use super::frames::{Frames, Wire};
use super::parameters::{GivenFilter, Validator, category, stream_name};
use super::problem::{Problem, ProblemKind, capitalised};
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::event_id::EventId;
use crate::domain::keyed::Part;
use crate::domain::named::check_name;
use crate::domain::scope::Readable;
use crate::domain::source::{SOURCE_TOPICS_MAX, Source};
use crate::domain::time::Timestamp;
use crate::service::auth::Caller;
use crate::service::event_streams::AdmissionError;
use crate::service::follow::{AggregatedTarget, FollowError, FollowRequest, Target};
use crate::service::log::latest::LatestError;
use crate::service::read::Start;

const LAST_EVENT_ID: &str = "last-event-id";
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

macro_rules! follow_query {
    ($name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            /// Where to begin: `beginning`, `end`, a position (inclusive) or an RFC 3339 time. With `latest_of_each`, which
            /// streams by category have, the newest message of every stream comes first, without ids, so that a client
            /// that loses its connection meanwhile begins again; then `caught-up`, and what is new.
            #[param(default = "end", example = "beginning")]
            from: Option<String>,
            /// The id of the last event that was received, as text (`1017~5f3a09c1`: a position, and a check of the
            /// message there). It takes precedence over `from`; the header `Last-Event-ID`, which clients of server-sent
            /// events send by themselves, takes precedence over both. If the log has changed since, the answer is
            /// `history-changed`.
            last_event_id: Option<String>,
            /// Only messages of these types, separated by commas.
            #[serde(default)]
            #[param(style = Form, explode = false)]
            types: Vec<String>,
            /// Only messages for which this CEL expression is true.
            #[param(example = "data.quantity > 1")]
            filter: Option<String>,
            /// Only messages of this time or later (RFC 3339).
            #[param(format = DateTime)]
            from_time: Option<String>,
            /// Only messages from before this time (RFC 3339).
            #[param(format = DateTime)]
            to_time: Option<String>,
            /// How long the event stream may be quiet before a heartbeat, such as `5s`.
            #[param(example = "15s")]
            heartbeat: Option<String>,
            /// `type`: the event's name is the message's type, instead of `message`. A type that is the name of another
            /// event (`closing`, `caught-up`), or of one of `EventSource`'s own (`error`, `open`), is named `message`.
            event_names: Option<EventNames>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            fn options(&mut self) -> $crate::http::follow::FollowOptions {
                $crate::http::follow::FollowOptions {
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

/// How the event of a message is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventNames {
    Message,
    Type,
}

/// The options of every request to follow.
pub(super) struct FollowOptions {
    pub from: Option<String>,
    pub last_event_id: Option<String>,
    pub filter: GivenFilter,
    pub heartbeat: Option<String>,
    pub event_names: EventNames,
}

/// Follow a stream
#[utoipa::path(
    get, path = "/v1/streams/{stream_name}/events", operation_id = "followStream", tag = tags::FOLLOW,
    params(("stream_name" = String, Path, description = "Name of a stream; it need not exist yet"), FollowQuery),
    responses((status = 200, description = "Events: message, trimmed, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_stream(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = stream_name(name)?;
    follow(app, &caller, Target::log(Source::stream(name.as_str())), query.options(), &headers).await
}

/// Follow a category
#[utoipa::path(
    get, path = "/v1/categories/{category}/events", operation_id = "followCategory", tag = tags::FOLLOW,
    params(("category" = String, Path, description = "Name of a category: without `-`"), FollowQuery),
    responses((status = 200, description = "Events: message, trimmed, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_category(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = category(name)?;
    follow(app, &caller, Target::log(Source::category(name.as_str())), query.options(), &headers).await
}

/// Follow all messages
#[utoipa::path(
    get, path = "/v1/all/events", operation_id = "followAll", tag = tags::FOLLOW,
    params(FollowQuery),
    responses((status = 200, description = "Events: message, trimmed, caught-up, fell-behind, heartbeat, closing",
        content((EventLine = "text/event-stream"), (EventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_all(
    State(app): State<App>,
    caller: Caller,
    Query(mut query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    follow(app, &caller, Target::log(Source::all()), query.options(), &headers).await
}

/// Follow several streams, categories and aggregated streams on one connection
///
/// In global order: messages wait until all of them have come to their position. A message that several of them have is
/// sent once for each.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "followSeveral", tag = tags::FOLLOW,
    params(FollowSeveralQuery),
    responses((status = 200, description = "Events: message, trimmed, caught-up, fell-behind, heartbeat, closing",
        content((SeveralEventLine = "text/event-stream"), (SeveralEventLine = "application/x-ndjson"))),
        (status = 409, description = "history-changed: the log has changed since the cursor was given out", body = crate::http::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn follow_several(
    State(app): State<App>,
    caller: Caller,
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
    let mut aggregated: Vec<AggregatedTarget> = Vec::new();
    for name in std::mem::take(&mut query.aggregated_stream) {
        if let Err(rule) = check_name(&name) {
            return Err(Problem::invalid(vec![Violation::new("aggregated_stream", rule)]));
        }
        if !aggregated.iter().any(|one| one.name == name) {
            aggregated.push(AggregatedTarget { name, part: Part::All });
        }
    }
    let log = Source::several(&streams, &categories);
    let topics = log.as_ref().map_or(0, |log| log.topics().len());
    let is_refused = log.is_none() && (aggregated.is_empty() || !streams.is_empty() || !categories.is_empty());
    if is_refused || topics + aggregated.len() > SOURCE_TOPICS_MAX {
        let rule = format!(
            "must name from 1 to {SOURCE_TOPICS_MAX} streams, categories and aggregated streams, with the parameters \
             category and aggregated_stream too"
        );
        return Err(Problem::invalid(vec![Violation::new("stream_name", rule)]));
    }
    follow(app, &caller, Target { log, aggregated }, query.options(), &headers).await
}

pub(super) async fn follow(
    app: App,
    caller: &Caller,
    target: Target,
    options: FollowOptions,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let readable = match &target.log {
        Some(log) => log.readable(caller.rights())?,
        None => Readable::All,
    };
    let mut rules = Validator::default();
    let filter = rules.filter(&options.filter, readable);
    let heartbeat = heartbeat(&mut rules, options.heartbeat.as_deref(), &app);
    let start = start(&mut rules, &options, headers, &target);
    let events = app.follow(caller, rules.finish(FollowRequest { target, start, filter, heartbeat })?).await?;
    Ok(respond(
        &app.event_groups,
        events,
        Frames::new(Wire::accepted(headers), options.event_names == EventNames::Type),
    ))
}

pub(super) fn heartbeat(rules: &mut Validator, text: Option<&str>, app: &App) -> Duration {
    rules.duration("heartbeat", text, HEARTBEAT_MIN, HEARTBEAT_MAX).unwrap_or(app.limits.heartbeat)
}

/// Where to begin: by the header, else by the parameter, else by `from`.
fn start(rules: &mut Validator, options: &FollowOptions, headers: &HeaderMap, target: &Target) -> Start {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    let cursors = [("Last-Event-ID", header), ("last_event_id", options.last_event_id.as_deref())];
    // A browser that has seen no id yet sends an empty one, or none.
    let mut given =
        cursors.into_iter().filter_map(|(field, cursor)| Some((field, cursor.filter(|id| !id.is_empty())?)));
    if let Some((field, cursor)) = given.next() {
        return match cursor.parse::<EventId>() {
            Ok(cursor) if target.may_have(cursor) => Start::After(cursor),
            _ => {
                rules.malformed(field, "must be the id of an event of this source");
                Start::End
            }
        };
    }
    match options.from.as_deref() {
        None | Some("end") => Start::End,
        Some("beginning") => Start::Beginning,
        Some("latest_of_each") if target.has_latest() => Start::LatestOfEach,
        Some("latest_of_each") => {
            rules.malformed("from", "must not be latest_of_each here: categories have that, alone or several together");
            Start::End
        }
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

impl From<FollowError> for Problem {
    fn from(error: FollowError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            FollowError::Admission(AdmissionError::Draining) => Problem::new(ProblemKind::Draining, detail),
            FollowError::Admission(AdmissionError::TooMany { .. }) => Problem::new(ProblemKind::Overloaded, detail),
            FollowError::Admission(AdmissionError::TooManyOfCredential { max }) => {
                Problem::new(ProblemKind::RateLimited, detail).with("limit", max)
            }
            FollowError::Latest(LatestError::TooMany { .. }) => {
                Problem::invalid(vec![Violation::new("from", format!("must not be latest_of_each here: {error}"))])
            }
            FollowError::Latest(LatestError::Busy { .. }) => Problem::new(ProblemKind::Overloaded, detail),
            FollowError::Aggregated(error) => error.into(),
            FollowError::Place(error) => error.into(),
            FollowError::Part(violation) => Problem::invalid(vec![violation]),
            FollowError::Subscription(error) => error.into(),
        }
    }
}
