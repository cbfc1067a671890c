//! Keyed aggregated streams over HTTP: their keys, and the messages of a key.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Path, Query};
use super::parameters::Validator;
use super::partitions::{Asked, PartitionPage, PartitionPageQuery, page, stream};
use super::problem::Problem;
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::keyed::check_key;
use crate::service::aggregated::{FoundStream, PartitionName};
use crate::service::auth::Caller;

/// A key that has messages.
#[derive(Serialize, ToSchema)]
pub struct AggregatedKey {
    #[schema(example = "Tea", max_length = 256)]
    pub key: String,
    /// Numbered from 0 when the key was first seen.
    #[schema(example = 2, minimum = 0)]
    pub partition: i32,
    #[schema(example = 5, minimum = 1)]
    pub message_count: i64,
    #[schema(example = 1017, minimum = 1)]
    pub last_global_position: i64,
}

/// Keys in the order of their UTF-8 bytes.
#[derive(Serialize, ToSchema)]
pub struct AggregatedKeyPage {
    pub keys: Vec<AggregatedKey>,
    /// What to pass as `from` to go on; null at the end.
    #[schema(required = true)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeysQuery {
    /// Only keys that begin with this text, whatever characters it has.
    #[param(example = "T", max_length = 256)]
    prefix: Option<String>,
    /// The first key to list, inclusive; it need not exist.
    #[param(max_length = 256)]
    from: Option<String>,
    /// How many keys at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

/// List the keys of a keyed aggregated stream
///
/// In the order of their UTF-8 bytes, which is that of code points.
#[utoipa::path(
    get, path = "/v1/aggregated-streams/{name}/keys", operation_id = "listAggregatedKeys", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream"), KeysQuery),
    responses((status = 200, body = AggregatedKeyPage)),
)]
pub async fn list_keys(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<KeysQuery>,
) -> Result<axum::Json<AggregatedKeyPage>, Problem> {
    let mut rules = Validator::default();
    let limit = rules.limit(query.limit);
    let mut checked = |field, text: Option<String>| {
        let text = text.unwrap_or_default();
        if let Err(rule) = check_key(&text) {
            rules.invalid(field, rule);
        }
        text
    };
    let (prefix, from) = (checked("prefix", query.prefix), checked("from", query.from));
    rules.finish(())?;
    let FoundStream { id, .. } = keyed_stream(&app, &caller, &name).await?;
    let page = app.aggregated.keys(id, &prefix, &from, limit).await?;
    let keys = page.keys.into_iter().map(|one| AggregatedKey {
        key: one.key,
        partition: one.partition,
        message_count: one.message_count,
        last_global_position: one.last_global_position,
    });
    Ok(axum::Json(AggregatedKeyPage { keys: keys.collect(), next: page.next }))
}

/// Read the messages of a key
///
/// In order of position in the key's partition. A key without messages is an empty page. Caches may keep full pages, as of
/// `readPartition`.
#[utoipa::path(
    get, path = "/v1/aggregated-streams/{name}/keys/{key}/messages", operation_id = "readAggregatedKey", tag = tags::AGGREGATE,
    params(("name" = String, Path, description = "Name of an aggregated stream"),
        ("key" = String, Path, description = "A key, percent-encoded: `/` is `%2F`. The keys `.` and `..` cannot be in a path: read them with `readPartition`"),
        PartitionPageQuery,
        ("If-None-Match" = Option<String>, Header, description = "The ETag of an earlier answer")),
    responses((status = 200, body = PartitionPage, headers(("ETag" = String))), (status = 304, description = "Nothing has changed")),
)]
pub async fn read_key(
    State(app): State<App>,
    caller: Caller,
    Path((name, key)): Path<(String, String)>,
    Query(query): Query<PartitionPageQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut rules = Validator::default();
    let asked = query.checked(&mut rules, &app, uri, headers);
    messages_of(&app, &caller, (&name, &key), rules, asked).await
}

/// The same of the empty key, whose segment in the path is empty.
pub async fn read_empty_key(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<PartitionPageQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut rules = Validator::default();
    let asked = query.checked(&mut rules, &app, uri, headers);
    messages_of(&app, &caller, (&name, ""), rules, asked).await
}

async fn messages_of(
    app: &App,
    caller: &Caller,
    (name, key): (&str, &str),
    mut rules: Validator,
    asked: Asked,
) -> Result<Response, Problem> {
    if let Err(rule) = check_key(key) {
        rules.invalid("key", rule);
    }
    let asked = rules.finish(asked)?;
    let found = keyed_stream(app, caller, name).await?;
    page(app, name, found, PartitionName::Key(key), &asked).await
}

/// A keyed aggregated stream.
async fn keyed_stream(app: &App, caller: &Caller, name: &str) -> Result<FoundStream, Problem> {
    let found = stream(app, caller, name).await?;
    if !found.is_keyed {
        let rule = "must name a keyed aggregated stream: this one has numbered partitions";
        return Err(Problem::invalid(vec![Violation::new("name", rule)]));
    }
    Ok(found)
}
