//! Every answer says what browsers may do with it; a page runs no script but the service's own files.

use reqwest::header::{ACCEPT, HeaderMap};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::raw_http::RawHttp;

const PAGES: [&str; 3] = ["/", "/docs/", "/problems/forbidden"];

#[track_caller]
fn has(headers: &HeaderMap, name: &str, expected: &str, place: &str) {
    let found = headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(found, Some(expected), "{place}: {name}");
}

/// The rules of a policy by their names.
fn policy<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let policy = headers["content-security-policy"].to_str().unwrap();
    policy.split(';').filter_map(|rule| rule.trim().split_once(' ')).find(|(rule, _)| *rule == name).map(|(_, is)| is)
}

#[tokio::test]
async fn every_answer_says_what_browsers_may_do_with_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("account-1", "Opened", json!({})).await;
    for path in [
        "/",
        "/console/app/main.js",
        "/console/icon.svg",
        "/docs/",
        "/docs/swagger-ui-bundle.js",
        "/openapi.json",
        "/openapi-3.2.json",
        "/v1/all/messages",
        "/v1/all/messages?limit=0",
        "/v1/all/events",
        "/problems/forbidden",
        "/metrics",
        "/livez",
        "/nothing",
    ] {
        let answer = app.http.get(format!("{}{path}", app.url)).header(ACCEPT, "text/html,*/*").send().await.unwrap();
        let headers = answer.headers();
        has(headers, "x-content-type-options", "nosniff", path);
        has(headers, "cross-origin-resource-policy", "same-origin", path);
        assert_eq!(policy(headers, "default-src"), Some("'none'"), "{path}");
        assert_eq!(policy(headers, "frame-ancestors"), Some("'none'"), "{path}");
        let text = headers["content-security-policy"].to_str().unwrap();
        assert!(!text.contains("unsafe-eval") && !text.contains('*'), "{path}: {text}");
        assert!(policy(headers, "script-src").is_none_or(|sources| sources == "'self'"), "{path}: {text}");
        assert!(!text.contains("unsafe-inline") && !text.contains("unsafe-hashes"), "{path}: {text}");
        let is_page = headers["content-type"].to_str().unwrap().starts_with("text/html");
        assert_eq!(is_page, PAGES.contains(&path), "{path}");
        if is_page {
            has(headers, "referrer-policy", "no-referrer", path);
            has(headers, "x-frame-options", "DENY", path);
            has(headers, "cross-origin-opener-policy", "same-origin", path);
            assert!(headers["permissions-policy"].to_str().unwrap().contains("camera=()"), "{path}");
        }
        // Whoever wants it sets it in front: it is for all ports and programs of a host, and of those this is one.
        assert!(headers.get("strict-transport-security").is_none(), "{path}");
    }
    // Answers that hyper begins by itself, too.
    let mut raw = RawHttp::connect(&app.url).await;
    raw.send(b"GET / HTTP/9\r\n\r\n").await;
    has(&raw.answer().await.unwrap().headers, "x-content-type-options", "nosniff", "a bare refusal");
    app.stop().await;
}

#[tokio::test]
async fn no_page_has_a_script_or_a_style_in_its_text() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for path in PAGES {
        let text = app.get(path).await.text.to_lowercase();
        for (at, _) in text.match_indices("<script") {
            let tag = &text[at..at + text[at..].find('>').unwrap()];
            assert!(tag.contains("src="), "{path}: {tag}");
        }
        for inline in ["<style", " style=", " onclick=", " onload=", " onerror=", "javascript:"] {
            assert!(!text.contains(inline), "{path}: {inline}");
        }
    }
    app.stop().await;
}
