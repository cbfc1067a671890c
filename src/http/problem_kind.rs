//! The closed list of problems, and what each means.

use axum::http::StatusCode;
use serde::Serialize;

/// The closed list of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    MalformedRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    WrongExpectedVersion,
    MessageIdReused,
    ConditionFailed,
    DefinitionDiffers,
    Fenced,
    HistoryChanged,
    PositionTrimmed,
    BodyTooLarge,
    MessageTooLarge,
    UrlTooLong,
    UnsupportedMediaType,
    Invalid,
    HeadersTooLarge,
    InternalError,
    RateLimited,
    Overloaded,
    DatabaseUnavailable,
    Draining,
}

impl ProblemKind {
    pub const ALL: [ProblemKind; 24] = [
        Self::MalformedRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::WrongExpectedVersion,
        Self::MessageIdReused,
        Self::ConditionFailed,
        Self::DefinitionDiffers,
        Self::Fenced,
        Self::HistoryChanged,
        Self::PositionTrimmed,
        Self::BodyTooLarge,
        Self::MessageTooLarge,
        Self::UrlTooLong,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::HeadersTooLarge,
        Self::InternalError,
        Self::RateLimited,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::Draining,
    ];

    /// Its name, its status, its title, and what to do about it.
    pub(super) fn facts(self) -> (&'static str, StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => (
                "malformed-request",
                StatusCode::BAD_REQUEST,
                "Malformed request",
                "The body is not valid JSON, or a field or a parameter has the wrong form. `errors` names each field \
                and the rule that it breaks.",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                StatusCode::UNAUTHORIZED,
                "Unauthenticated",
                "The request needs a credential: `Authorization: Bearer` with an API key or a JWT, or a ticket on an \
                event stream. The one that it has is unknown, has expired, or was revoked.",
            ),
            Self::Forbidden => (
                "forbidden",
                StatusCode::FORBIDDEN,
                "Forbidden",
                "The credential does not allow this; `scope` is the scope that is missing. Or the request names a host \
                that is not one of the service's, or would change something and comes from a page of another origin; \
                `setting` is the setting that allows it.",
            ),
            Self::NotFound => (
                "not-found",
                StatusCode::NOT_FOUND,
                "Not found",
                "The path is unknown, or what it names does not exist. `what` says which.",
            ),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
                "The header `Allow` lists the methods of this path.",
            ),
            Self::RequestTimeout => (
                "request-timeout",
                StatusCode::REQUEST_TIMEOUT,
                "Request timed out",
                "The request was not received or answered in time. An append with message ids, or with an \
                Idempotency-Key, can be sent again without harm.",
            ),
            Self::WrongExpectedVersion => (
                "wrong-expected-version",
                StatusCode::CONFLICT,
                "Wrong expected version",
                "The stream is at another version: messages were appended since its version was read. Read the stream \
                again, decide again, and append with `current_version`.",
            ),
            Self::MessageIdReused => (
                "message-id-reused",
                StatusCode::CONFLICT,
                "Message id already used",
                "A message with this id exists already, in another stream or with other content, or only some messages \
                of the request exist. Give new messages new ids.",
            ),
            Self::ConditionFailed => (
                "condition-failed",
                StatusCode::CONFLICT,
                "Condition failed",
                "A condition of the append does not hold: a stream is at another version, or a message matches. \
                `failures` lists all that does not hold. Read from there on, decide again, and append with the new \
                versions and positions.",
            ),
            Self::DefinitionDiffers => (
                "definition-differs",
                StatusCode::CONFLICT,
                "Definition differs",
                "The name exists with another definition; `fields` lists the fields that differ. A definition never \
                changes: use another name, or delete the existing one.",
            ),
            Self::Fenced => (
                "fenced",
                StatusCode::CONFLICT,
                "Lease or delivery lost",
                "The partition has gone to another consumer, or the message has been delivered again. Nothing was \
                changed. Drop what you have of it; it is delivered again to the consumer that holds it now.",
            ),
            Self::HistoryChanged => (
                "history-changed",
                StatusCode::CONFLICT,
                "Log history changed",
                "The log is not the one that the cursor came from: another message is at its position now, or the \
                position lies beyond the end. The log was restored from a backup, a replica was promoted that had not \
                received everything, or the log was truncated. `position` is the position of the cursor, `head` the \
                end of the log now. Drop what was made of the earlier log, and follow again from `beginning`, or from \
                a place that is right for you.",
            ),
            Self::PositionTrimmed => (
                "position-trimmed",
                StatusCode::GONE,
                "Position trimmed",
                "The message at this position was trimmed, by a request or by the retention of its category. \
                `first_position` is the first that is left: read from there, or without `from`.",
            ),
            Self::BodyTooLarge => (
                "body-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "Request body too large",
                "`limit` is the maximum of bytes in a body. Send less at once.",
            ),
            Self::MessageTooLarge => (
                "message-too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "Message too large",
                "`limit` is the maximum of bytes in the data and metadata of a message together.",
            ),
            Self::UrlTooLong => (
                "url-too-long",
                StatusCode::URI_TOO_LONG,
                "URL too long",
                "`limit` is the maximum of bytes in path and query.",
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
                "Send JSON with `Content-Type: application/json`. `accepted` lists the media types that are accepted.",
            ),
            Self::Invalid => (
                "invalid",
                StatusCode::UNPROCESSABLE_ENTITY,
                "Validation failed",
                "The request can be read, but a value breaks a rule. `errors` names each field and the rule that it \
                breaks.",
            ),
            Self::HeadersTooLarge => (
                "headers-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "Request headers too large",
                "The request has too many header lines, or they are too long together. `limit` is the maximum.",
            ),
            Self::InternalError => (
                "internal-error",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal error",
                "The service or its database has a fault; the service's log has the details. Nothing is reported as \
                done that was not done.",
            ),
            Self::RateLimited => (
                "rate-limited",
                StatusCode::TOO_MANY_REQUESTS,
                "Limit of the credential reached",
                "The credential appends as often in a second, or has as many event streams open, as one may: `limit` says \
                how many. Nothing was written; try again after `Retry-After`.",
            ),
            Self::Overloaded => (
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests in progress",
                "A queue is full, too many connections or event streams are open, the bodies of other requests and answers \
                take the memory, or another transaction holds the lock of the category. Nothing was written; try again \
                after `Retry-After`.",
            ),
            Self::DatabaseUnavailable => (
                "database-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Database unavailable",
                "The service goes on by itself when the database is back. Try again after `Retry-After`; `outcome` says \
                whether an append may have been written.",
            ),
            Self::Draining => (
                "draining",
                StatusCode::SERVICE_UNAVAILABLE,
                "Service shutting down",
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

    /// What the problem means and what to do about it, in a few sentences.
    pub fn advice(self) -> &'static str {
        self.facts().3
    }
}
