//! The limits of every request, and the answer to one that panics.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Version, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::event_stream::Unwritten;
use super::guarded::{Conduct, RemoteAddress};
use super::problem::{Problem, ProblemKind, StoreFailure};
use super::request_body::BodyWatch;
use super::{App, body, browser, credentials};
use crate::domain::observation::{FailureKind, Observation};
use crate::telemetry::{Observer, logging::panic_text};

/// Refuses requests that are too large, of another type, without a credential, or from a page that may not ask; ends those
/// that take too long; and counts the answers.
pub async fn bound(app: &App, request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let begun = Instant::now();
    let (method, version) = (method_label(request.method()), request.version());
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    // Connections of `event_connection` have none.
    let conduct = request.extensions().get::<Arc<Conduct>>().cloned();
    let unanswered = conduct.as_ref().map(Conduct::unanswered);
    let needs_credential = app.credentials.are_required();
    let (request, body) = BodyWatch::of(request);
    let refused =
        too_large(app, &request).or_else(|| browser::refused(&app.limits.trusted, needs_credential, &request));
    let response = match refused {
        Some(problem) => problem.into_response(),
        None => {
            let ends_with = |end| path.ends_with(end);
            let more = match *request.method() {
                // A long poll may wait as long as it asked for.
                Method::GET | Method::HEAD if ends_with("/messages") || ends_with("/{name}") => app.limits.wait_max,
                Method::POST if ends_with("/fetch") => app.limits.wait_max,
                Method::POST if ends_with("/messages") || ends_with("/appends") => app.limits.append_timeout,
                _ => Duration::ZERO,
            };
            let limit = app.limits.request_timeout + more;
            match tokio::time::timeout(limit, answer(app, request, next)).await {
                Ok(response) => response,
                Err(_) => Problem::new(ProblemKind::RequestTimeout, format!("The request took longer than {limit:?}."))
                    .into_response(),
            }
        }
    };
    let response = app.bodies.bound(response).await;
    let status = response.status().as_u16();
    if let Some(StoreFailure(error)) = response.extensions().get() {
        let (by, kind) = (format!("{method} {path}"), error.kind());
        // That the database is away is logged by the agents that use it.
        let is_news = kind != FailureKind::Outage;
        app.observer.record(Observation::StoreFailed { by, kind, error: error.to_string(), is_news });
    }
    app.observer.record(Observation::RequestAnswered { method, path, status, took: begun.elapsed() });
    if let Some(unanswered) = unanswered {
        unanswered.done();
    }
    match conduct {
        Some(conduct) => conduct.answered(ends_connection(app, version, body.as_ref(), response)),
        None => response,
    }
}

/// While the service is about to stop, each answer over HTTP/1 is the last one of its connection: a balancer that keeps
/// connections sends nothing more on one that could be closed at that moment. HTTP/2 has GOAWAY for that.
///
/// So is a refusal before the body was read, because hyper does not wait for the rest of it.
fn ends_connection(app: &App, version: Version, body: Option<&BodyWatch>, mut response: Response) -> Response {
    let status = response.status();
    let is_refusal = status.is_client_error() || status.is_server_error();
    let is_unread = is_refusal && body.is_some_and(|body| !body.is_read());
    if is_unread || app.lifecycle.is_leaving() && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers a request whose credential, and whose body as its headers tell of it, are as they must be.
async fn answer(app: &App, mut request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let caller = match credentials::take(app, &mut request).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if let Some(problem) = body::refused(&app.limits, &request) {
        return problem.into_response();
    }
    // Of another request it is not known what it has done, or it does not wait.
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let waits = is_read || request.uri().path().ends_with("/fetch");
    request.extensions_mut().insert(caller.clone());
    let (uri, address) = (request.uri().clone(), address_of(&request));
    let response = tokio::select! {
        biased;
        response = next(request) => response,
        () = caller.ended(), if waits => return credentials::ended().into_response(),
    };
    if is_read && caller.has_ended() {
        return credentials::ended().into_response();
    }
    if let Some(events) = response.extensions().get::<Unwritten>() {
        let path = uri.path_and_query().map_or(uri.path(), PathAndQuery::as_str);
        events.belong_to(&caller, path, address);
    }
    response
}

/// Where the connection of a request comes from.
fn address_of(request: &Request) -> Option<IpAddr> {
    let extensions = request.extensions();
    let conduct = extensions.get::<Arc<Conduct>>().and_then(|conduct| conduct.address());
    conduct.or_else(|| extensions.get::<RemoteAddress>().map(|address| address.0))
}

fn too_large(app: &App, request: &Request) -> Option<Problem> {
    let limits = &app.limits;
    let url_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if url_bytes > limits.url_bytes_max {
        let detail = format!("Path and query have {url_bytes} bytes; at most {} are allowed.", limits.url_bytes_max);
        return Some(Problem::new(ProblemKind::UrlTooLong, detail).with("limit", limits.url_bytes_max));
    }
    let headers = request.headers();
    if headers.len() > limits.headers_max {
        let detail =
            format!("The request has {} header lines; at most {} are allowed.", headers.len(), limits.headers_max);
        return Some(Problem::new(ProblemKind::HeadersTooLarge, detail).with("limit", limits.headers_max));
    }
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header_bytes > limits.header_bytes_max {
        let detail = format!("The headers have {header_bytes} bytes; at most {} are allowed.", limits.header_bytes_max);
        return Some(Problem::new(ProblemKind::HeadersTooLarge, detail).with("limit", limits.header_bytes_max));
    }
    None
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Turns a panic into an answer: a fault of the service, which is logged and counted.
pub async fn caught(observer: &Observer, answer: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|panic| {
        observer.record(Observation::Panicked { message: panic_text(&*panic) });
        Problem::new(ProblemKind::InternalError, "The service failed; its log has the details.").into_response()
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error_that_keeps_its_reason_to_itself() {
        let observer = Observer::new();
        let mut watcher = observer.watch();
        let said_with_text = poll_fn(|_| panic!("a secret of the house"));
        let said_with_format = poll_fn(|_| panic!("a secret of {}", "the house"));
        for response in [caught(&observer, said_with_text).await, caught(&observer, said_with_format).await] {
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["type"], "/problems/internal-error");
            assert!(!document.to_string().contains("secret"), "{document}");
            let observed = watcher.try_recv().unwrap();
            assert!(matches!(&observed, Observation::Panicked { message } if message == "a secret of the house"));
        }
        assert!(observer.render().contains("headwater_panics_total 2"));
    }
}
