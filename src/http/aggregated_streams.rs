//! Aggregated streams over HTTP: defines, reads, pauses, rebuilds and deletes them.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::extract::{Json, NoBody, Object, Path, Query};
use super::pages::NoQuery;
use super::parameters::Validator;
use super::problem::{Problem, ProblemKind};
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::aggregated_stream::Definition;
use crate::domain::named::check_name;
use crate::service::aggregated::{AggregatedStream, DefineError, Defined, FindError};
use crate::service::auth::Caller;

/// An aggregated stream.
#[derive(Serialize, ToSchema)]
#[schema(as = AggregatedStream)]
pub struct AggregatedStreamBody {
    pub name: String,
    pub definition: Definition,
    pub status: AggregatedStreamStatus,
}

/// How far an aggregated stream has been projected.
#[derive(Serialize, ToSchema)]
pub struct AggregatedStreamStatus {
    pub state: ProjectionState,
    /// Why it stopped.
    #[schema(value_type = Option<ProjectionError>, required = true)]
    pub error: Option<Box<RawValue>>,
    /// The log is settled up to this global position.
    pub settled_position: i64,
    /// Everything up to this global position has been looked at, and is in its partition if it belongs to one.
    pub projected_position: i64,
    /// `settled_position` less `projected_position`, in positions.
    pub lag: i64,
    /// Messages that could not be placed and were skipped.
    pub skipped: i64,
    /// Messages that could not be placed and went to the partition of `on_error`.
    pub substituted: i64,
    /// The projection that will replace this one, while it is made.
    #[schema(required = true)]
    pub rebuild: Option<RebuildStatus>,
    /// How many keys there are, of a keyed aggregated stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, minimum = 0)]
    pub key_count: Option<i32>,
    /// The partitions that have messages, in order. Not given in a list, and empty for a keyed aggregated stream, which may
    /// have millions: `keys` lists these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub partitions: Option<Vec<PartitionStatus>>,
}

/// How far a rebuild has come.
#[derive(Serialize, ToSchema)]
pub struct RebuildStatus {
    pub state: ProjectionState,
    #[schema(value_type = Option<ProjectionError>, required = true)]
    pub error: Option<Box<RawValue>>,
    pub projected_position: i64,
}

/// What a projection does.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionState {
    /// It projects what was in the log before.
    CatchingUp,
    /// It projects messages as they come.
    Live,
    /// It has stopped before a message that it cannot place.
    Stopped,
    Paused,
}

/// The message before which a projection has stopped, and why.
#[derive(ToSchema)]
#[allow(dead_code)] // described only: the database keeps it
pub struct ProjectionError {
    pub global_position: i64,
    pub message_id: uuid::Uuid,
    pub stream_name: String,
    pub reason: String,
}

/// A partition that has messages.
#[derive(Serialize, ToSchema)]
pub struct PartitionStatus {
    pub partition: i32,
    pub message_count: i64,
    /// One less than `message_count`.
    pub last_position: i64,
    pub last_global_position: i64,
    #[schema(format = DateTime)]
    pub last_time: String,
}

/// Aggregated streams by name.
#[derive(Serialize, ToSchema)]
pub struct AggregatedStreamList {
    pub aggregated_streams: Vec<AggregatedStreamBody>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AggregatedStreamQuery {
    /// Waits until everything up to this global position is projected, for as long as `wait` says. The status shows
    /// whether it was.
    #[param(minimum = 0)]
    min_position: Option<i64>,
    /// How long to wait for `min_position`, such as `5s`.
    #[param(example = "5s")]
    wait: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NamesQuery {
    /// Only names after this one.
    after: Option<String>,
    /// How many aggregated streams at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// Define an aggregated stream
///
/// All messages that exist are put into its partitions, then those that come. A definition never changes: delete the
/// aggregated stream to define another one under its name.
#[utoipa::path(
    put, path = "/v1/aggregated-streams/{name}", operation_id = "defineAggregatedStream", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "1 to 200 bytes without control characters")),
    request_body = Definition,
    responses(
        (status = 201, description = "Defined", body = AggregatedStreamBody),
        (status = 200, description = "It existed already, with the same definition", body = AggregatedStreamBody),
        (status = 409, description = "definition-differs", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn define(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(definition)): Json<Object<Definition>>,
) -> Result<(StatusCode, axum::Json<AggregatedStreamBody>), Problem> {
    aggregated_stream_name(&name)?;
    match app.aggregated.define(&name, &definition, &caller).await {
        Ok(Defined::New(stream)) => Ok((StatusCode::CREATED, axum::Json(to_body(stream, true)?))),
        Ok(Defined::Same(stream)) => Ok((StatusCode::OK, axum::Json(to_body(stream, true)?))),
        Err(error) => Err(refused(&name, error)),
    }
}

/// Read an aggregated stream's definition and status
#[utoipa::path(
    get, path = "/v1/aggregated-streams/{name}", operation_id = "readAggregatedStream", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream"), AggregatedStreamQuery),
    responses((status = 200, body = AggregatedStreamBody)),
)]
pub async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<AggregatedStreamQuery>,
) -> Result<axum::Json<AggregatedStreamBody>, Problem> {
    aggregated_stream_name(&name)?;
    let mut rules = Validator::default();
    let wait = rules.wait_for(query.min_position, query.wait.as_deref(), app.limits.wait_max);
    let wait = rules.finish(wait)?;
    let stream = match query.min_position {
        Some(position) => app.aggregated.read_at(&name, caller.rights(), position, wait).await?,
        None => app.aggregated.read(&name, caller.rights()).await?,
    };
    to_body(stream, true).map(axum::Json)
}

/// List aggregated streams
#[utoipa::path(
    get, path = "/v1/aggregated-streams", operation_id = "listAggregatedStreams", tag = tags::AGGREGATE,
    params(NamesQuery), responses((status = 200, body = AggregatedStreamList)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<NamesQuery>,
) -> Result<axum::Json<AggregatedStreamList>, Problem> {
    let mut rules = Validator::default();
    let limit = rules.limit(query.limit);
    let after = rules.after(query.after);
    let after = rules.finish(after)?;
    let mut found = app.aggregated.list(&after, limit + 1, caller.rights()).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| last.stored.name.clone());
    let aggregated_streams = found.into_iter().map(|stream| to_body(stream, false)).collect::<Result<_, _>>()?;
    Ok(axum::Json(AggregatedStreamList { aggregated_streams, next }))
}

/// Delete an aggregated stream
///
/// Its followers get the event `closing`. The messages themselves stay in their streams.
#[utoipa::path(
    delete, path = "/v1/aggregated-streams/{name}", operation_id = "deleteAggregatedStream", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream")),
    responses((status = 204, description = "Deleted")),
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<StatusCode, Problem> {
    aggregated_stream_name(&name)?;
    app.aggregated.delete(&name, caller.rights()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause an aggregated stream
///
/// After the answer nothing more is projected until it is resumed. What was projected can be read.
#[utoipa::path(
    post, path = "/v1/aggregated-streams/{name}/pause", operation_id = "pauseAggregatedStream", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream")),
    responses((status = 200, body = AggregatedStreamBody)),
)]
pub async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<axum::Json<AggregatedStreamBody>, Problem> {
    aggregated_stream_name(&name)?;
    app.aggregated.pause(&name, caller.rights()).await?;
    to_body(app.aggregated.read(&name, caller.rights()).await?, true).map(axum::Json)
}

/// Resume an aggregated stream that was paused, or that stopped at a message
#[utoipa::path(
    post, path = "/v1/aggregated-streams/{name}/resume", operation_id = "resumeAggregatedStream", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream")),
    responses((status = 200, body = AggregatedStreamBody)),
)]
pub async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<axum::Json<AggregatedStreamBody>, Problem> {
    aggregated_stream_name(&name)?;
    app.aggregated.resume(&name, caller.rights()).await?;
    to_body(app.aggregated.read(&name, caller.rights()).await?, true).map(axum::Json)
}

/// Rebuild an aggregated stream from the beginning of the log
///
/// Readers see the old projection until the new one has caught up; then they see that one, from the same global position
/// on. Positions in partitions differ from the old ones only if messages were deleted or changed, or if the partitioner
/// can place messages that it could not place before.
#[utoipa::path(
    post, path = "/v1/aggregated-streams/{name}/rebuild", operation_id = "rebuildAggregatedStream",
    tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream")),
    responses((status = 200, body = AggregatedStreamBody)),
)]
pub async fn rebuild(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<axum::Json<AggregatedStreamBody>, Problem> {
    aggregated_stream_name(&name)?;
    app.aggregated.rebuild(&name, caller.rights()).await?;
    to_body(app.aggregated.read(&name, caller.rights()).await?, true).map(axum::Json)
}

pub(super) fn aggregated_stream_name(name: &str) -> Result<(), Problem> {
    check_name(name).map_err(|rule| Problem::invalid(vec![Violation::new("name", rule)]))
}

fn refused(name: &str, error: DefineError) -> Problem {
    match error {
        DefineError::Invalid(violations) => Problem::invalid(violations),
        DefineError::Differs(fields) => {
            let detail = format!(
                "The aggregated stream {name} exists with another definition; these fields differ: {}.",
                fields.join(", ")
            );
            Problem::new(ProblemKind::DefinitionDiffers, detail).with("fields", fields)
        }
        DefineError::Forbidden(missing) => missing.into(),
        DefineError::TooMany { .. } | DefineError::TooManyOfCredential { .. } => {
            Problem::invalid(vec![Violation::new("name", format!("cannot be created: {error}"))])
        }
        DefineError::Store(error) => error.into(),
    }
}

impl From<FindError> for Problem {
    fn from(error: FindError) -> Self {
        match error {
            FindError::NotFound { name } => Problem::not_found(format!("aggregated stream {name}")),
            FindError::Forbidden(missing) => missing.into(),
            FindError::Store(error) => error.into(),
        }
    }
}

fn to_body(stream: AggregatedStream, with_partitions: bool) -> Result<AggregatedStreamBody, Problem> {
    let definition = stream.definition()?;
    let settled_position = stream.settled_position;
    let partitions = stream.partitions.iter().map(|one| PartitionStatus {
        partition: one.partition,
        message_count: one.message_count,
        last_position: one.message_count - 1,
        last_global_position: one.last_global_position,
        last_time: one.last_time.to_rfc3339(),
    });
    let partitions = with_partitions.then(|| partitions.collect());
    let stored = stream.stored;
    let state = |is_live: bool, error: &Option<String>| match (stored.is_paused, error) {
        (true, _) => ProjectionState::Paused,
        (false, Some(_)) => ProjectionState::Stopped,
        (false, None) if is_live => ProjectionState::Live,
        (false, None) => ProjectionState::CatchingUp,
    };
    // The database has it as JSON already.
    let raw = |error: Option<String>| error.and_then(|error| RawValue::from_string(error).ok());
    let current = stored.current;
    Ok(AggregatedStreamBody {
        status: AggregatedStreamStatus {
            state: state(current.is_live, &current.error),
            settled_position,
            projected_position: current.projected_position,
            lag: settled_position - current.projected_position,
            skipped: current.skipped,
            substituted: current.substituted,
            error: raw(current.error),
            rebuild: stored.rebuild.map(|rebuild| RebuildStatus {
                state: state(false, &rebuild.error),
                projected_position: rebuild.projected_position,
                error: raw(rebuild.error),
            }),
            key_count: definition.is_keyed().then_some(current.key_count),
            partitions,
        },
        name: stored.name,
        definition,
    })
}
