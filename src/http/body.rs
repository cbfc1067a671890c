//! Checks what the headers say of a body, before any of it is read.

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, header};

use super::Limits;
use super::problem::{Problem, ProblemKind};
use crate::domain::Violation;

/// Why a request is refused because of what its headers say of its body.
pub fn refused(limits: &Limits, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits.body_bytes_max as u64) {
        return Some(too_large(limits.body_bytes_max));
    }
    if headers.get(header::TRANSFER_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        let violation = Violation::new("Transfer-Encoding", "must be `chunked` and nothing else");
        return Some(Problem::malformed(vec![violation]));
    }
    let is_ignored = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        || request.extensions().get::<MatchedPath>().is_none();
    if is_ignored || request.body().is_end_stream() {
        return None;
    }
    // Checked for paths that take no body too: a page of another origin can send nothing but text and forms.
    let coding = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity");
    match coding {
        Some(coding) => Some(unsupported(format!(
            "Content-Encoding {coding:?} is not supported: send the body without an encoding."
        ))),
        None => must_be_json(headers).err(),
    }
}

/// Checks that `Content-Type` says JSON.
pub fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    is_json.then_some(()).ok_or_else(|| unsupported("The body must be JSON.".to_owned()))
}

/// The problem of a body with more than `limit` bytes.
pub fn too_large(limit: usize) -> Problem {
    Problem::new(ProblemKind::BodyTooLarge, format!("The body has more than {limit} bytes.")).with("limit", limit)
}

fn unsupported(detail: String) -> Problem {
    Problem::new(ProblemKind::UnsupportedMediaType, detail).with("accepted", vec!["application/json"])
}
