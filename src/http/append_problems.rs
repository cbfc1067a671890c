//! Why an append was refused, as a problem document.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::problem::{Outcome, Problem, ProblemKind, capitalised};
use crate::domain::Violation;
use crate::domain::append::{AppendAck, AppendError, KeyRefusal, LockHolder, Mismatch};

/// One thing that an append demands and that does not hold: a version (of a stream that is written to, or in a
/// condition), or that no message matches.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct AppendFailure {
    /// Place in `appends`, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    append: Option<usize>,
    /// Place in `conditions`, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    condition: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    stream_name: Option<String>,
    /// Absent if only `must_exist` was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    expected_version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    current_version: Option<i64>,
    /// The global position of the first message that matches; with `head`, the position that is beyond the end of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    position: Option<i64>,
    /// The end of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    head: Option<i64>,
}

impl AppendFailure {
    fn of(mismatch: &Mismatch) -> Self {
        match mismatch.clone() {
            Mismatch::Version { append, stream_name, expected_version, current_version } => Self {
                append: Some(append),
                stream_name: Some(stream_name),
                expected_version,
                current_version: Some(current_version),
                ..Self::default()
            },
            Mismatch::Condition { condition, stream_name, expected_version, current_version } => Self {
                condition: Some(condition),
                stream_name: Some(stream_name),
                expected_version: Some(expected_version),
                current_version: Some(current_version),
                ..Self::default()
            },
            Mismatch::Match { condition, position } => {
                Self { condition: Some(condition), position: Some(position), ..Self::default() }
            }
            Mismatch::BeyondEnd { condition, after, head } => {
                Self { condition: Some(condition), position: Some(after), head: Some(head), ..Self::default() }
            }
        }
    }
}

/// The problem of a request with conditions: it lists all that does not hold.
pub fn with_failures(error: AppendError) -> Problem {
    let failures = match &error {
        AppendError::Mismatch { mismatches } => mismatches.iter().map(AppendFailure::of).collect(),
        _ => Vec::new(),
    };
    let problem = Problem::from(error);
    if failures.is_empty() { problem } else { problem.with("failures", json!(failures)) }
}

/// A wrong version of a stream that is written to comes first, then conditions: the first of them gives the facts.
fn mismatch_problem(mismatches: &[Mismatch], detail: String) -> Problem {
    let Some(first) = mismatches.first() else { return Problem::new(ProblemKind::InternalError, detail) };
    match first {
        Mismatch::Version { stream_name, expected_version, current_version, .. } => {
            Problem::new(ProblemKind::WrongExpectedVersion, detail)
                .with("stream_name", stream_name.as_str())
                .with("expected_version", *expected_version)
                .with("current_version", *current_version)
        }
        Mismatch::Condition { condition, stream_name, expected_version, current_version } => {
            Problem::new(ProblemKind::ConditionFailed, detail)
                .with("condition", *condition)
                .with("stream_name", stream_name.as_str())
                .with("expected_version", *expected_version)
                .with("current_version", *current_version)
        }
        Mismatch::Match { condition, position } => {
            Problem::new(ProblemKind::ConditionFailed, detail).with("condition", *condition).with("position", *position)
        }
        Mismatch::BeyondEnd { condition, after, head } => Problem::new(ProblemKind::HistoryChanged, detail)
            .with("condition", *condition)
            .with("position", *after)
            .with("head", *head),
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            AppendError::Mismatch { mismatches } => mismatch_problem(&mismatches, detail),
            AppendError::Fenced { ack: AppendAck { partition, epoch, .. }, current_epoch } => {
                Problem::new(ProblemKind::Fenced, detail)
                    .with("partition", partition)
                    .with("epoch", epoch)
                    .with("current_epoch", current_epoch)
            }
            AppendError::NoSubscription { name } => Problem::not_found(format!("subscription {name}")),
            AppendError::NoKeyCondition { condition, aggregated_stream, refusal } => match refusal {
                KeyRefusal::NotFound => Problem::not_found(format!(
                    "aggregated stream {aggregated_stream} of conditions[{condition}].aggregated_stream"
                )),
                KeyRefusal::NotKeyed | KeyRefusal::Unbound | KeyRefusal::Categories(_) => {
                    let field = format!("conditions[{condition}].aggregated_stream");
                    Problem::invalid(vec![Violation::new(field, refusal.to_string())])
                }
            },
            AppendError::ConditionTooWide { condition, max } => {
                let rule = format!(
                    "is about more messages than are looked at for a request ({max}): give a position nearer to the end as \
                     `after` (of a key: wait until the aggregated stream has been projected further), or raise --append-condition-messages-max"
                );
                Problem::invalid(vec![Violation::new(format!("conditions[{condition}]"), rule)])
            }
            AppendError::MessageIdReused { message_id, stream_name, position } => {
                Problem::new(ProblemKind::MessageIdReused, detail)
                    .with("message_id", message_id.to_string())
                    .with("stream_name", stream_name)
                    .with("position", position)
            }
            AppendError::MessageIdTaken { message_id } => {
                Problem::new(ProblemKind::MessageIdReused, detail).with("message_id", message_id.to_string())
            }
            AppendError::Forbidden(missing) => missing.into(),
            AppendError::TooFast { max } | AppendError::TooManySessionsOfCredential { max } => {
                Problem::new(ProblemKind::RateLimited, detail).with("limit", max)
            }
            AppendError::Refused { message } => Problem::invalid(vec![Violation::new("messages", message)]),
            AppendError::Overloaded
            | AppendError::Contended { .. }
            | AppendError::ConditionContended
            | AppendError::TooManySessions { .. } => Problem::new(ProblemKind::Overloaded, detail),
            AppendError::Locked { category, holders } => {
                let process = |holder: &LockHolder| match holder {
                    LockHolder::Process(pid) => Some(*pid),
                    LockHolder::Prepared(_) => None,
                };
                Problem::new(ProblemKind::Overloaded, detail)
                    .with("category", category)
                    .with("holder_pids", holders.iter().filter_map(process).collect::<Vec<_>>())
            }
            AppendError::CategoryQueueFull { category } => {
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
