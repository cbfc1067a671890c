//! Reading over HTTP: pages of streams, categories and the whole log, and single messages.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{Path, Query};
use super::parameters::{Direction, GivenFilter, Validator, category, stream_name};
use super::problem::Problem;
use super::trim::trimmed;
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::message::Message as StoredMessage;
use crate::domain::scope::Readable;
use crate::domain::stream_name::{Category, check_type};
use crate::service::auth::Caller;
use crate::service::read::{CategoryOptions, PageRead, PageRequest, PageSource, PageStart};

/// A stored message.
#[derive(Serialize, ToSchema)]
pub struct Message {
    pub id: Uuid,
    #[schema(example = "account-123")]
    pub stream_name: String,
    #[schema(example = "Deposited")]
    pub r#type: String,
    /// Counts from 0 in its stream.
    #[schema(example = 4, minimum = 0)]
    pub position: i64,
    /// Counts from 1 over the whole store, with holes.
    #[schema(example = 1017, minimum = 1)]
    pub global_position: i64,
    /// Any JSON, as PostgreSQL's jsonb prints it.
    #[schema(value_type = Value, example = json!({"amount": 5}))]
    pub data: serde_json::Value,
    /// Any JSON, as PostgreSQL's jsonb prints it.
    #[schema(value_type = Value, example = json!({"correlationStreamName": "transfer-9"}))]
    pub metadata: serde_json::Value,
    /// When it was written: UTC, with microseconds.
    #[schema(format = DateTime, example = "2026-11-20T12:00:00.123456Z")]
    pub time: String,
    /// Only of a message whose data and metadata were erased: both are null then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<Erased>,
}

/// When and why a message was erased.
#[derive(Serialize, ToSchema)]
pub struct Erased {
    #[schema(format = DateTime)]
    pub at: String,
    /// Null if none was given.
    #[schema(required = true)]
    pub reason: Option<String>,
}

/// A page of a stream.
#[derive(Serialize, ToSchema)]
pub struct StreamPage {
    pub messages: Vec<Message>,
    /// What to pass as `from` to go on; null if nothing can follow (backward, at the beginning).
    #[schema(required = true)]
    pub next: Option<i64>,
    /// True: nothing followed when this page was read.
    pub at_end: bool,
    /// The position of the stream's last message, -1 for an empty stream: the `expected_version` of a next append.
    #[schema(minimum = -1)]
    pub version: i64,
}

/// A page of a category or of all messages.
#[derive(Serialize, ToSchema)]
pub struct Page {
    pub messages: Vec<Message>,
    /// What to pass as `from` to go on; null where nothing can follow (backward, at the beginning).
    #[schema(required = true)]
    pub next: Option<i64>,
    /// True: nothing followed when this page was read.
    pub at_end: bool,
}

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
            #[param(example = "data.amount > 100")]
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
/// without `from` begins with the first that is left, and `from` before that one is `position-trimmed`.
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
    let request = rules.finish(request)?;
    if let Some(known) = headers.get(header::IF_NONE_MATCH)
        && request.wait.is_zero()
    {
        let (version, erasure, first_position) = app.reads.stream_version(&name).await?;
        let tag = entity_tag(version, erasure, first_position);
        if matches(known, &tag) {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
        }
    }
    let page = app.reads.page(&request).await?;
    if request.is_trimmed(&page) {
        return Err(trimmed(page.first_position));
    }
    let tag = entity_tag(page.version, page.erasure, page.first_position);
    let version = page.version;
    Ok(([(header::ETAG, tag)], json(page_body(&page, Some(version)))).into_response())
}

/// Read a category
///
/// In order of global position, from all streams of the category.
#[utoipa::path(
    get, path = "/v1/categories/{category}/messages", operation_id = "readCategory", tag = tags::READ,
    params(("category" = String, Path, description = "Name of a category: without `-`"), CategoryPageQuery),
    responses((status = 200, body = Page)),
)]
pub async fn read_category(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(mut query): Query<CategoryPageQuery>,
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
    let request = query.request(&mut rules, &app, PageSource::Category(name, options), readable);
    let page = app.reads.page(&rules.finish(request)?).await?;
    Ok(json(page_body(&page, None)))
}

/// Read all messages
///
/// In order of global position, up to the settled one: after that, messages may still appear.
#[utoipa::path(
    get, path = "/v1/all/messages", operation_id = "readAll", tag = tags::READ,
    params(AllPageQuery), responses((status = 200, body = Page)),
)]
pub async fn read_all(
    State(app): State<App>,
    caller: Caller,
    Query(mut query): Query<AllPageQuery>,
) -> Result<Response, Problem> {
    let readable = caller.rights().read_log()?;
    let mut rules = Validator::default();
    let request = query.request(&mut rules, &app, PageSource::All, readable);
    let page = app.reads.page(&rules.finish(request)?).await?;
    Ok(json(page_body(&page, None)))
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

/// The body of a page. The JSON of messages is put in as it is, never parsed and printed again.
fn page_body(page: &PageRead, version: Option<i64>) -> Bytes {
    let size: usize = page.messages.iter().map(|message: &StoredMessage| message.json().len() + 1).sum();
    let mut body = Vec::with_capacity(size + 80);
    body.extend_from_slice(b"{\"messages\":[");
    for (at, message) in page.messages.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(message.json());
    }
    let next = page.next.map_or_else(|| "null".to_owned(), |next| next.to_string());
    body.extend_from_slice(format!("],\"next\":{next},\"at_end\":{}", page.at_end).as_bytes());
    if let Some(version) = version {
        body.extend_from_slice(format!(",\"version\":{version}").as_bytes());
    }
    body.push(b'}');
    body.into()
}

pub(super) fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// The ETag of all pages of a stream: it changes by messages at its end, by erasures and by trims.
fn entity_tag(version: i64, erasure: i64, first_position: i64) -> String {
    match (erasure, first_position) {
        (0, 0) => format!("\"{version}\""),
        (erasure, first_position) => format!("\"{version}-{erasure}-{first_position}\""),
    }
}

fn matches(known: &HeaderValue, tag: &str) -> bool {
    let known = known.to_str().unwrap_or_default();
    known.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
}
