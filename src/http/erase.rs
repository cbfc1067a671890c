//! Erasing a message over HTTP.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{NoBody, Path, Query};
use super::page_bodies::Message;
use super::pages::{json, message_id};
use super::parameters::Validator;
use super::problem::{Problem, ProblemKind, capitalised};
use super::{App, tags};
use crate::service::erase::{EraseError, REASON_BYTES_MAX};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EraseQuery {
    /// Why: kept with the message.
    #[param(min_length = 1, max_length = 1000, example = "request 4711")]
    reason: Option<String>,
}

/// Erase a message
///
/// Its data and metadata are gone for good, and are `null` in every read from then on; its place, id, type and time stay,
/// and `erased` says when and why. Done again it changes nothing, and answers the same.
#[utoipa::path(
    delete, path = "/v1/messages/{id}", operation_id = "eraseMessage", tag = tags::RETAIN,
    params(("id" = Uuid, Path, description = "Id of a message"), EraseQuery),
    responses((status = 200, description = "What is left of the message", body = Message)),
)]
pub async fn erase_message(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(EraseQuery { reason }): Query<EraseQuery>,
    NoBody: NoBody,
) -> Result<Response, Problem> {
    let id = message_id(&id)?;
    let mut rules = Validator::default();
    if let Some(reason) = &reason {
        if !(1..=REASON_BYTES_MAX).contains(&reason.len()) {
            rules.invalid("reason", format!("must be from 1 to {REASON_BYTES_MAX} bytes"));
        }
        if reason.contains('\0') {
            rules.invalid("reason", "must not contain the NUL character");
        }
    }
    rules.finish(())?;
    Ok(json(app.eraser.erase(id, reason.as_deref()).await?.json().clone()))
}

impl From<EraseError> for Problem {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::NotFound { id } => Problem::not_found(format!("message {id}")),
            EraseError::MissingRight => {
                Problem::new(ProblemKind::InternalError, format!("{}.", capitalised(&error.to_string())))
            }
            EraseError::Store(error) => error.into(),
        }
    }
}
