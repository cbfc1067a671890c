//! Tickets for browsers, whose `EventSource` sends no header.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api_keys::scopes;
use super::credentials::TICKET_COOKIE;
use super::extract::{Json, Object, Query};
use super::pages::NoQuery;
use super::parameters::Validator;
use super::problem::{Problem, ProblemKind};
use super::{App, tags};
use crate::domain::Violation;
use crate::domain::time::Timestamp;
use crate::service::auth::{Caller, Ticket, TicketError};

/// How long a ticket is valid by default, if the limit allows it.
const TTL_DEFAULT: Duration = Duration::from_secs(10 * 60);
const TTL_MIN: Duration = Duration::from_secs(1);

/// A ticket to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TicketRequest)]
pub struct TicketBody {
    /// What it allows: `read:<pattern>`, each covered by a scope of the caller's own.
    #[schema(min_items = 1, max_items = 100, example = json!(["read:order-*"]))]
    scopes: Vec<String>,
    /// How long it is valid, such as `10m`: from `1s` to the service's limit, `1h` by default. It ends with the caller's
    /// own credential, if that ends before.
    #[serde(default)]
    #[schema(default = "10m", example = "10m")]
    ttl: Option<String>,
    /// Sets the ticket as a cookie, which scripts cannot read, and does not answer it.
    #[serde(default)]
    #[schema(default = false)]
    cookie: bool,
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[schema(as = Ticket)]
pub struct TicketAnswer {
    /// What goes into the parameter `ticket` of an event stream; absent if it was set as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, example = "hwt_eyJjIjoia2V5O…")]
    ticket: Option<String>,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Make a ticket for event streams
///
/// For a browser's `EventSource`, which sends no header: `…/events?ticket=…`. A ticket reads, and no more; it is valid on
/// event streams of streams, categories, the log and aggregated streams, on every instance. With `cookie` it is set as a
/// cookie of this site (`HttpOnly`, `SameSite=Strict`), so that pages of this origin need no parameter. Both end when the
/// key is revoked that they were made with.
#[utoipa::path(
    post, path = "/v1/tickets", operation_id = "createTicket", tag = tags::CREDENTIALS,
    request_body = TicketBody, responses((status = 201, body = TicketAnswer)),
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Query(NoQuery {}): Query<NoQuery>,
    Json(Object(body)): Json<Object<TicketBody>>,
) -> Result<Response, Problem> {
    let mut rules = Validator::default();
    let scopes = scopes(&mut rules, &body.scopes);
    let ttl_max = app.credentials.ticket_ttl_max();
    let ttl = rules.duration("ttl", body.ttl.as_deref(), TTL_MIN, ttl_max).unwrap_or(TTL_DEFAULT.min(ttl_max));
    let scopes = rules.finish(scopes)?;
    let ticket = app.credentials.issue_ticket(&caller, &scopes, ttl)?;
    let mut answer = TicketAnswer { ticket: None, expires_at: ticket.expires_at.to_rfc3339() };
    if !body.cookie {
        answer.ticket = Some(ticket.secret.expose().to_owned());
    }
    let mut response = (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], axum::Json(answer)).into_response();
    if body.cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie(&app, &headers, &ticket)?);
    }
    Ok(response)
}

/// The cookie: for this host, for event streams, until the ticket expires.
fn cookie(app: &App, headers: &HeaderMap, ticket: &Ticket) -> Result<HeaderValue, Problem> {
    let left = (ticket.expires_at.0 - Timestamp::now().0).max(0) / 1_000_000;
    // Behind a proxy that speaks TLS, the page tells by its origin that it came so.
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
    let secure = if app.limits.trusted.speaks_tls || origin.starts_with(b"https://") { "; Secure" } else { "" };
    let text = ticket.secret.expose();
    let cookie = format!("{TICKET_COOKIE}={text}; Path=/v1; Max-Age={left}; HttpOnly; SameSite=Strict{secure}");
    let mut cookie: HeaderValue =
        cookie.parse().map_err(|_| Problem::new(ProblemKind::InternalError, "The cookie cannot be written."))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

impl From<TicketError> for Problem {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::Missing(missing) => missing.into(),
            TicketError::NotToRead { at } => {
                let rule = "must be read:<pattern>: tickets only read";
                Problem::invalid(vec![Violation::new(format!("scopes[{at}]"), rule)])
            }
            TicketError::TooLong { .. } => {
                Problem::invalid(vec![Violation::new("scopes", format!("must be fewer or shorter: {error}"))])
            }
            TicketError::NoSecret => {
                Problem::new(ProblemKind::DatabaseUnavailable, "The database has not been reached yet.")
            }
        }
    }
}
