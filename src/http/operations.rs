//! Health, metrics and the pages on problems.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::extract::Path;
use super::problem::{Problem, ProblemKind};
use super::{App, retention, storage, subscriptions, tags};
use crate::build_info;
use crate::service::FUNCTIONS_VERSION;
use crate::service::tail::HistoryChanged;

/// A method that is longer is not repeated in the answer.
const METHOD_SHOWN_MAX: usize = 20;

/// Whether the service can do its work.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    /// True: the database can be reached.
    database: bool,
    /// True: the database has the service's schemas, lets the service's role read and write messages, and takes writes.
    migrations: bool,
    /// True: the connection that listens for signals is open. Without it, messages of other writers reach followers up to a
    /// second late.
    listener: bool,
    /// True: this instance projects aggregated streams, or is ready to take over.
    projector: bool,
    /// True: the end of the log can be read. Without it, followers get nothing new.
    tail: bool,
    /// The last time that this instance found the log to be another one than before: a backup was restored, a replica was
    /// promoted that had not received everything, or the log was truncated. The service works on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    history_changed: Option<HistoryChangedBody>,
}

/// When the log was found to be another one, and how.
#[derive(Serialize, ToSchema)]
#[schema(as = HistoryChanged)]
pub struct HistoryChangedBody {
    #[schema(format = DateTime)]
    since: String,
    /// `other_message`, `went_back`, `other_sequence`, `other_server`, or `told` (another instance found it).
    #[schema(example = "went_back")]
    reason: &'static str,
    /// The settled position of the former log.
    settled: i64,
    /// The last position of the new log.
    head: i64,
}

impl HistoryChangedBody {
    fn of(changed: HistoryChanged) -> Self {
        let HistoryChanged { at, change, settled, head } = changed;
        Self { since: at.to_rfc3339(), reason: change.reason.name(), settled, head }
    }
}

/// What answers, and what it was built from.
#[derive(Serialize, ToSchema)]
pub struct Version {
    /// Of Headwater.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// What it was built from, where that is known.
    #[schema(required = true)]
    commit: Option<&'static str>,
    /// The compiler.
    rustc: &'static str,
    /// Of the functions that it brings to the database.
    functions_version: i32,
    /// The PostgreSQL in use; null as long as none has answered.
    #[schema(required = true, example = "17.2")]
    postgresql: Option<String>,
}

/// Read the version
#[utoipa::path(
    get, path = "/version", operation_id = "readVersion", tag = tags::OPERATIONS,
    responses((status = 200, body = Version)),
)]
pub async fn read_version(State(app): State<App>) -> axum::Json<Version> {
    axum::Json(Version {
        version: build_info::VERSION,
        commit: build_info::commit(),
        rustc: build_info::RUSTC,
        functions_version: FUNCTIONS_VERSION,
        postgresql: app.storage.server_version().await,
    })
}

/// Check whether the process is alive
#[utoipa::path(
    get, path = "/livez", operation_id = "isAlive", tag = tags::OPERATIONS,
    responses((status = 200, description = "It is", body = String, content_type = "text/plain")),
)]
pub async fn is_alive() -> &'static str {
    "ok\n"
}

/// Check whether the service can do its work
#[utoipa::path(
    get, path = "/readyz", operation_id = "isReady", tag = tags::OPERATIONS,
    responses((status = 200, description = "It can", body = Ready)),
)]
pub async fn is_ready(State(app): State<App>, headers: HeaderMap) -> Result<axum::Json<Ready>, Problem> {
    // A page in a browser asks too, and sends nobody elsewhere.
    if !headers.contains_key("sec-fetch-mode") {
        app.lifecycle.readiness_was_asked();
    }
    if app.lifecycle.is_leaving() {
        return Err(Problem::new(ProblemKind::Draining, "The service is shutting down."));
    }
    let found = app.health.readiness().await;
    let ready = Ready {
        database: found.database,
        migrations: found.migrations,
        listener: found.listener,
        projector: found.projector,
        tail: found.tail,
        history_changed: app.tail.history_changed().map(HistoryChangedBody::of),
    };
    if !found.is_ready() {
        return Err(
            Problem::new(ProblemKind::DatabaseUnavailable, "The service is not ready.").with("checks", json!(ready))
        );
    }
    Ok(axum::Json(ready))
}

/// Read metrics in Prometheus' text format
#[utoipa::path(
    get, path = "/metrics", operation_id = "readMetrics", tag = tags::OPERATIONS,
    responses((status = 200, body = String, content_type = "text/plain")),
)]
pub async fn read_metrics(State(app): State<App>) -> Response {
    let text = app.health.metrics()
        + &build_metric(app.storage.server_version().await.as_deref().unwrap_or_default())
        + &storage::metrics(&app).await
        + &subscriptions::metrics(&app).await
        + &retention::metrics(&app).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Always 1; what it says is in its labels.
fn build_metric(postgresql: &str) -> String {
    // A server's own text.
    let postgresql = postgresql.replace(['\\', '"', '\n'], " ");
    let (version, rustc, commit) = (build_info::VERSION, build_info::RUSTC, build_info::commit().unwrap_or_default());
    format!(
        "# HELP headwater_build_info What this instance was built from, and the PostgreSQL that it uses.\n\
         # TYPE headwater_build_info gauge\n\
         headwater_build_info{{version=\"{version}\",commit=\"{commit}\",rustc=\"{rustc}\",\
         functions_version=\"{FUNCTIONS_VERSION}\",postgresql=\"{postgresql}\"}} 1\n"
    )
}

/// Read what a problem means and what to do about it
#[utoipa::path(
    get, path = "/problems/{problem}", operation_id = "readProblemPage", tag = tags::OPERATIONS,
    params(("problem" = String, Path, description = "The last part of a problem document's `type`")),
    responses((status = 200, body = String, content_type = "text/html")),
)]
pub async fn read_problem_page(Path(slug): Path<String>) -> Result<Html<String>, Problem> {
    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.slug() == slug);
    let kind = kind.ok_or_else(|| Problem::not_found("page for this problem"))?;
    let (status, title, advice) = (kind.status().as_u16(), kind.title(), kind.advice());
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{slug}</title><link rel=\"stylesheet\" href=\"/console/page.css\">\
         <h1>{title}</h1><p><code>{slug}</code>, status {status}</p><p>{advice}</p></html>\n"
    )))
}

/// An unknown path.
pub async fn unknown_path(uri: axum::http::Uri) -> Problem {
    Problem::not_found(format!("path {}", uri.path()))
}

/// A known path with another method.
pub async fn unknown_method(method: axum::http::Method) -> Problem {
    not_allowed(&method)
}

/// A method that a path does not have: it has only those that are allowed.
pub fn allows_only(allowed: &str, method: &axum::http::Method) -> Response {
    let mut response = not_allowed(method).into_response();
    if let Ok(allowed) = allowed.parse() {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn not_allowed(method: &axum::http::Method) -> Problem {
    let method = method.as_str();
    let method = if method.len() <= METHOD_SHOWN_MAX { method } else { "given" };
    Problem::new(ProblemKind::MethodNotAllowed, format!("Method {method} is not allowed for this path."))
}

/// Answers the request for an icon, which browsers send by themselves, with none.
pub async fn no_icon() -> StatusCode {
    StatusCode::NO_CONTENT
}
