//! Appending to a stream.

use std::collections::HashSet;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::append_sessions::{self, AppendLine, AppendSessionLine};
use super::extract::{Json, Object, Path, Query};
use super::pages::NoQuery;
use super::parameters::{Validator, stream_name};
use super::problem::{Problem, ProblemKind};
use super::{App, Limits, body, tags};
use crate::domain::append::{AppendRequest, Appended, NewMessage, StreamAppend, StreamAppended, WrittenMessage};
use crate::domain::json_text;
use crate::domain::stream_name::{STREAM_NAME_BYTES_MAX, StreamName, check_type};
use crate::domain::trace::{self, SpanRef, TraceContext};
use crate::service::auth::Caller;

/// Ids made from an idempotency key are UUIDv5 in this namespace.
const IDEMPOTENCY_NAMESPACE: Uuid = Uuid::from_u128(0x6c1f_44a3_9d0e_5b7a_8f27_3a51_c2d4_e690);
/// The longest idempotency key, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 1_000;

/// Messages for one stream: all are written, or none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AppendRequest)]
pub struct AppendBody {
    /// The stream must be at this version: -1 means an empty stream, absent or null any version.
    #[serde(default)]
    #[schema(minimum = -1, example = 3)]
    expected_version: Option<i64>,
    /// The stream must have a message.
    #[serde(default)]
    #[schema(default = false)]
    must_exist: bool,
    #[schema(min_items = 1, value_type = Vec<NewMessageBody>)]
    messages: Vec<Object<NewMessageBody>>,
}

/// A message to write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessage)]
pub struct NewMessageBody {
    /// Made by the service if absent. A message that is sent again with its id is recognised.
    #[serde(default)]
    pub id: Option<Uuid>,
    pub r#type: String,
    /// Any JSON; `null` if absent.
    #[serde(default)]
    #[schema(value_type = Option<Value>, example = json!({"item": "Tea", "quantity": 2}))]
    pub data: Option<Box<RawValue>>,
    /// Any JSON.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub metadata: Option<Box<RawValue>>,
    /// RFC 3339; the time of the transaction if absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub time: Option<String>,
}

/// What came of an append.
#[derive(Serialize, ToSchema)]
pub struct AppendResult {
    stream_name: String,
    /// The position of the last of these messages: the `expected_version` of a next append.
    version: i64,
    /// True: the messages had been written before, and this is the first answer again.
    duplicate: bool,
    messages: Vec<AppendedMessage>,
}

/// The place of an appended message.
#[derive(Serialize, ToSchema)]
pub struct AppendedMessage {
    id: Uuid,
    position: i64,
    global_position: i64,
    #[schema(format = DateTime)]
    time: String,
}

impl From<&WrittenMessage> for AppendedMessage {
    fn from(written: &WrittenMessage) -> Self {
        Self {
            id: written.id,
            position: written.position,
            global_position: written.global_position,
            time: written.time.to_rfc3339(),
        }
    }
}

/// Append messages to a stream
///
/// Writes all messages or none. A request that was done before, recognised by its message ids or its
/// `Idempotency-Key`, is answered with its first result.
///
/// With `Content-Type: application/x-ndjson` the body is an append session: a message a line, for as long as the client
/// likes (`AppendLine`). Each commit is answered with a line as soon as it is durable, while the body goes on
/// (`AppendSessionLine`); the first refusal is a problem document in a line, and the end. `expected_version` on the first
/// line is carried on from commit to commit.
#[utoipa::path(
    post, path = "/v1/streams/{stream_name}/messages", operation_id = "appendMessages", tag = tags::APPEND,
    params(("stream_name" = String, Path, description = "Name of a stream"),
        ("Idempotency-Key" = Option<String>, Header, description = "Any text; gives ids to messages that have none", min_length = 1, max_length = 1000),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context; kept in `metadata` of messages that bring none of their own"),
        ("tracestate" = Option<String>, Header, description = "Kept with `traceparent`, up to 512 bytes")),
    request_body(content((AppendBody = "application/json"), (AppendLine = "application/x-ndjson"))),
    responses(
        (status = 201, description = "Written, durably", body = AppendResult),
        (status = 200, description = "Written before: the first result again; or an append session", content((AppendResult = "application/json"), (AppendSessionLine = "application/x-ndjson"))),
        (status = 409, description = "wrong-expected-version or message-id-reused", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "body-too-large or message-too-large", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn append_messages(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    request: Request,
) -> Result<Response, Problem> {
    if body::is_lines(request.headers()) {
        return append_sessions::respond(&app, &caller, stream_name(name)?, request).await;
    }
    if !body::is_json(request.headers()) {
        return Err(body::not_json(true));
    }
    let mut rules = Validator::default();
    let given = AppendHeaders::of(&mut rules, request.headers());
    let Json(Object(body)) = Json::<Object<AppendBody>>::from_request(request, &app).await?;
    let name = stream_name(name)?;
    let stream_name = name.as_str().to_owned();
    let AppendBody { expected_version, must_exist, messages } = body;
    check_version(&mut rules, "expected_version", expected_version);
    let mut rules = count_messages(rules, &app.limits, "messages", messages.len())?;
    let stream = StreamBody { prefix: "", stream_name: name, expected_version, must_exist, messages };
    let stream = check_stream(&mut rules, &app.limits, &given, stream, &mut HashSet::new())?;
    let request = rules.finish(AppendRequest { trace: given.span(), ..AppendRequest::of(stream) })?;
    let Appended { duplicate, streams } = app.append_for(&caller, request).await?;
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    // The request has one stream.
    let StreamAppended { version, ref messages } = streams[0];
    let messages = messages.iter().map(AppendedMessage::from).collect();
    Ok((status, axum::Json(AppendResult { stream_name, version, duplicate, messages })).into_response())
}

/// What a request has for one stream, as it was read.
pub struct StreamBody<'a> {
    /// Where it is in the body, before the names of its fields.
    pub prefix: &'a str,
    pub stream_name: StreamName,
    pub expected_version: Option<i64>,
    pub must_exist: bool,
    pub messages: Vec<Object<NewMessageBody>>,
}

/// Refuses a request with too many messages, or with none.
pub fn count_messages(mut rules: Validator, limits: &Limits, field: &str, count: usize) -> Result<Validator, Problem> {
    let limit = limits.messages_per_append_max;
    if (1..=limit).contains(&count) {
        return Ok(rules);
    }
    rules.invalid(field, format!("must be from 1 to {limit} messages, not {count}"));
    Err(rules.finish(()).err().unwrap_or_else(|| Problem::new(ProblemKind::InternalError, "unreachable")))
}

/// The messages for one stream as they are to be written. `ids`: of all messages of the request so far.
pub fn check_stream(
    rules: &mut Validator,
    limits: &Limits,
    headers: &AppendHeaders,
    body: StreamBody<'_>,
    ids: &mut HashSet<Uuid>,
) -> Result<StreamAppend, Problem> {
    let StreamBody { prefix, stream_name, expected_version, must_exist, messages } = body;
    let mut checked = Vec::with_capacity(messages.len());
    for (at, Object(message)) in messages.into_iter().enumerate() {
        let place = MessagePlace::InList { prefix, at };
        let message = check_message(rules, limits, place, message, &stream_name, (headers, at))?;
        if !ids.insert(message.id) {
            rules.invalid(&place.field("id"), "must differ from the ids of the other messages");
        }
        checked.push(message);
    }
    Ok(StreamAppend { stream_name, expected_version, must_exist, messages: checked })
}

pub fn check_version(rules: &mut Validator, field: &str, version: Option<i64>) {
    if version.is_some_and(|version| version < -1) {
        rules.invalid(field, "must be -1 or more");
    }
}

/// What the headers of a request give to its messages.
pub struct AppendHeaders {
    /// The idempotency key gives ids to those that have none.
    key: Option<Box<[u8]>>,
    /// Kept in the metadata of those that bring none of their own.
    trace: Option<TraceContext>,
}

impl AppendHeaders {
    pub fn of(rules: &mut Validator, headers: &HeaderMap) -> Self {
        let mut keys = headers.get_all("idempotency-key").into_iter().map(HeaderValue::as_bytes);
        let key = keys.next();
        if keys.next().is_some() {
            rules.malformed("Idempotency-Key", "must be given once");
        }
        if key.is_some_and(|key| key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX) {
            rules.invalid("Idempotency-Key", format!("must be from 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes"));
        }
        let all = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let trace = TraceContext::parse(all(trace::TRACEPARENT), all(trace::TRACESTATE));
        Self { key: key.map(Into::into), trace }
    }

    /// The span in which the request was sent, if the caller records its trace.
    pub fn span(&self) -> Option<SpanRef> {
        self.trace.as_ref().and_then(TraceContext::sampled)
    }
}

/// Where a message is in what was sent.
#[derive(Debug, Clone, Copy)]
pub enum MessagePlace<'a> {
    /// In a list `messages`, which is there in the body.
    InList { prefix: &'a str, at: usize },
    /// Alone on a line of the body.
    OnLine(u64),
}

impl MessagePlace<'_> {
    fn field(self, name: &str) -> String {
        match self {
            Self::InList { prefix, at } => format!("{prefix}messages[{at}].{name}"),
            Self::OnLine(_) => name.to_owned(),
        }
    }
}

/// The part of a message's metadata that has an index: Message DB's correlation.
#[derive(Deserialize)]
struct Correlation<'a> {
    #[serde(borrow, rename = "correlationStreamName")]
    stream_name: Option<&'a RawValue>,
}

impl Correlation<'_> {
    /// Whether the index takes the category that the metadata names, if they name one. A value that is no string counts as
    /// its text.
    fn has_short_category(metadata: &str) -> bool {
        let Ok(Correlation { stream_name: Some(value) }) = serde_json::from_str(metadata) else { return true };
        let text = serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().into());
        text.split('-').next().is_none_or(|category| category.len() <= STREAM_NAME_BYTES_MAX)
    }
}

/// The message as it is to be written; `number`: which one of the request it is.
pub fn check_message(
    rules: &mut Validator,
    limits: &Limits,
    place: MessagePlace<'_>,
    body: NewMessageBody,
    stream_name: &StreamName,
    (headers, number): (&AppendHeaders, usize),
) -> Result<NewMessage, Problem> {
    let length = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |value| value.get().len());
    let limit = limits.message_bytes_max;
    let check_length = |bytes: usize, when: &str| {
        if bytes <= limit {
            return Ok(());
        }
        let what = match place {
            MessagePlace::InList { prefix, at } => format!("{prefix}messages[{at}]"),
            MessagePlace::OnLine(number) => format!("The message on line {number}"),
        };
        let detail = format!("{what} has {bytes} bytes of data and metadata{when}; at most {limit} are allowed.");
        Err(Problem::new(ProblemKind::MessageTooLarge, detail).with("limit", limit))
    };
    let mut bytes = length(&body.data) + length(&body.metadata);
    check_length(bytes, "")?;
    if let Err(error) = check_type(&body.r#type) {
        rules.invalid(&place.field("type"), error.to_string());
    }
    for (name, value) in [("data", &body.data), ("metadata", &body.metadata)] {
        match value.as_ref().map(|value| json_text::check(value.get())) {
            Some(Ok(growth)) => bytes += growth,
            Some(Err(error)) => rules.invalid(&place.field(name), error.to_string()),
            None => {}
        }
    }
    check_length(bytes, " once its numbers are written without exponents")?;
    if let Some(metadata) = body.metadata.as_ref().filter(|metadata| metadata.get().len() > STREAM_NAME_BYTES_MAX)
        && !Correlation::has_short_category(metadata.get())
    {
        let rule = format!("must name a category of at most {STREAM_NAME_BYTES_MAX} bytes in correlationStreamName");
        rules.invalid(&place.field("metadata"), rule);
    }
    let time = body.time.and_then(|time| rules.time(&place.field("time"), Some(&time)));
    let id = body.id.or_else(|| headers.key.as_ref().map(|key| id_of_key(stream_name, key, number)));
    let text = |value: Option<Box<RawValue>>| value.map(|value| Box::<str>::from(value).into_string());
    Ok(NewMessage {
        is_client_supplied_id: id.is_some(),
        id: id.unwrap_or_else(Uuid::now_v7),
        message_type: body.r#type,
        data: text(body.data).unwrap_or_else(|| "null".into()),
        metadata: match &headers.trace {
            Some(trace) => trace.keep_in(text(body.metadata)),
            None => text(body.metadata),
        },
        time,
    })
}

/// The id of a message that has none, made from the stream, the idempotency key and its place in the request.
fn id_of_key(stream_name: &StreamName, key: &[u8], at: usize) -> Uuid {
    let mut name = stream_name.as_str().as_bytes().to_vec();
    name.push(0);
    name.extend_from_slice(key);
    name.push(0);
    name.extend_from_slice(at.to_string().as_bytes());
    Uuid::new_v5(&IDEMPOTENCY_NAMESPACE, &name)
}
