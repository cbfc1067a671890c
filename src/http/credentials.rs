//! The caller of a request: made of its credential, which goes no further.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, MatchedPath, OriginalUri, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};

use super::problem::{Problem, ProblemKind, capitalised};
use super::{App, access};
use crate::domain::secret::Secret;
use crate::service::auth::{AuthError, Caller};

/// The parameter that has a ticket, where a browser sends no header.
pub const TICKET: &str = "ticket";
/// The cookie that has one.
pub const TICKET_COOKIE: &str = "headwater_ticket";

/// Takes a request's credential out of it, so that nothing that handles it from here on can repeat it, and answers whose
/// it is.
pub async fn take(app: &App, request: &mut Request) -> Result<Caller, Problem> {
    let takes_tickets = takes_tickets(request);
    let ticket = takes_tickets.then(|| take_parameter(request.uri_mut())).flatten();
    request.extensions_mut().remove::<OriginalUri>();
    let bearer = take_bearer(request.headers_mut());
    let cookie = take_cookie(request.headers_mut()).filter(|_| takes_tickets);
    if !app.credentials.are_required() {
        return Ok(Caller::anybody());
    }
    // Boxed, as they are large: without credentials no request needs the room.
    let bearer = match bearer {
        // It is for a proxy in front.
        Err(_) if is_public(request) => None,
        bearer => bearer?,
    };
    let checked = match (bearer, ticket.or(cookie)) {
        // A header is said on purpose, and a cookie comes by itself.
        (Some(token), _) => Box::pin(app.credentials.caller(&token)).await,
        (None, Some(ticket)) => Box::pin(app.credentials.ticket_caller(&ticket)).await,
        (None, None) if is_public(request) => return Ok(Caller::nobody()),
        (None, None) => return Err(missing()),
    };
    match checked {
        // What everybody may see is shown to those too whose credential has expired.
        Err(_) if is_public(request) => Ok(Caller::nobody()),
        checked => Ok(checked?),
    }
}

/// The problem of a request whose credential ended before its answer.
pub fn ended() -> Problem {
    AuthError::Expired.into()
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // A request that has not come by the credentials may do nothing.
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::nobody))
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            AuthError::Unknown | AuthError::Expired | AuthError::TicketInHeader | AuthError::Jwt(_) => {
                Problem::new(ProblemKind::Unauthenticated, detail)
            }
            AuthError::Store(error) => error.into(),
        }
    }
}

/// Whether a path needs no credential. One that the router does not have does.
fn is_public(request: &Request) -> bool {
    request.extensions().get::<MatchedPath>().is_some_and(|path| access::is_public(path.as_str()))
}

/// Event streams that change nothing.
fn takes_tickets(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>();
    matches!(*request.method(), Method::GET | Method::HEAD) && path.is_some_and(|path| takes_tickets_at(path.as_str()))
}

/// The same by the path of the route.
pub fn takes_tickets_at(route: &str) -> bool {
    route.ends_with("/events") && !route.starts_with("/v1/subscriptions/")
}

/// The problem of a request that needs a credential and has none.
pub(super) fn missing() -> Problem {
    Problem::new(
        ProblemKind::Unauthenticated,
        "The request needs a credential: the header `Authorization: Bearer` with an API key or a JWT; an event stream also \
         takes a ticket in the parameter `ticket`.",
    )
}

/// The token of the header `Authorization`.
fn take_bearer(headers: &mut HeaderMap) -> Result<Option<Secret>, Problem> {
    let refused = |detail: &str| Err(Problem::new(ProblemKind::Unauthenticated, detail));
    if headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
        headers.remove(header::AUTHORIZATION);
        return refused("The header `Authorization` must be given once.");
    }
    let Some(value) = headers.remove(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if !token.is_empty() => Ok(Some(Secret::new(token))),
        _ => refused("The header `Authorization` must be `Bearer`, a blank, and an API key or a JWT."),
    }
}

/// The first parameter `ticket`; all of them are taken out of the query.
fn take_parameter(uri: &mut Uri) -> Option<Secret> {
    let is_ticket = |pair: &&str| pair.split('=').next() == Some(TICKET);
    let query = uri.query()?;
    let found = query.split('&').find(is_ticket)?;
    let ticket = Secret::new(found.split_once('=').map_or("", |(_, value)| value));
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_ticket(pair)).collect();
    let target = match rest.as_slice() {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = target.parse().ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
    Some(ticket)
}

/// The ticket of the header `Cookie`, which is taken out whole: the service knows no other cookie.
fn take_cookie(headers: &mut HeaderMap) -> Option<Secret> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        let pairs = value.to_str().unwrap_or_default().split(';').filter_map(|pair| pair.trim().split_once('='));
        found =
            pairs.filter(|(name, _)| *name == TICKET_COOKIE).map(|(_, ticket)| Secret::new(ticket)).next().or(found);
    }
    headers.remove(header::COOKIE);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_taken_out_of_the_query_and_all_else_stays() {
        for (uri, ticket, rest) in [
            ("/v1/all/events?ticket=abc", Some("abc"), "/v1/all/events"),
            ("/v1/all/events?from=3&ticket=abc&types=A", Some("abc"), "/v1/all/events?from=3&types=A"),
            ("/v1/all/events?ticket=a&ticket=b", Some("a"), "/v1/all/events"),
            ("/v1/all/events?ticket", Some(""), "/v1/all/events"),
            ("/v1/all/events?tickets=a&from=%3F", None, "/v1/all/events?tickets=a&from=%3F"),
            ("http://h:1/v1/all/events?ticket=a&from=1", Some("a"), "http://h:1/v1/all/events?from=1"),
        ] {
            let mut taken: Uri = uri.parse().unwrap();
            assert_eq!(take_parameter(&mut taken).as_ref().map(Secret::expose), ticket, "{uri}");
            assert_eq!(taken.to_string(), rest, "{uri}");
        }
    }

    #[test]
    fn only_a_bearer_token_is_taken_from_the_header() {
        let taken = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            let taken = take_bearer(&mut headers).map(|token| token.map(|token| token.expose().to_owned()));
            assert!(headers.is_empty());
            taken.map_err(|_| ())
        };
        assert_eq!(taken(&[]), Ok(None));
        assert_eq!(taken(&["Bearer abc"]), Ok(Some("abc".into())));
        assert_eq!(taken(&["bearer  abc "]), Ok(Some("abc".into())));
        for wrong in [&["Basic abc"][..], &["Bearer"], &["Bearer "], &["abc"], &[""], &["Bearer a", "Bearer a"]] {
            assert_eq!(taken(wrong), Err(()), "{wrong:?}");
        }
    }
}
