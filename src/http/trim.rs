//! Trimming a stream over HTTP.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Json, Object, Path, Query};
use super::pages::NoQuery;
use super::parameters::{Validator, stream_name};
use super::problem::{Problem, ProblemKind, capitalised};
use super::{App, tags};
use crate::service::trim::{Oldest, TrimError};

/// Which of the oldest messages go: exactly one of the first three says so.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TrimRequest)]
pub struct TrimBody {
    /// Messages before this position.
    #[serde(default)]
    #[schema(minimum = 0, example = 1000)]
    before_position: Option<i64>,
    /// Messages before the first one of this time or later (RFC 3339).
    #[serde(default)]
    #[schema(format = DateTime)]
    before_time: Option<String>,
    /// All messages but the newest so many.
    #[serde(default)]
    #[schema(minimum = 1)]
    keep_last: Option<i64>,
    /// Messages stay that a subscription has not acked, with those after them.
    #[serde(default = "yes")]
    #[schema(default = true)]
    unless_unacked: bool,
}

/// What a trim has done.
#[derive(Serialize, ToSchema)]
pub struct TrimResult {
    /// How many messages were deleted.
    trimmed: i64,
    /// The position of the first message that is left.
    first_position: i64,
    /// Messages that were to go stay, because a subscription has not acked them.
    kept_unacked: bool,
    /// False: there was not time enough for all of them; the same request goes on.
    is_complete: bool,
}

pub(super) fn yes() -> bool {
    true
}

/// Trim a stream
///
/// Deletes its oldest messages, in small steps that no append waits for. Positions stay as they were; the newest message always
/// stays, because the version of a stream is its position.
#[utoipa::path(
    post, path = "/v1/streams/{stream_name}/trim", operation_id = "trimStream", tag = tags::RETAIN,
    params(("stream_name" = String, Path, description = "Name of a stream")),
    request_body = TrimBody,
    responses((status = 200, body = TrimResult)),
)]
pub async fn trim_stream(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<TrimBody>>,
) -> Result<axum::Json<TrimResult>, Problem> {
    let name = stream_name(name)?;
    let mut rules = Validator::default();
    if body.before_position.is_some_and(|position| position < 0) {
        rules.invalid("before_position", "must be 0 or more");
    }
    if body.keep_last.is_some_and(|count| count < 1) {
        rules.invalid("keep_last", "must be 1 or more: the newest message always stays");
    }
    let time = rules.time("before_time", body.before_time.as_deref());
    let oldest = match (body.before_position, body.before_time.is_some(), body.keep_last) {
        (Some(position), false, None) => Some(Oldest::BeforePosition(position)),
        (None, true, None) => time.map(Oldest::BeforeTime),
        (None, false, Some(count)) => Some(Oldest::KeepLast(count)),
        _ => {
            rules.invalid("before_position", "must be given, or before_time, or keep_last: exactly one of them");
            None
        }
    };
    // Without it, something was wrong.
    let oldest = rules.finish(oldest)?.unwrap_or(Oldest::BeforePosition(0));
    let done = app.trimmer.trim(&name, oldest, body.unless_unacked).await?;
    Ok(axum::Json(TrimResult {
        trimmed: done.trimmed,
        first_position: done.first_position,
        kept_unacked: done.kept_unacked,
        is_complete: done.is_complete,
    }))
}

/// A read from a position whose message was trimmed.
pub(super) fn trimmed(first_position: i64) -> Problem {
    let detail = format!("Messages before position {first_position} were trimmed.");
    Problem::new(ProblemKind::PositionTrimmed, detail).with("first_position", first_position)
}

impl From<TrimError> for Problem {
    fn from(error: TrimError) -> Self {
        match error {
            TrimError::NotFound { stream_name } => Problem::not_found(format!("stream {stream_name}")),
            TrimError::MissingRight => {
                Problem::new(ProblemKind::InternalError, format!("{}.", capitalised(&error.to_string())))
            }
            TrimError::Store(error) => error.into(),
        }
    }
}
