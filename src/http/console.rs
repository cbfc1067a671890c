//! The console at `/` and its files, and `headwater.js` for pages of others: embedded, compressed once, with ETags.

use std::io::Write;
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use uuid::Uuid;

use super::extract::Path;
use super::problem::Problem;
use super::security_headers::PAGE_POLICY;

const INDEX: &str = "index.html";
const HEADWATER_JS: &str = "headwater.js";
/// The files of `console`; `build.rs` lists them.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// A file in the forms in which it is sent.
struct File {
    path: &'static str,
    content_type: &'static str,
    plain: &'static [u8],
    gzip: Bytes,
    /// The ETag of the plain file; the compressed one has its own.
    tag: String,
}

static SERVED: LazyLock<Vec<File>> = LazyLock::new(|| {
    let compressed = FILES.iter().map(|&(path, plain)| File {
        path,
        content_type: content_type(path),
        plain,
        gzip: gzip(plain),
        tag: Uuid::new_v5(&Uuid::NAMESPACE_URL, plain).simple().to_string(),
    });
    compressed.collect()
});

pub async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    answer(INDEX, &headers)
}

/// `EventSource`'s interface over one connection for all tabs of a browser; the file says how.
pub async fn headwater_js(headers: HeaderMap) -> Result<Response, Problem> {
    answer(HEADWATER_JS, &headers)
}

pub async fn file(Path(path): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    answer(&path, &headers)
}

fn answer(path: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let Some(file) = SERVED.iter().find(|file| file.path == path) else {
        return Err(Problem::not_found(format!("file {path} of the console")));
    };
    let (body, encoding) = if takes_gzip(headers) {
        (file.gzip.clone(), Some(HeaderValue::from_static("gzip")))
    } else {
        (Bytes::from_static(file.plain), None)
    };
    let tag = format!("\"{}{}\"", file.tag, if encoding.is_some() { "-gzip" } else { "" });
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag);
    let common = [
        (header::ETAG, tag),
        // Browsers ask again each time, and mostly get a 304: so a new version is shown at once.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::VARY, "accept-encoding".to_owned()),
        // Scripts and icons as well as the page: so each of them is harmless where it is opened alone.
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY.to_owned()),
    ];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    let mut response = (common, [(header::CONTENT_TYPE, file.content_type)], body).into_response();
    if let Some(encoding) = encoding {
        response.headers_mut().insert(header::CONTENT_ENCODING, encoding);
    }
    Ok(response)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|codings| codings.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let is_refused = quality.trim().strip_prefix("q=").is_some_and(|quality| quality.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("writing to memory does not fail").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that a browser loads for the whole console, compressed.
    const COMPRESSED_BYTES_MAX: usize = 300_000;

    #[test]
    fn the_console_is_small() {
        let size: usize = SERVED.iter().map(|file| file.gzip.len()).sum();
        assert!(size <= COMPRESSED_BYTES_MAX, "{size} bytes, compressed");
    }

    #[test]
    fn no_file_names_another_origin_to_load_from() {
        for file in SERVED.iter().filter(|file| !file.path.starts_with("vendor/")) {
            let text = std::str::from_utf8(file.plain).unwrap();
            for loading in
                ["src=\"http", "href=\"http", "from 'http", "import('http", "url(http", "src=\"//", "@import"]
            {
                assert!(!text.contains(loading), "{}: {loading}", file.path);
            }
        }
    }

    #[test]
    fn a_module_is_read_in_one_sitting_and_opens_with_what_lives_in_it() {
        for (path, bytes) in FILES.iter().filter(|(path, _)| path.starts_with("app/")) {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(text.lines().count() <= 400, "{path}");
            assert!(text.starts_with("// "), "{path}");
        }
    }

    #[test]
    fn compression_is_for_those_who_take_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(takes("gzip, deflate, br") && takes("br;q=1, GZIP;q=0.5"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("identity"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
