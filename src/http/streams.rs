//! Appending to a stream.

use std::collections::HashSet;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::append_sessions::{self, AppendLine, AppendSessionLine};
use super::extract::{Json, Object, Path, Query};
use super::pages::NoQuery;
use super::parameters::{Validator, stream_name};
use super::problem::{Outcome, Problem, ProblemKind, capitalised};
use super::{App, Limits, body, tags};
use crate::domain::Violation;
use crate::domain::append::{AppendError, AppendRequest, Appended, LockHolder, NewMessage, WrittenMessage};
use crate::domain::json_text;
use crate::domain::stream_name::{StreamName, check_type};

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
    #[schema(value_type = Option<Value>, example = json!({"amount": 5}))]
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
        ("Idempotency-Key" = Option<String>, Header, description = "Any text; gives ids to messages that have none", min_length = 1, max_length = 1000)),
    request_body(content((AppendBody = "application/json"), (AppendLine = "application/x-ndjson"))),
    responses(
        (status = 201, description = "Written, durably", body = AppendResult),
        (status = 200, description = "Written before: the first result again; or an append session", content((AppendResult = "application/json"), (AppendSessionLine = "application/x-ndjson"))),
        (status = 409, description = "wrong-expected-version or message-id-reused", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "body-too-large or message-too-large", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "unsupported-media-type", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn append_messages(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    request: Request,
) -> Result<Response, Problem> {
    if body::is_lines(request.headers()) {
        return append_sessions::respond(&app, stream_name(name)?, request).await;
    }
    if !body::is_json(request.headers()) {
        return Err(body::not_json(true));
    }
    let headers = request.headers().clone();
    let Json(Object(body)) = Json::<Object<AppendBody>>::from_request(request, &app).await?;
    let request = check(&app, stream_name(name)?, &headers, body)?;
    let stream_name = request.stream_name.as_str().to_owned();
    let Appended { version, duplicate, messages } = app.append.append(request).await?;
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let messages = messages.iter().map(AppendedMessage::from).collect();
    Ok((status, axum::Json(AppendResult { stream_name, version, duplicate, messages })).into_response())
}

fn check(app: &App, stream_name: StreamName, headers: &HeaderMap, body: AppendBody) -> Result<AppendRequest, Problem> {
    let mut rules = Validator::default();
    check_version(&mut rules, body.expected_version);
    let count = body.messages.len();
    let limit = app.limits.messages_per_append_max;
    if !(1..=limit).contains(&count) {
        rules.invalid("messages", format!("must be from 1 to {limit} messages, not {count}"));
        return rules.finish(()).and(Err(Problem::new(ProblemKind::InternalError, "unreachable")));
    }
    let key = idempotency_key(&mut rules, headers);
    let mut ids = HashSet::new();
    let mut messages = Vec::with_capacity(count);
    for (at, Object(message)) in body.messages.into_iter().enumerate() {
        let key = key.map(|key| (key, at));
        let message = check_message(&mut rules, &app.limits, Place::InList(at), message, &stream_name, key)?;
        if !ids.insert(message.id) {
            rules.invalid(&format!("messages[{at}].id"), "must differ from the ids of the other messages");
        }
        messages.push(message);
    }
    let request =
        AppendRequest { stream_name, expected_version: body.expected_version, must_exist: body.must_exist, messages };
    rules.finish(request)
}

pub fn check_version(rules: &mut Validator, expected_version: Option<i64>) {
    if expected_version.is_some_and(|version| version < -1) {
        rules.invalid("expected_version", "must be -1 or more");
    }
}

pub fn idempotency_key<'a>(rules: &mut Validator, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let key = headers.get("idempotency-key").map(HeaderValue::as_bytes);
    if key.is_some_and(|key| key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX) {
        rules.invalid("Idempotency-Key", format!("must be from 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes"));
    }
    key
}

/// Where a message is in what was sent.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// In the list `messages`.
    InList(usize),
    /// Alone on a line of the body.
    OnLine(u64),
}

impl Place {
    fn field(self, name: &str) -> String {
        match self {
            Self::InList(at) => format!("messages[{at}].{name}"),
            Self::OnLine(_) => name.to_owned(),
        }
    }
}

/// The message as it is to be written. `key` gives an id to one that has none, by its number.
pub fn check_message(
    rules: &mut Validator,
    limits: &Limits,
    place: Place,
    body: NewMessageBody,
    stream_name: &StreamName,
    key: Option<(&[u8], usize)>,
) -> Result<NewMessage, Problem> {
    let length = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |value| value.get().len());
    let (bytes, limit) = (length(&body.data) + length(&body.metadata), limits.message_bytes_max);
    if bytes > limit {
        let what = match place {
            Place::InList(at) => format!("messages[{at}]"),
            Place::OnLine(number) => format!("The message on line {number}"),
        };
        let detail = format!("{what} has {bytes} bytes of data and metadata; at most {limit} are allowed.");
        return Err(Problem::new(ProblemKind::MessageTooLarge, detail).with("limit", limit));
    }
    if let Err(error) = check_type(&body.r#type) {
        rules.invalid(&place.field("type"), error.to_string());
    }
    for (name, value) in [("data", &body.data), ("metadata", &body.metadata)] {
        if let Some(Err(error)) = value.as_ref().map(|value| json_text::check(value.get())) {
            rules.invalid(&place.field(name), error.to_string());
        }
    }
    let time = body.time.and_then(|time| rules.time(&place.field("time"), Some(&time)));
    let id = body.id.or_else(|| key.map(|(key, number)| id_of_key(stream_name, key, number)));
    let text = |value: Option<Box<RawValue>>| value.map(|value| Box::<str>::from(value).into_string());
    Ok(NewMessage {
        is_client_supplied_id: id.is_some(),
        id: id.unwrap_or_else(Uuid::now_v7),
        message_type: body.r#type,
        data: text(body.data).unwrap_or_else(|| "null".into()),
        metadata: text(body.metadata),
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

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            AppendError::WrongExpectedVersion { stream_name, expected_version, current_version } => {
                Problem::new(ProblemKind::WrongExpectedVersion, detail)
                    .with("stream_name", stream_name)
                    .with("expected_version", expected_version)
                    .with("current_version", current_version)
            }
            AppendError::MessageIdReused { message_id, stream_name, position } => {
                Problem::new(ProblemKind::MessageIdReused, detail)
                    .with("message_id", message_id.to_string())
                    .with("stream_name", stream_name)
                    .with("position", position)
            }
            AppendError::Refused { message } => Problem::invalid(vec![Violation::new("messages", message)]),
            AppendError::Overloaded | AppendError::Contended { .. } | AppendError::TooManySessions { .. } => {
                Problem::new(ProblemKind::Overloaded, detail)
            }
            AppendError::Locked { category, holders } => {
                let process = |holder: &LockHolder| match holder {
                    LockHolder::Process(pid) => Some(*pid),
                    LockHolder::Prepared(_) => None,
                };
                Problem::new(ProblemKind::Overloaded, detail)
                    .with("category", category)
                    .with("holder_pids", holders.iter().filter_map(process).collect::<Vec<_>>())
            }
            AppendError::LaneFull { category } => {
                Problem::new(ProblemKind::Overloaded, detail).with("category", category)
            }
            AppendError::WriteRefused | AppendError::Failed => {
                Problem::new(ProblemKind::InternalError, detail).with("outcome", json!(Outcome::NotWritten))
            }
            AppendError::DatabaseUnavailable => {
                Problem::new(ProblemKind::DatabaseUnavailable, detail).with("outcome", json!(Outcome::NotWritten))
            }
            AppendError::OutcomeUnknown { message_ids } => {
                let ids: Vec<String> = message_ids.iter().map(ToString::to_string).collect();
                Problem::new(ProblemKind::DatabaseUnavailable, detail)
                    .with("outcome", json!(Outcome::Unknown))
                    .with("message_ids", ids)
            }
            AppendError::Draining => Problem::new(ProblemKind::Draining, detail),
        }
    }
}
