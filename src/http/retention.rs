//! What is kept of categories, over HTTP.

use std::fmt::Write;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Json, NoBody, Object, Path, Query};
use super::pages::NoQuery;
use super::parameters::{Validator, category};
use super::problem::Problem;
use super::trim::yes;
use super::{App, tags};
use crate::domain::duration;
use crate::domain::stream_name::Category;
use crate::domain::time::Timestamp;
use crate::service::retention::{Retention, StoredRetention};

/// The bounds of `max_age`.
const AGE_MIN: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3_600);
/// How many retentions are in `/metrics`.
const MEASURED_MAX: i64 = 1_000;

/// What is kept of a category: messages that are older, or more than that, are trimmed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetentionRequest)]
pub struct RetentionBody {
    /// The longest that a message is kept, such as `30d` or `12h`.
    #[serde(default)]
    #[schema(example = "30d")]
    max_age: Option<String>,
    /// How many messages of the category are kept.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_count: Option<i64>,
    /// Messages stay that a subscription has not acked.
    #[serde(default = "yes")]
    #[schema(default = true)]
    unless_unacked: bool,
}

/// What is kept of a category, and what was trimmed for that.
#[derive(Serialize, ToSchema)]
pub struct CategoryRetention {
    category: String,
    #[schema(required = true, example = "30d")]
    max_age: Option<String>,
    #[schema(required = true)]
    max_count: Option<i64>,
    unless_unacked: bool,
    /// How many messages it has trimmed.
    trimmed: i64,
    /// When it trimmed messages last; null if it has not.
    #[schema(required = true, format = DateTime)]
    last_trimmed_at: Option<String>,
    /// When it looked for some last; null if it has not.
    #[schema(required = true, format = DateTime)]
    last_run_at: Option<String>,
    /// The time of the category's oldest message; null if it has none.
    #[schema(required = true, format = DateTime)]
    oldest_time: Option<String>,
}

/// The retentions.
#[derive(Serialize, ToSchema)]
pub struct CategoryRetentions {
    retentions: Vec<CategoryRetention>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RetentionsQuery {
    /// Only categories after this one.
    after: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

impl From<StoredRetention> for CategoryRetention {
    fn from(stored: StoredRetention) -> Self {
        let time = |time: Option<Timestamp>| time.map(Timestamp::to_rfc3339);
        let Retention { max_age, max_count, unless_unacked } = stored.retention;
        Self {
            category: stored.category,
            max_age: max_age.map(duration::text),
            max_count,
            unless_unacked,
            trimmed: stored.trimmed,
            last_trimmed_at: time(stored.last_trimmed_at),
            last_run_at: time(stored.last_run_at),
            oldest_time: time(stored.oldest_time),
        }
    }
}

/// Set the retention of a category
///
/// Messages that are older than `max_age`, or more than `max_count`, are trimmed in the background, in small steps. The
/// newest message of each stream always stays.
#[utoipa::path(
    put, path = "/v1/categories/{category}/retention", operation_id = "setRetention", tag = tags::RETAIN,
    params(("category" = String, Path, description = "Name of a category: without `-`")),
    request_body = RetentionBody, responses((status = 200, body = CategoryRetention)),
)]
pub async fn set(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<RetentionBody>>,
) -> Result<axum::Json<CategoryRetention>, Problem> {
    let name = category(name)?;
    let mut rules = Validator::default();
    let max_age = rules.duration("max_age", body.max_age.as_deref(), AGE_MIN, AGE_MAX);
    if body.max_count.is_some_and(|count| count < 1) {
        rules.invalid("max_count", "must be 1 or more");
    }
    if body.max_age.is_none() && body.max_count.is_none() {
        rules.invalid("max_age", "must be given, or max_count, or both");
    }
    let (max_count, unless_unacked) = (body.max_count, body.unless_unacked);
    let retention = rules.finish(Retention { max_age, max_count, unless_unacked })?;
    let stored = app.retentions.set(name.as_str(), &retention).await?;
    Ok(axum::Json(stored.ok_or_else(|| unknown(name.as_str()))?.into()))
}

/// Read the retention of a category
#[utoipa::path(
    get, path = "/v1/categories/{category}/retention", operation_id = "readRetention", tag = tags::RETAIN,
    params(("category" = String, Path, description = "Name of a category: without `-`")),
    responses((status = 200, body = CategoryRetention)),
)]
pub async fn read(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<CategoryRetention>, Problem> {
    let name = category(name)?;
    Ok(axum::Json(app.retentions.get(name.as_str()).await?.ok_or_else(|| unknown(name.as_str()))?.into()))
}

/// End the retention of a category
///
/// From then on nothing of it is trimmed.
#[utoipa::path(
    delete, path = "/v1/categories/{category}/retention", operation_id = "deleteRetention", tag = tags::RETAIN,
    params(("category" = String, Path, description = "Name of a category: without `-`")),
    responses((status = 204, description = "Done")),
)]
pub async fn delete(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<StatusCode, Problem> {
    let name = category(name)?;
    match app.retentions.delete(name.as_str()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(name.as_str())),
    }
}

/// List the retentions of categories
///
/// In order of name; categories without a retention keep everything, and are not in it.
#[utoipa::path(
    get, path = "/v1/retentions", operation_id = "listRetentions", tag = tags::RETAIN,
    params(RetentionsQuery), responses((status = 200, body = CategoryRetentions)),
)]
pub async fn list(
    State(app): State<App>,
    Query(query): Query<RetentionsQuery>,
) -> Result<axum::Json<CategoryRetentions>, Problem> {
    let mut rules = Validator::default();
    let limit = rules.limit(query.limit);
    if let Some(Err(error)) = query.after.as_deref().map(Category::parse) {
        rules.invalid("after", error.to_string());
    }
    let limit = rules.finish(limit)?;
    let stored = app.retentions.list(query.after.as_deref().unwrap_or(""), limit as i64).await?;
    let next = stored.last().filter(|_| stored.len() == limit).map(|last| last.category.clone());
    Ok(axum::Json(CategoryRetentions { retentions: stored.into_iter().map(Into::into).collect(), next }))
}

fn unknown(name: &str) -> Problem {
    Problem::not_found(format!("retention of the category {name}"))
}

/// The retentions as lines of Prometheus' text format; empty while the database is away.
pub async fn metrics(app: &App) -> String {
    let Ok(retentions) = app.retentions.list("", MEASURED_MAX).await else { return String::new() };
    let age = |time: Option<Timestamp>| time.map_or(0.0, |time| (Timestamp::now().0 - time.0) as f64 / 1e6);
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, kind, help) in [
        ("headwater_retention_trimmed_total", "counter", "Messages that the retention of a category has trimmed."),
        ("headwater_retention_last_run_age", "gauge", "Seconds since the retention of a category looked last."),
        ("headwater_retention_oldest_age", "gauge", "Age of the oldest message of a category with a retention."),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for one in &retentions {
            let value = match name {
                "headwater_retention_trimmed_total" => one.trimmed as f64,
                "headwater_retention_last_run_age" => age(one.last_run_at),
                _ => age(one.oldest_time),
            };
            let category = one.category.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(text, "{name}{{category=\"{category}\"}} {value}");
        }
    }
    text
}
