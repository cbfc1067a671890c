//! Every error that leaves the service is one of these: an RFC 9457 problem document.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::openapi::ProblemType;
use crate::domain::Violation;
use crate::domain::observation::FailureKind;
use crate::service::ServiceError;
use crate::service::read::PlaceError;

/// Seconds after which a refused request may be tried again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// The closed list of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    MalformedRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    WrongExpectedVersion,
    MessageIdReused,
    DefinitionDiffers,
    Fenced,
    HistoryChanged,
    BodyTooLarge,
    MessageTooLarge,
    UrlTooLong,
    UnsupportedMediaType,
    Invalid,
    HeadersTooLarge,
    InternalError,
    Overloaded,
    DatabaseUnavailable,
    Draining,
}

impl ProblemKind {
    pub const ALL: [ProblemKind; 20] = [
        Self::MalformedRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::WrongExpectedVersion,
        Self::MessageIdReused,
        Self::DefinitionDiffers,
        Self::Fenced,
        Self::HistoryChanged,
        Self::BodyTooLarge,
        Self::MessageTooLarge,
        Self::UrlTooLong,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::HeadersTooLarge,
        Self::InternalError,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::Draining,
    ];

    /// Its name, status, title, and what to do about it.
    fn facts(self) -> (&'static str, StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (
                "malformed-request",
                StatusCode::BAD_REQUEST,
                "The request cannot be read",
                "Its JSON or its parameters are not of the expected form. `errors` names each field and the rule.",
            ),
            Self::Forbidden => (
                "forbidden",
                StatusCode::FORBIDDEN,
                "The request may not be made from there",
                "It names a host that is not one of the service's, or it would change something and comes from a page \
                 of another origin. `setting` says which setting allows it.",
            ),
            Self::NotFound => (
                "not-found",
                StatusCode::NOT_FOUND,
                "There is no such thing",
                "The path is unknown, or what it names does not exist. `what` says which.",
            ),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The path does not take this method",
                "The header `Allow` names the methods that it takes.",
            ),
            Self::RequestTimeout => (
                "request-timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long",
                "It was not received or answered in time. An append with message ids, or with an Idempotency-Key, can be \
                 sent again without harm.",
            ),
            Self::WrongExpectedVersion => (
                "wrong-expected-version",
                StatusCode::CONFLICT,
                "The stream is at another version",
                "Somebody appended since the version was read. Read the stream again, decide again, and append with \
                 `current_version`.",
            ),
            Self::MessageIdReused => (
                "message-id-reused",
                StatusCode::CONFLICT,
                "The message id is used for something else",
                "A message with this id stands already, in another stream or with other content, or only a part of the \
                 request stands. Give new messages new ids.",
            ),
            Self::DefinitionDiffers => (
                "definition-differs",
                StatusCode::CONFLICT,
                "The name is defined in another way",
                "There is one of this name with other fields; `fields` lists them. A definition never changes: use \
                 another name, or delete the one that stands.",
            ),
            Self::Fenced => (
                "fenced",
                StatusCode::CONFLICT,
                "The lease or the delivery is somebody else's by now",
                "The partition has gone to another consumer, or the message was delivered again, since. Nothing was \
                 changed. Drop what you have of it; it is delivered again to whoever holds it.",
            ),
            Self::HistoryChanged => (
                "history-changed",
                StatusCode::CONFLICT,
                "The log is not the one that the cursor came from",
                "The message that the cursor names is another one by now, or the cursor lies beyond the end: the log was \
                 restored from a backup, a replica was promoted that had not received everything, or the log was \
                 truncated. `position` is where the cursor stands, `head` where the log ends now. Drop what was made of \
                 this log, and follow it again from `beginning`, or from a place that is right for you.",
            ),
            Self::BodyTooLarge => (
                "body-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
                "`limit` is the most bytes that a body may have. Send less at once.",
            ),
            Self::MessageTooLarge => (
                "message-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "A message is too large",
                "`limit` is the most bytes that a message's data and metadata may have together.",
            ),
            Self::UrlTooLong => (
                "url-too-long",
                StatusCode::URI_TOO_LONG,
                "The URL is too long",
                "`limit` is the most bytes that path and query may have.",
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is of another type",
                "Send JSON with `Content-Type: application/json`. `accepted` lists what is taken.",
            ),
            Self::Invalid => (
                "invalid",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The request breaks a rule",
                "It can be read, but a value is against a rule. `errors` names each field and the rule.",
            ),
            Self::HeadersTooLarge => (
                "headers-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The headers are too large",
                "There are too many header lines, or they are too long together. `limit` says how much is taken.",
            ),
            Self::InternalError => (
                "internal-error",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The service failed",
                "A fault of the service itself; its log says more. Nothing is reported as done that was not done.",
            ),
            Self::Overloaded => (
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "The service has too much to do",
                "A queue is full, there are too many followers, or another transaction holds the category. Nothing was \
                 written; try again after `Retry-After`.",
            ),
            Self::DatabaseUnavailable => (
                "database-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The database cannot be reached",
                "The service stays up and goes on by itself when the database is back. Try again after `Retry-After`; \
                 `outcome` says whether an append may have been written.",
            ),
            Self::Draining => (
                "draining",
                StatusCode::SERVICE_UNAVAILABLE,
                "The service is stopping",
                "Nothing was written. Send the request to another instance, or again after `Retry-After`.",
            ),
        }
    }

    pub fn slug(self) -> &'static str {
        self.facts().0
    }

    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    pub fn title(self) -> &'static str {
        self.facts().2
    }

    /// What it means and what to do, in one or two sentences.
    pub fn advice(self) -> &'static str {
        self.facts().3
    }
}

/// A problem document on its way out.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    facts: Map<String, Value>,
    /// What the database said, for the log and the metrics.
    failure: Option<Arc<ServiceError>>,
}

/// Goes with an answer on its way out, and is left behind there: what the database said.
#[derive(Clone)]
pub struct StoreFailure(pub Arc<ServiceError>);

/// A problem document (RFC 9457), with the facts of its problem beside these fields.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// A path that serves a short page on the problem.
    #[schema(value_type = ProblemType, example = "/problems/wrong-expected-version")]
    pub r#type: String,
    pub title: String,
    #[schema(example = 409)]
    pub status: u16,
    pub detail: String,
    /// For `malformed-request` and `invalid`: each field and the rule that it breaks.
    #[schema(required = false, nullable = false)]
    pub errors: Option<Vec<FieldError>>,
    /// For `wrong-expected-version`.
    #[schema(required = false, nullable = false)]
    pub stream_name: Option<String>,
    /// For `wrong-expected-version`; null where only `must_exist` was asked for.
    #[schema(required = false)]
    pub expected_version: Option<i64>,
    /// For `wrong-expected-version`: the version to decide by.
    #[schema(required = false, nullable = false)]
    pub current_version: Option<i64>,
    /// For `definition-differs`: the fields that differ.
    #[schema(required = false, nullable = false)]
    pub fields: Option<Vec<String>>,
    /// For `message-id-reused`: the id that stands already, in `stream_name` at `position`.
    #[schema(required = false, nullable = false)]
    pub message_id: Option<uuid::Uuid>,
    #[schema(required = false, nullable = false)]
    pub position: Option<i64>,
    /// For `history-changed`: where the log, or the stream, ends now; `position` is where the cursor stands.
    #[schema(required = false, nullable = false)]
    pub head: Option<i64>,
    /// For `fenced`.
    #[schema(required = false, nullable = false)]
    pub partition: Option<i32>,
    /// For `fenced`: the epoch that was given.
    #[schema(required = false, nullable = false)]
    pub epoch: Option<i64>,
    /// For `fenced`: the epoch that the partition, or the delivery, has now.
    #[schema(required = false)]
    pub current_epoch: Option<i64>,
    /// For what is too large: the limit, in bytes or lines.
    #[schema(required = false, nullable = false)]
    pub limit: Option<u64>,
    /// For `unsupported-media-type`.
    #[schema(required = false, nullable = false)]
    pub accepted: Option<Vec<String>>,
    /// For `forbidden`: the setting that allows it.
    #[schema(required = false, nullable = false, example = "--allowed-host")]
    pub setting: Option<String>,
    /// For `not-found`: what was not found.
    #[schema(required = false, nullable = false)]
    pub what: Option<String>,
    /// For `database-unavailable` and `internal-error` on an append: whether the messages may have been written.
    #[schema(required = false, nullable = false)]
    pub outcome: Option<Outcome>,
    /// For `outcome` `unknown`: the ids of the messages, in order. Sent again with them, a message is written once.
    #[schema(required = false, nullable = false)]
    pub message_ids: Option<Vec<uuid::Uuid>>,
    /// For `overloaded` because of a lock: the category whose appends wait.
    #[schema(required = false, nullable = false)]
    pub category: Option<String>,
    /// For `overloaded` because of a lock: PostgreSQL's processes that hold it, as far as they can be seen.
    #[schema(required = false, nullable = false)]
    pub holder_pids: Option<Vec<i32>>,
}

/// Whether an append that failed may have been written.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    NotWritten,
    Unknown,
}

/// A field and the rule that it breaks.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldError {
    #[schema(example = "messages[0].type")]
    pub field: String,
    #[schema(example = "must not be empty")]
    pub message: String,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), facts: Map::new(), failure: None }
    }

    pub fn with(mut self, fact: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(fact.into(), value.into());
        self
    }

    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The request cannot be read.
    pub fn malformed(errors: Vec<Violation>) -> Self {
        Self::with_errors(ProblemKind::MalformedRequest, errors)
    }

    /// The request can be read, but breaks rules.
    pub fn invalid(errors: Vec<Violation>) -> Self {
        Self::with_errors(ProblemKind::Invalid, errors)
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        let what = what.into();
        Self::new(ProblemKind::NotFound, format!("There is no {what}.")).with("what", what)
    }

    /// Its JSON.
    pub fn document(self) -> String {
        let (slug, status, title, _) = self.kind.facts();
        let mut document = Map::new();
        document.insert("type".into(), format!("/problems/{slug}").into());
        document.insert("title".into(), title.into());
        document.insert("status".into(), status.as_u16().into());
        document.insert("detail".into(), self.detail.into());
        document.extend(self.facts);
        Value::Object(document).to_string()
    }

    fn with_errors(kind: ProblemKind, errors: Vec<Violation>) -> Self {
        let detail = errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect::<Vec<_>>();
        let errors: Vec<Value> =
            errors.into_iter().map(|error| json!({ "field": error.field, "message": error.message })).collect();
        Self::new(kind, format!("{}.", detail.join("; "))).with("errors", errors)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let failure = self.failure.clone();
        let mut response = (status, self.document()).into_response();
        if let Some(failure) = failure {
            response.extensions_mut().insert(StoreFailure(failure));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            PlaceError::HistoryChanged { position, head } => {
                Problem::new(ProblemKind::HistoryChanged, detail).with("position", position).with("head", head)
            }
            PlaceError::Store(error) => error.into(),
        }
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let mut problem = match error.kind() {
            FailureKind::Outage => Problem::new(ProblemKind::DatabaseUnavailable, "The database cannot be reached."),
            FailureKind::Refused => Problem::new(
                ProblemKind::InternalError,
                "The database refused a statement of the service; the service's log says which and why.",
            ),
            FailureKind::Bug => Problem::new(
                ProblemKind::InternalError,
                "What the database answered cannot be read; the service's log says more.",
            ),
        };
        problem.failure = Some(Arc::new(error));
        problem
    }
}

pub fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_name_of_its_own_and_an_error_status() {
        let mut slugs: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            assert!(kind.status().is_client_error() || kind.status().is_server_error(), "{kind:?}");
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.slug());
        }
    }
}
