//! API keys over HTTP: made, listed and revoked by admins.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Json, NoBody, Object, Path, Query};
use super::pages::NoQuery;
use super::parameters::Validator;
use super::problem::Problem;
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::api_key::{self, read_scopes};
use crate::domain::named::check_name;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::service::auth::{Caller, CreateKeyError, KeyRequest};

/// The bounds of `expires_in`.
const EXPIRES_IN_MIN: Duration = Duration::from_secs(1);
const EXPIRES_IN_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);

/// A key to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApiKeyRequest)]
pub struct ApiKeyBody {
    /// What it is for, in words.
    #[schema(example = "billing worker")]
    name: String,
    /// What it allows: `read:<pattern>`, `append:<pattern>`, `subscribe:<pattern>` or `admin`.
    #[schema(min_items = 1, max_items = 100, example = json!(["read:order-*", "subscribe:billing"]))]
    scopes: Vec<String>,
    /// How long it can be used, such as `90d`; for ever if absent.
    #[serde(default)]
    #[schema(example = "90d")]
    expires_in: Option<String>,
}

/// What is known of an API key. The key itself is nowhere.
#[derive(Serialize, ToSchema)]
pub struct ApiKey {
    /// The part of the key that names it.
    #[schema(example = "k5rq2mdx7c3ae")]
    id: String,
    name: String,
    scopes: Vec<String>,
    /// `active`, `expired` or `revoked`.
    #[schema(example = "active")]
    state: &'static str,
    #[schema(format = DateTime)]
    created_at: String,
    /// The credential that made it.
    #[schema(example = "key:7bzl4wq2mdxae")]
    created_by: String,
    #[schema(required = true, format = DateTime)]
    expires_at: Option<String>,
    #[schema(required = true, format = DateTime)]
    revoked_at: Option<String>,
    /// When it was used last, a minute or two late; null if it was not.
    #[schema(required = true, format = DateTime)]
    last_used_at: Option<String>,
}

/// An API key that was made. It is shown this once.
#[derive(Serialize, ToSchema)]
pub struct NewApiKey {
    /// The key: what goes into `Authorization: Bearer`.
    #[schema(example = "hw_k5rq2mdx7c3ae_…")]
    key: String,
    #[serde(flatten)]
    about: ApiKey,
}

/// API keys.
#[derive(Serialize, ToSchema)]
pub struct ApiKeys {
    keys: Vec<ApiKey>,
    /// What to pass as `after` to go on; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApiKeysQuery {
    /// Only keys that were made after the one with this id.
    after: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
}

impl From<api_key::ApiKey> for ApiKey {
    fn from(key: api_key::ApiKey) -> Self {
        let time = |time: Option<Timestamp>| time.map(Timestamp::to_rfc3339);
        Self {
            state: key.state(Timestamp::now()),
            id: key.id,
            name: key.name,
            scopes: key.scopes.iter().map(ToString::to_string).collect(),
            created_at: key.created_at.to_rfc3339(),
            created_by: key.created_by,
            expires_at: time(key.expires_at),
            revoked_at: time(key.revoked_at),
            last_used_at: time(key.last_used_at),
        }
    }
}

/// Make an API key
///
/// The answer is the only time that the key is shown; the service keeps its hash. It can be used at once, on every instance.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "createApiKey", tag = tags::CREDENTIALS,
    request_body = ApiKeyBody, responses((status = 201, body = NewApiKey)),
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<ApiKeyBody>>,
) -> Result<Response, Problem> {
    caller.rights().require(Scope::Admin)?;
    let mut rules = Validator::default();
    if let Err(rule) = check_name(&body.name) {
        rules.invalid("name", rule);
    }
    let scopes = scopes(&mut rules, &body.scopes);
    let lasts = rules.duration("expires_in", body.expires_in.as_deref(), EXPIRES_IN_MIN, EXPIRES_IN_MAX);
    let scopes = rules.finish(scopes)?;
    let expires_at = lasts.map(Timestamp::after);
    let created_by = caller.credential().map_or("anybody", |name| name);
    let request = KeyRequest { name: &body.name, scopes: &scopes, expires_at, created_by };
    let made = app.credentials.create_key(request).await?;
    let answer = NewApiKey { key: made.secret.expose().to_owned(), about: made.key.into() };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], axum::Json(answer)).into_response())
}

/// List API keys
///
/// In the order in which they were made; those that have expired or were revoked too, for 90 days. Never the keys
/// themselves.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "listApiKeys", tag = tags::CREDENTIALS,
    params(ApiKeysQuery), responses((status = 200, body = ApiKeys)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ApiKeysQuery>,
) -> Result<axum::Json<ApiKeys>, Problem> {
    caller.rights().require(Scope::Admin)?;
    let mut rules = Validator::default();
    let limit = rules.limit(query.limit);
    if let Some(after) = &query.after {
        check_id(&mut rules, "after", after);
    }
    let limit = rules.finish(limit)?;
    let keys = app.credentials.list_keys(query.after.as_deref(), limit as i64).await?;
    let next = keys.last().filter(|_| keys.len() == limit).map(|last| last.id.clone());
    Ok(axum::Json(ApiKeys { keys: keys.into_iter().map(Into::into).collect(), next }))
}

/// Revoke an API key
///
/// For good. Event streams and append sessions that were opened with it, or with a ticket of it, end within five seconds on
/// every instance. It may be repeated.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", operation_id = "revokeApiKey", tag = tags::CREDENTIALS,
    params(("id" = String, Path, description = "Id of a key: the part after `hw_`", example = "k5rq2mdx7c3ae")),
    responses((status = 204, description = "Done")),
)]
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
    NoBody: NoBody,
) -> Result<StatusCode, Problem> {
    caller.rights().require(Scope::Admin)?;
    let mut rules = Validator::default();
    check_id(&mut rules, "id", &id);
    rules.finish(())?;
    match app.credentials.revoke_key(&id).await? {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Problem::not_found(format!("API key {id}"))),
    }
}

fn check_id(rules: &mut Validator, field: &str, id: &str) {
    if !api_key::is_id(id) {
        rules.invalid(field, "must be the id of a key: the 13 letters and digits after hw_, not the whole key");
    }
}

/// Scopes of a body, at least one.
pub(super) fn scopes(rules: &mut Validator, texts: &[String]) -> Vec<Scope> {
    if texts.is_empty() {
        rules.invalid("scopes", "must have one scope at least");
    }
    read_scopes(texts).unwrap_or_else(|(at, rule)| {
        rules.invalid(&format!("scopes[{at}]"), rule);
        Vec::new()
    })
}

impl From<CreateKeyError> for Problem {
    fn from(error: CreateKeyError) -> Self {
        match error {
            CreateKeyError::TooMany { .. } => {
                Problem::invalid(vec![Violation::new("name", format!("must not be made: {error}"))])
            }
            CreateKeyError::Store(error) => error.into(),
        }
    }
}
