//! Problem documents (RFC 9457): the form of every error that leaves the service.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::append_problems::AppendFailure;
use super::openapi::ProblemType;
pub use super::problem_kind::ProblemKind;
use crate::domain::Violation;
use crate::domain::observation::FailureKind;
use crate::domain::scope::Missing;
use crate::domain::secret::without_secrets;
use crate::service::ServiceError;
use crate::service::read::PlaceError;

/// Seconds after which a refused request may be tried again.
pub const RETRY_AFTER_SECONDS: u32 = 1;
/// How many broken rules a problem lists, and how long a field's name and a message may be: all may repeat what was sent.
const VIOLATIONS_MAX: usize = 100;
const FIELD_BYTES_MAX: usize = 200;
const MESSAGE_BYTES_MAX: usize = 2_000;

/// A problem document on its way out.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    facts: Map<String, Value>,
    /// What the database said, for the log and the metrics.
    failure: Option<Arc<ServiceError>>,
}

/// An extension of an answer that is taken off before it leaves the service: what the database said.
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
    /// For `wrong-expected-version`; null if only `must_exist` was asked for.
    #[schema(required = false)]
    pub expected_version: Option<i64>,
    /// For `wrong-expected-version`: the version that the stream has.
    #[schema(required = false, nullable = false)]
    pub current_version: Option<i64>,
    /// For `condition-failed`: which of the conditions is the first that does not hold, from 0. One on a stream has
    /// `stream_name`, `expected_version` and `current_version`, one with a query the `position` of the first match.
    #[schema(required = false, nullable = false)]
    pub condition: Option<usize>,
    /// For an append to several streams: all versions and conditions that do not hold.
    #[schema(required = false, nullable = false)]
    pub failures: Option<Vec<AppendFailure>>,
    /// For `definition-differs`: the fields that differ.
    #[schema(required = false, nullable = false)]
    pub fields: Option<Vec<String>>,
    /// For `message-id-reused`: the id that exists already, in `stream_name` at `position`.
    #[schema(required = false, nullable = false)]
    pub message_id: Option<uuid::Uuid>,
    #[schema(required = false, nullable = false)]
    pub position: Option<i64>,
    /// For `history-changed`: where the log, or the stream, ends now; `position` is the position of the cursor.
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
    /// For requests that are too large: the limit, in bytes or header lines. For `rate-limited`: the credential's limit.
    #[schema(required = false, nullable = false)]
    pub limit: Option<u64>,
    /// For `unsupported-media-type`.
    #[schema(required = false, nullable = false)]
    pub accepted: Option<Vec<String>>,
    /// For `forbidden`: the scope that is missing.
    #[schema(required = false, nullable = false, example = "read:order-1")]
    pub scope: Option<String>,
    /// For `forbidden` and `overloaded`: the setting that allows it, or more of it.
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
    /// In an append session: the first line of the body, from 1 on, whose message is not known to be written.
    #[schema(required = false, nullable = false)]
    pub line: Option<u64>,
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
        Self::new(ProblemKind::NotFound, format!("{} not found.", capitalised(&what))).with("what", what)
    }

    /// A problem `not-found` with its reason.
    pub fn gone(what: impl Into<String>, reason: &str) -> Self {
        let what = what.into();
        Self::new(ProblemKind::NotFound, format!("{} not found: {reason}.", capitalised(&what))).with("what", what)
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
        let document = Value::Object(document).to_string();
        // A name that a problem repeats may be a key that somebody put in its place.
        match without_secrets(&document) {
            Cow::Borrowed(_) => document,
            Cow::Owned(clean) => clean,
        }
    }

    fn with_errors(kind: ProblemKind, mut errors: Vec<Violation>) -> Self {
        errors.truncate(VIOLATIONS_MAX);
        for Violation { field, message } in &mut errors {
            shorten(field, FIELD_BYTES_MAX);
            shorten(message, MESSAGE_BYTES_MAX);
        }
        let detail = errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect::<Vec<_>>();
        let errors: Vec<Value> =
            errors.into_iter().map(|error| json!({ "field": error.field, "message": error.message })).collect();
        Self::new(kind, format!("{}.", detail.join("; "))).with("errors", errors)
    }
}

/// Cuts a text that repeats what the client has sent.
fn shorten(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
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
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl From<Missing> for Problem {
    fn from(missing: Missing) -> Self {
        let Missing(scope) = missing;
        let detail = format!("The credential does not allow this: the scope {scope} is missing.");
        Problem::new(ProblemKind::Forbidden, detail).with("scope", scope.to_string())
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
            FailureKind::Outage => Problem::new(ProblemKind::DatabaseUnavailable, "The database is unavailable."),
            FailureKind::Refused if error.may_pass() => Problem::new(
                ProblemKind::DatabaseUnavailable,
                "The database could not carry this out, and may at the next attempt; the service's log has the details.",
            ),
            FailureKind::Refused => Problem::new(
                ProblemKind::InternalError,
                "The database refused a statement of the service; the service's log has the details.",
            ),
            FailureKind::Bug => Problem::new(
                ProblemKind::InternalError,
                "The database's answer cannot be read; the service's log has the details.",
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
    fn what_the_database_may_do_at_the_next_attempt_is_no_internal_error() {
        let problem = |code: &str| Problem::from(ServiceError::Refused { code: code.into(), message: "x".into() }).kind;
        for code in ["57014", "53100", "53200", "40001", "40P01"] {
            assert_eq!(problem(code), ProblemKind::DatabaseUnavailable, "{code}");
        }
        assert_eq!(problem("42501"), ProblemKind::InternalError);
    }

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
