//! The OpenAPI document, and a page to read it.

use std::io::Read;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use flate2::read::GzDecoder;
use utoipa_swagger_ui::SwaggerUi;

use super::openapi::{self, Version};
use super::problem::{Problem, ProblemKind};
use super::{App, operations, security_headers};

/// The largest file of the page, as it is kept.
const FILE_BYTES_MAX: usize = 4 << 20;

/// Other paths below the page are unknown like any other.
pub fn routes(document: utoipa::openapi::OpenApi) -> Router<App> {
    let with_item_schemas = Json(openapi::finish(document.clone(), Version::V3_2));
    let document = openapi::finish(document, Version::V3_1);
    let pages = Router::from(SwaggerUi::new("/docs").external_url_unchecked("/openapi.json", document));
    let pages = pages.route("/openapi-3.2.json", get(move || std::future::ready(with_item_schemas.clone())));
    pages.layer(from_fn(|uri: Uri, request: Request, next: Next| async move {
        let takes_gzip = takes_gzip(request.headers());
        let mut response = next.run(request).await;
        if response.status() == StatusCode::NOT_FOUND {
            return operations::unknown_path(uri).await.into_response();
        }
        if response.headers().contains_key(header::CONTENT_ENCODING) {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
            if !takes_gzip {
                response = unpacked(response).await;
            }
        }
        let policy = HeaderValue::from_static(security_headers::API_PAGE_POLICY);
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        response
    }))
}

/// Whether a client names gzip among the encodings that it takes, as browsers do.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut encodings = values.flat_map(|value| value.split(','));
    encodings.any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty());
        ["gzip", "*"].contains(&name.trim()) && !is_refused
    })
}

/// The files of the page are kept compressed; some clients want them as they are.
async fn unpacked(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut file = Vec::new();
    let is_read = match to_bytes(body, FILE_BYTES_MAX).await {
        Ok(packed) => GzDecoder::new(&*packed).take(FILE_BYTES_MAX as u64).read_to_end(&mut file).is_ok(),
        Err(_) => false,
    };
    if !is_read {
        return Problem::new(ProblemKind::InternalError, "The file could not be unpacked.").into_response();
    }
    parts.headers.remove(header::CONTENT_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_if_it_is_named_and_not_refused() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(!takes_gzip(&HeaderMap::new()));
        for value in ["gzip", "gzip, deflate, br", "br;q=1.0, gzip;q=0.8", "*", "identity;q=0.5, *;q=0.1"] {
            assert!(takes(value), "{value}");
        }
        for value in ["", "identity", "br", "gzip;q=0", "gzip; q=0.0, br", "xgzip"] {
            assert!(!takes(value), "{value}");
        }
    }
}
