//! Checks what the headers say of a body, before any of it is read.

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, header};

use super::Limits;
use super::problem::{Problem, ProblemKind};
use crate::domain::Violation;

/// The media type of lines of JSON.
pub const LINES: &str = "application/x-ndjson";
/// The path that takes them.
const APPEND: &str = "/v1/streams/{stream_name}/messages";

/// Why a request is refused because of what its headers say of its body.
pub fn refused(limits: &Limits, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    // An append session is as long as the client likes; its lines are bounded where they are read.
    let is_session = is_lines(headers) && takes_lines(request);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if !is_session && length.is_some_and(|length| length > limits.body_bytes_max as u64) {
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
        Some(coding) => {
            let detail = format!("Content-Encoding {coding:?} is not supported: send the body without an encoding.");
            Some(unsupported(detail, takes_lines(request)))
        }
        None if is_session || is_json(headers) => None,
        None => Some(not_json(takes_lines(request))),
    }
}

/// Whether the path takes an append session.
fn takes_lines(request: &Request) -> bool {
    *request.method() == Method::POST
        && request.extensions().get::<MatchedPath>().is_some_and(|path| path.as_str() == APPEND)
}

/// Whether the body is called lines of JSON.
pub fn is_lines(headers: &HeaderMap) -> bool {
    essence(headers).eq_ignore_ascii_case(LINES)
}

/// Whether the body is called JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let essence = essence(headers);
    essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The media type without its parameters.
fn essence(headers: &HeaderMap) -> &str {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim()
}

/// The body is called something else than JSON.
pub fn not_json(takes_lines: bool) -> Problem {
    let detail = if takes_lines { "The body must be JSON, or lines of JSON." } else { "The body must be JSON." };
    unsupported(detail.to_owned(), takes_lines)
}

/// The problem of a body with more than `limit` bytes.
pub fn too_large(limit: usize) -> Problem {
    Problem::new(ProblemKind::BodyTooLarge, format!("The body has more than {limit} bytes.")).with("limit", limit)
}

fn unsupported(detail: String, takes_lines: bool) -> Problem {
    let accepted = if takes_lines { vec!["application/json", LINES] } else { vec!["application/json"] };
    Problem::new(ProblemKind::UnsupportedMediaType, detail).with("accepted", accepted)
}
