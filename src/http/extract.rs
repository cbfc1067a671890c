//! Reads the request's path, query and body; what is wrong with them becomes a problem document.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::held_bodies::{Incoming, no_room};
use super::problem::{Problem, ProblemKind};
use super::{App, body, credentials, plain_words};
use crate::domain::Violation;
pub use crate::domain::object::Object;
use crate::domain::percent::percent_decode;
use crate::service::auth::Caller;

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !body::is_json(request.headers()) {
            return Err(body::not_json(false));
        }
        let received = receive(request, app).await?;
        serde_json::from_slice(&received).map(Json).map_err(|_| malformed_json::<T>(&received, 1))
    }
}

/// No body, where nothing is to be said. An empty object and null are taken too, which clients send that put JSON into every
/// POST.
pub struct NoBody;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

impl FromRequest<App> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self);
        }
        let received = receive(request, app).await?;
        let is_nothing = received.is_empty() || serde_json::from_slice::<Option<Object<NoFields>>>(&received).is_ok();
        if is_nothing { Ok(Self) } else { Err(malformed_json::<Option<Object<NoFields>>>(&received, 1)) }
    }
}

/// The whole body, of a caller whose credential has not ended by then.
async fn receive(request: Request, app: &App) -> Result<Bytes, Problem> {
    let (bytes, time) = (app.limits.body_bytes_max, app.limits.request_timeout);
    let (parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_else(Caller::nobody);
    let (body, refused) = Incoming::new(body, app.bodies.clone());
    let mut request = Request::from_parts(parts, Body::new(body));
    DefaultBodyLimit::max(bytes).apply(&mut request);
    let receiving = Bytes::from_request(request, app);
    tokio::select! {
        biased;
        () = refused.cancelled() => Err(no_room()),
        () = caller.ended() => Err(credentials::ended()),
        received = tokio::time::timeout(time, receiving) => match received {
            Ok(Ok(_)) if caller.has_ended() => Err(credentials::ended()),
            Ok(Ok(received)) => Ok(received),
            Ok(Err(_)) if refused.is_cancelled() => Err(no_room()),
            Ok(Err(rejection)) => Err(match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => body::too_large(bytes),
                _ => Problem::malformed(vec![Violation::new("body", "was not received completely")]),
            }),
            Err(_) => {
                let detail = format!("The body was not received within {time:?}.");
                Err(Problem::new(ProblemKind::RequestTimeout, detail))
            }
        },
    }
}

/// Reads a wrong text once more to find the field that is wrong. Right ones are read once. `first_line`: the line of the
/// body on which the text begins.
pub(super) fn malformed_json<T: DeserializeOwned>(text: &[u8], first_line: usize) -> Problem {
    let deserializer = &mut serde_json::Deserializer::from_slice(text);
    let violation = match serde_path_to_error::deserialize::<_, T>(deserializer) {
        Ok(_) => Violation::new("body", "must be one JSON value with nothing after it"),
        Err(error) => plain_words::of_json(error, first_line),
    };
    Problem::malformed(vec![violation])
}

/// The query's parameters. A parameter may be given several times if its field is a list.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if let Some(violation) = badly_encoded(query) {
            return Err(Problem::malformed(vec![violation]));
        }
        let deserializer = serde_html_form::Deserializer::from_bytes(query.as_bytes());
        serde_path_to_error::deserialize(deserializer)
            .map(Query)
            .map_err(|error| Problem::malformed(vec![plain_words::of_query(error, query)]))
    }
}

/// Finds a parameter whose percent-encoded bytes are not UTF-8: it would be read with replacement characters.
fn badly_encoded(query: &str) -> Option<Violation> {
    query.split('&').find_map(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let decoded = percent_decode(pair);
        std::str::from_utf8(&decoded).is_err().then(|| Violation::new(name, "must be percent-encoded UTF-8"))
    })
}

/// The path's parameters.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(path) => Ok(Path(path.0)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                let violation = match error.kind() {
                    ErrorKind::InvalidUtf8InPathParam { key } => Violation::new(key, "must be percent-encoded UTF-8"),
                    _ => Violation::new("path", "has the wrong form"),
                };
                Err(Problem::malformed(vec![violation]))
            }
            Err(_) => Err(Problem::malformed(vec![Violation::new("path", "has the wrong form")])),
        }
    }
}
