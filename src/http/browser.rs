//! Browsers run pages of anybody: refuses requests because of the page that they come from, or the name that they call the
//! service by.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, Method, Version, header};

use super::problem::{Problem, ProblemKind};
use crate::domain::Violation;
use crate::domain::browser::Trusted;

/// Tells which kind of page a request comes from. Browsers set this header; no page can.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Opening this event stream changes something: partitions and messages go to the consumer that opens it.
const SUBSCRIPTION_EVENTS: &str = "/v1/subscriptions/{name}/events";

/// Why a request is refused because of its host or origin. Checked before anything else is done with the request.
///
/// A page that has a foreign name point here (DNS rebinding) has no credential, as browsers keep them by name: so any name
/// will do where one is needed.
pub fn refused(trusted: &Trusted, needs_credential: bool, request: &Request) -> Option<Problem> {
    let authorities = match authorities(request) {
        Ok(authorities) => authorities,
        Err(problem) => return Some(problem),
    };
    if let Some(host) = authorities.iter().flatten().find(|host| !needs_credential && !trusted.takes_host(host)) {
        return Some(foreign_host(host));
    }
    if !changes_something(request) {
        return None;
    }
    let origin = foreign_origin(trusted, request.headers(), &authorities)?;
    Some(
        Problem::new(
            ProblemKind::Forbidden,
            format!(
                "Pages of {origin} are not allowed to change anything: it is neither the service's own origin nor one that \
                 --cors-origin (HEADWATER_CORS_ORIGIN) names."
            ),
        )
        .with("setting", "--cors-origin"),
    )
}

/// The authorities that a request names, in its target and in `Host`. HTTP/1.1 must name one, older versions need not.
fn authorities(request: &Request) -> Result<[Option<&str>; 2], Problem> {
    let malformed = |message| Err(Problem::malformed(vec![Violation::new("Host", message)]));
    let of_target = request.uri().authority().map(axum::http::uri::Authority::as_str);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => match host.to_str() {
            Ok(host) => Ok([of_target, Some(host.trim())]),
            Err(_) => malformed("must be a name or an address, and perhaps a port"),
        },
        (None, _) if request.version() == Version::HTTP_11 && of_target.is_none() => malformed("is missing"),
        (None, _) => Ok([of_target, None]),
        (Some(_), Some(_)) => malformed("must be given once"),
    }
}

fn foreign_host(host: &str) -> Problem {
    let detail = format!(
        "The host name {host:?} is not allowed. If the service has this name, add it with --allowed-host \
         (HEADWATER_ALLOWED_HOST); localhost and IP addresses are always allowed."
    );
    Problem::new(ProblemKind::Forbidden, detail).with("setting", "--allowed-host")
}

fn changes_something(request: &Request) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        || request.extensions().get::<MatchedPath>().is_some_and(|path| path.as_str() == SUBSCRIPTION_EVENTS)
}

/// The origin of the page that the request comes from, unless that page may change something. Other programs than browsers
/// name no origin.
fn foreign_origin(trusted: &Trusted, headers: &HeaderMap, authorities: &[Option<&str>]) -> Option<String> {
    let site = headers.get(SEC_FETCH_SITE).map(axum::http::HeaderValue::as_bytes);
    // This also holds behind a proxy that changes `Host`.
    if site == Some(b"same-origin") {
        return None;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
    if origins.peek().is_none() {
        // An image, a link or a form of another page: with some of these browsers send no origin.
        let is_foreign = site.is_some_and(|site| site != b"none");
        return is_foreign.then(|| "another origin".to_owned());
    }
    let foreign = origins.find(|origin| {
        !origin.to_str().is_ok_and(|origin| trusted.takes_origin(origin, authorities.iter().flatten().copied()))
    });
    foreign.map(|origin| format!("the origin {origin:?}"))
}
