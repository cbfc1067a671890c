//! What a credential is taken for.

use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Query;
use super::pages::NoQuery;
use super::problem::Problem;
use super::tags;
use crate::domain::time::Timestamp;
use crate::service::auth;

/// The caller of a request, and what it may ask for.
#[derive(Serialize, ToSchema)]
pub struct Caller {
    /// The credential's name, as limits and logs have it: `key:` and the id of an API key, or the issuer and subject of a JWT.
    /// Null where the service asks for no credential.
    #[schema(required = true, example = "key:k5rq2mdx7c3ae")]
    credential: Option<String>,
    /// What it allows.
    #[schema(example = json!(["read:order-*"]))]
    scopes: Vec<String>,
    /// When it expires; null if it does not.
    #[schema(required = true, format = DateTime)]
    expires_at: Option<String>,
}

/// Read what the credential of this request allows
///
/// For programs that show only what they may do, as the console does.
#[utoipa::path(
    get, path = "/v1/caller", operation_id = "readCaller", tag = tags::CREDENTIALS,
    responses((status = 200, body = Caller)),
)]
pub async fn read(caller: auth::Caller, Query(NoQuery {}): Query<NoQuery>) -> Result<axum::Json<Caller>, Problem> {
    Ok(axum::Json(Caller {
        credential: caller.credential().map(ToString::to_string),
        scopes: caller.rights().to_texts(),
        expires_at: caller.expires_at().map(Timestamp::to_rfc3339),
    }))
}
