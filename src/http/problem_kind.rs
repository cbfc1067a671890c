//! The closed list of problems, and what each means.

use axum::http::StatusCode;
use serde::Serialize;

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
    pub(super) fn facts(self) -> (&'static str, StatusCode, &'static str, &'static str) {
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
