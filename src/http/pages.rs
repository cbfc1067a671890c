//! Reading over HTTP: pages of streams, categories and the whole log, and single messages.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{Path, Query};
use super::page_bodies::{Message, Page, StreamPage, page_body};
use super::page_cache::{Interval, PageTag, matches};
use super::parameters::{Direction, GivenFilter, Validator, category, stream_name};
use super::problem::Problem;
use super::trim::trimmed;
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::scope::Readable;
use crate::domain::stream_name::{Category, check_type};
use crate::service::auth::Caller;
use crate::service::read::{CategoryOptions, PageRequest, PageSource, PageStart};

/// A summary of a stream.
#[derive(Serialize, ToSchema)]
pub struct StreamSummary {
    pub stream_name: String,
    pub category: String,
    /// The position of its last message.
    pub version: i64,
    pub message_count: i64,
    pub first_position: i64,
    #[schema(format = DateTime)]
    pub first_time: String,
    #[schema(format = DateTime)]
    pub last_time: String,
}

macro_rules! page_query {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            /// The first position to read, inclusive.
            #[param(minimum = 0)]
            from: Option<i64>,
            /// How many messages at most.
            #[param(minimum = 1, maximum = 1000, default = 100)]
            limit: Option<u64>,
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
            /// How long an empty page waits for a message, such as `30s`.
            #[param(example = "30s")]
            wait: Option<String>,
            /// With `wait`, for caches that fold many requests into one: 0 at first, then what the answer before had. Then
            /// the wait ends with an interval of the clock that is as long as `wait`, so that all who wait ask for the same.
            #[param(minimum = 0, maximum = 9007199254740991i64)]
            cursor: Option<i64>,
            /// `backward` reads towards the beginning, from the end unless `from` is given.
            direction: Option<Direction>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            fn request(&mut self, rules: &mut Validator, app: &App, source: PageSource, readable: Readable) -> PageRequest {
                let backward = self.direction == Some(Direction::Backward);
                if backward && self.wait.is_some() {
                    rules.invalid("wait", "must not be given with direction=backward: nothing new comes at the beginning");
                }
                let filter = GivenFilter {
                    types: std::mem::take(&mut self.types),
                    filter: self.filter.take(),
                    from_time: self.from_time.take(),
                    to_time: self.to_time.take(),
                };
                PageRequest {
                    source,
                    from: rules.from(self.from).map_or(PageStart::Default, PageStart::At),
                    backward,
                    limit: rules.limit(self.limit),
                    filter: rules.filter(&filter, readable),
                    wait: rules
                        .duration("wait", self.wait.as_deref(), std::time::Duration::ZERO, app.limits.wait_max)
                        .unwrap_or_default(),
                }
            }
        }
    };
}

page_query!(StreamPageQuery {
    /// Begins with the newest message of this type, or with the first message if there is none. Not with `from`, and not
    /// backward.
    from_last: Option<String>,
});

page_query!(CategoryPageQuery {
    /// Only messages whose metadata names a stream of this category in `correlationStreamName`.
    correlation: Option<String>,
    /// Only streams of this member of a consumer group, counted from 0; with `consumer_group_size`.
    #[param(minimum = 0)]
    consumer_group_member: Option<i64>,
    /// How many members the consumer group has.
    #[param(minimum = 1)]
    consumer_group_size: Option<i64>,
});

page_query!(AllPageQuery {});

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LastMessageQuery {
    /// The last message of this type.
    r#type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoQuery {}

/// Read a stream
///
/// In order of position. A stream that does not exist is an empty page with version -1. Where messages were trimmed, a page
/// without `from` begins with the first that is left, and `from` before that one is `position-trimmed`. A full page of
/// settled messages may be kept by caches, as its `Cache-Control` says, and has an ETag that changes by erasures and trims.
#[utoipa::path(
    get, path = "/v1/streams/{stream_name}/messages", operation_id = "readStream", tag = tags::READ,
    params(("stream_name" = String, Path, description = "Name of a stream"), StreamPageQuery,
        ("If-None-Match" = Option<String>, Header, description = "The ETag of an earlier answer")),
    responses((status = 200, body = StreamPage, headers(("ETag" = String))), (status = 304, description = "Nothing has changed"),
        (status = 410, description = "position-trimmed", body = super::problem::ProblemDocument, content_type = "application/problem+json")),
)]
pub async fn read_stream(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(mut query): Query<StreamPageQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = stream_name(name)?;
    let mut rules = Validator::default();
    let from_last = query.from_last.take();
    let mut request = query.request(&mut rules, &app, PageSource::Stream(name.clone()), Readable::All);
    if let Some(message_type) = from_last {
        if let Err(error) = check_type(&message_type) {
            rules.invalid("from_last", error.to_string());
        }
        if request.from != PageStart::Default || request.backward {
            rules.invalid("from_last", "must not be given with from or with direction=backward");
        }
        request.from = PageStart::NewestOf(message_type);
    }
    let interval = Interval::checked(&mut rules, query.cursor, &mut request.wait, &uri);
    let request = rules.finish(request)?;
    let settled_tag = PageTag::of(&app, &uri, &Readable::All, None).await;
    if let Some(same) = settled_tag.not_modified(&app, &headers) {
        return Ok(same);
    }
    // Known before the page is read: one that is newer than its tag is only read once more.
    let history = app.tail.history_number();
    if let Some(known) = headers.get(header::IF_NONE_MATCH)
        && request.wait.is_zero()
        && interval.is_none()
        // Else it is not known which log this is.
        && app.tail.is_reading()
    {
        let (version, erasure, first_position) = app.reads.stream_version(&name).await?;
        let tag = entity_tag(version, erasure, first_position, history);
        if known == "*" || matches(known, &tag) {
            let headers = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-store".to_owned())];
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
    }
    let page = app.reads.page(&request).await?;
    if request.is_trimmed(&page) {
        return Err(trimmed(page.first_position));
    }
    // A page that something may follow is another one with each message of the stream.
    let tag = entity_tag(page.version, page.erasure, page.first_position, history);
    let answer = ([(header::ETAG, tag)], json(page_body(&page, Some(page.version), interval))).into_response();
    Ok(settled_tag.answer(&app, page.is_settled, interval, answer))
}

/// Read a category
///
/// In order of global position, from all streams of the category. A full page of settled messages may be kept by caches, as
/// its `Cache-Control` says, and has an ETag that changes by erasures and trims.
#[utoipa::path(
    get, path = "/v1/categories/{category}/messages", operation_id = "readCategory", tag = tags::READ,
    params(("category" = String, Path, description = "Name of a category: without `-`"), CategoryPageQuery,
        ("If-None-Match" = Option<String>, Header, description = "The ETag of an earlier answer")),
    responses((status = 200, body = Page, headers(("ETag" = String))), (status = 304, description = "Nothing has changed")),
)]
pub async fn read_category(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(mut query): Query<CategoryPageQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = category(name)?;
    let readable = caller.rights().read_category(name.as_str())?;
    let mut rules = Validator::default();
    let options = CategoryOptions {
        correlation: query.correlation.take(),
        group: consumer_group(&mut rules, query.consumer_group_member, query.consumer_group_size),
    };
    if let Some(Err(error)) = options.correlation.clone().map(Category::parse) {
        rules.invalid("correlation", error.to_string());
    }
    let mut request = query.request(&mut rules, &app, PageSource::Category(name, options), readable);
    let interval = Interval::checked(&mut rules, query.cursor, &mut request.wait, &uri);
    page_of_log(&app, &rules.finish(request)?, interval, &uri, &headers).await
}

/// Read all messages
///
/// In order of global position, up to the settled one: after that, messages may still appear. A full page may be kept by
/// caches, as its `Cache-Control` says, and has an ETag that changes by erasures and trims.
#[utoipa::path(
    get, path = "/v1/all/messages", operation_id = "readAll", tag = tags::READ,
    params(AllPageQuery, ("If-None-Match" = Option<String>, Header, description = "The ETag of an earlier answer")),
    responses((status = 200, body = Page, headers(("ETag" = String))), (status = 304, description = "Nothing has changed")),
)]
pub async fn read_all(
    State(app): State<App>,
    caller: Caller,
    Query(mut query): Query<AllPageQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let readable = caller.rights().read_log()?;
    let mut rules = Validator::default();
    let mut request = query.request(&mut rules, &app, PageSource::All, readable);
    let interval = Interval::checked(&mut rules, query.cursor, &mut request.wait, &uri);
    page_of_log(&app, &rules.finish(request)?, interval, &uri, &headers).await
}

async fn page_of_log(
    app: &App,
    request: &PageRequest,
    interval: Option<Interval>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let tag = PageTag::of(app, uri, &request.filter.readable, None).await;
    if let Some(same) = tag.not_modified(app, headers) {
        return Ok(same);
    }
    let page = app.reads.page(request).await?;
    Ok(tag.answer(app, page.is_settled, interval, json(page_body(&page, None, interval))))
}

/// Read the last message of a stream
#[utoipa::path(
    get, path = "/v1/streams/{stream_name}/messages/last", operation_id = "readLastMessage", tag = tags::READ,
    params(("stream_name" = String, Path, description = "Name of a stream"), LastMessageQuery),
    responses((status = 200, body = Message)),
)]
pub async fn read_last_message(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<LastMessageQuery>,
) -> Result<Response, Problem> {
    let name = stream_name(name)?;
    if let Some(Err(error)) = query.r#type.as_deref().map(check_type) {
        return Err(Problem::invalid(vec![Violation::new("type", error.to_string())]));
    }
    match app.reads.last_message(&name, query.r#type.as_deref()).await? {
        Some(message) => Ok(json(message.json().clone())),
        None => Err(Problem::not_found(format!("message in the stream {name}"))),
    }
}

/// Read a summary of a stream
#[utoipa::path(
    get, path = "/v1/streams/{stream_name}", operation_id = "readStreamSummary", tag = tags::READ,
    params(("stream_name" = String, Path, description = "Name of a stream")),
    responses((status = 200, body = StreamSummary)),
)]
pub async fn read_stream_summary(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<StreamSummary>, Problem> {
    let name = stream_name(name)?;
    let Some(summary) = app.reads.stream_summary(&name).await? else {
        return Err(Problem::not_found(format!("stream {name}")));
    };
    Ok(axum::Json(StreamSummary {
        category: name.category().to_owned(),
        stream_name: name.as_str().to_owned(),
        version: summary.version,
        message_count: summary.message_count,
        first_position: summary.first_position,
        first_time: summary.first_time.to_rfc3339(),
        last_time: summary.last_time.to_rfc3339(),
    }))
}

/// Read one message by its id
#[utoipa::path(
    get, path = "/v1/messages/{id}", operation_id = "readMessage", tag = tags::READ,
    params(("id" = Uuid, Path, description = "Id of a message")),
    responses((status = 200, body = Message)),
)]
pub async fn read_message(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Response, Problem> {
    let id = message_id(&id)?;
    match app.reads.message(id).await? {
        Some(message) if caller.rights().read_stream(&message.stream_name).is_ok() => Ok(json(message.json().clone())),
        // One that may not be read is answered as if it did not exist.
        Some(_) | None => Err(Problem::not_found(format!("message {id}"))),
    }
}

/// The id of a message, as a path names it.
pub(super) fn message_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::malformed(vec![Violation::new("id", "must be a UUID")]))
}

/// Message DB's rules for a consumer group's member and size, in the order in which Message DB checks them.
fn consumer_group(rules: &mut Validator, member: Option<i64>, size: Option<i64>) -> Option<(i64, i64)> {
    match (member, size) {
        (None, None) => None,
        (Some(_), None) => {
            rules.invalid("consumer_group_size", "must be given with consumer_group_member");
            None
        }
        (None, Some(_)) => {
            rules.invalid("consumer_group_member", "must be given with consumer_group_size");
            None
        }
        (Some(_), Some(size)) if size < 1 => {
            rules.invalid("consumer_group_size", "must be 1 or more");
            None
        }
        (Some(member), Some(size)) if !(0..size).contains(&member) => {
            rules.invalid("consumer_group_member", "must be 0 or more, and less than consumer_group_size");
            None
        }
        (Some(member), Some(size)) => Some((member, size)),
    }
}

pub(super) fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// The ETag of all pages of a stream: it changes by messages at its end, by erasures and by trims; and with the log, where
/// another stream of that name may have as many messages.
fn entity_tag(version: i64, erasure: i64, first_position: i64, history: i64) -> String {
    match (erasure, first_position, history) {
        (0, 0, 0) => format!("\"{version}\""),
        (erasure, first_position, 0) => format!("\"{version}-{erasure}-{first_position}\""),
        (erasure, first_position, history) => format!("\"{version}-{erasure}-{first_position}-{history}\""),
    }
}
