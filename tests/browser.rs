//! The browser beside the service is not trusted: pages of other origins change nothing, and other names are not served.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;
use crate::support::raw_http::RawHttp;

const APP: &str = "https://app.example";
const EVIL: &str = "http://evil.example";

/// A service with a message, an aggregated stream and a subscription, which pages of [`APP`] may call.
async fn guarded() -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.cors_origin = vec![APP.parse().unwrap()];
        settings.allowed_host = vec!["Events.Example".parse().unwrap()];
    })
    .await;
    app.write("account-1", "Opened", json!({})).await;
    let answer = app
        .put("/v1/aggregated-streams/all", &json!({ "categories": ["account"], "partitioner": { "kind": "constant" } }))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let answer = app.put("/v1/subscriptions/billing", &json!({ "source": { "category": "account" } })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    (database, app)
}

async fn send(app: &TestApp, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
    let mut request = app.http.request(method.parse::<Method>().unwrap(), format!("{}{path}", app.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    Answer::of(request.send().await.unwrap()).await
}

/// Asserts that it is refused, and that the answer says which setting allows it.
#[track_caller]
fn refused(answer: &Answer, setting: &str, place: &str) {
    assert_eq!(answer.status, 403, "{place}: {}", answer.text);
    let problem = answer.problem(403, "forbidden");
    assert_eq!(problem["setting"], setting, "{place}");
    let variable = format!("HEADWATER_{}", setting.trim_start_matches("--").replace('-', "_").to_uppercase());
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(setting) && detail.contains(&variable), "{place}: {detail}");
}

/// All requests that the document knows, with paths that are filled in.
fn operations() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&headwater::http::openapi::document()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{stream_name}", "account-1")
            .replace("{category}", "account")
            .replace("{id}", "0192f1c2-0000-7000-8000-000000000000")
            .replace("{partition}", "0")
            .replace("{position}", "0")
            .replace("{consumer}", "w1")
            .replace("{key}", "X1")
            .replace("{problem}", "forbidden");
        let name = if path.starts_with("/v1/subscriptions") { "billing" } else { "all" };
        let path = path.replace("{name}", name);
        assert!(!path.contains('{'), "{path}");
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters" && *key != "summary");
        found.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    found
}

#[tokio::test]
async fn nothing_that_changes_something_is_done_for_a_page_of_another_origin() {
    let (_database, app) = guarded().await;
    let mut count = 0;
    for (method, path) in operations() {
        let joins = path == "/v1/subscriptions/billing/events";
        if method == "GET" && !joins {
            continue;
        }
        count += 1;
        let path = if joins { format!("{path}?consumer=w1") } else { path };
        for headers in [
            &[("origin", EVIL)][..],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://evil.example, https://app.example")],
            &[("origin", APP), ("origin", EVIL)],
            &[("origin", "http://localhost:1")],
            &[("origin", EVIL), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            let place = format!("{method} {path} {headers:?}");
            refused(&send(&app, &method, &path, headers, None).await, "--cors-origin", &place);
        }
    }
    assert!(count > 15, "{count} operations that change something");
    let status = app.get("/v1/subscriptions/billing").await.json();
    assert_eq!(status["status"]["state"], "running", "{status}");
    assert_eq!(app.get("/v1/subscriptions/billing/consumers").await.json()["consumers"], json!([]));
    app.stop().await;
}

#[tokio::test]
async fn who_is_no_browser_or_a_page_of_ours_is_served() {
    let (_database, app) = guarded().await;
    let own = app.url.clone();
    let port = own.rsplit(':').next().unwrap().to_owned();
    let (named, host) = (format!("http://localhost:{port}"), format!("LOCALHOST:{port}"));
    let before_tls = format!("https://events.example:{port}");
    let events_host = format!("events.example:{port}");
    for headers in [
        &[][..],
        &[("origin", own.as_str())],
        &[("origin", APP)],
        &[("origin", APP), ("sec-fetch-site", "cross-site")],
        &[("origin", &named), ("host", &host)],
        // A proxy that ends TLS before us, and one that gives us another `Host` as well.
        &[("origin", &before_tls), ("host", &events_host)],
        &[("origin", "https://events.example"), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
    ] {
        for path in ["/v1/subscriptions/billing/pause", "/v1/subscriptions/billing/resume"] {
            let answer = send(&app, "POST", path, headers, None).await;
            assert!(answer.status < 300, "{path} {headers:?}: {}", answer.text);
        }
        let body = json!({ "messages": [{ "type": "T" }] });
        let answer = send(&app, "POST", "/v1/streams/account-1/messages", headers, Some(&body)).await;
        assert_eq!(answer.status, 201, "{headers:?}: {}", answer.text);
    }
    // Reading is the browser's to judge: it gives the answer to a page that may have it, and to no other.
    let answer = send(&app, "GET", "/v1/all/messages", &[("origin", APP)], None).await;
    assert_eq!((answer.status, answer.headers["access-control-allow-origin"].to_str().unwrap()), (200, APP));
    let answer = send(&app, "GET", "/v1/all/messages", &[("origin", EVIL)], None).await;
    assert_eq!((answer.status, answer.headers.get("access-control-allow-origin")), (200, None));
    app.stop().await;
}

#[tokio::test]
async fn a_page_that_may_call_the_service_reads_its_refusals_too() {
    let (_database, app) = guarded().await;
    let headers = [("origin", APP), ("host", "evil.example")];
    let answer = send(&app, "POST", "/v1/subscriptions/billing/pause", &headers, None).await;
    refused(&answer, "--allowed-host", "pause");
    assert_eq!(answer.headers["access-control-allow-origin"], APP);
    app.stop().await;
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_served_nothing() {
    let (_database, app) = guarded().await;
    let mut paths = operations();
    for path in ["/", "/console/app/main.js", "/docs/", "/openapi.json", "/nothing", "/favicon.ico"] {
        paths.push(("GET".to_owned(), path.to_owned()));
    }
    for (method, path) in paths {
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.example"] {
            let place = format!("{method} {path} {host}");
            refused(&send(&app, &method, &path, &[("host", host)], None).await, "--allowed-host", &place);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn names_of_this_machine_addresses_and_names_that_are_allowed_are_served() {
    let (_database, app) = guarded().await;
    for host in [
        "localhost",
        "LocalHost.:1",
        "tab.localhost:8080",
        "127.0.0.1",
        "[::1]:8080",
        "10.1.2.3:8080",
        "events.example",
        "EVENTS.example.:443",
    ] {
        for path in ["/readyz", "/v1/all/messages", "/metrics", "/"] {
            let answer = send(&app, "GET", path, &[("host", host)], None).await;
            assert_eq!(answer.status, 200, "{path} {host}: {}", answer.text);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_request_is_judged_by_every_name_that_it_gives() {
    let (_database, app) = guarded().await;
    for target in ["/v1/all/messages", "/v1/all/events", "/livez"] {
        for head in [
            format!("GET http://evil.example{target} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            format!("GET http://localhost{target} HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            format!("GET http://evil.example{target} HTTP/1.0\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nhost:evil.example\r\n\r\n"),
        ] {
            let mut raw = RawHttp::connect(&app.url).await;
            raw.send(head.as_bytes()).await;
            refused(&raw.answer().await.expect("an answer"), "--allowed-host", &head);
        }
        for head in [
            format!("GET {target} HTTP/1.1\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: \u{e9}\r\n\r\n"),
        ] {
            let mut raw = RawHttp::connect(&app.url).await;
            raw.send(head.as_bytes()).await;
            let problem = raw.answer().await.expect("an answer").problem(400, "malformed-request");
            assert_eq!(problem["errors"][0]["field"], "Host", "{head}");
        }
    }
    // Old load balancers ask like this, and no browser does.
    let mut raw = RawHttp::connect(&app.url).await;
    raw.send(b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert_eq!(raw.answer().await.expect("an answer").status, 200);
    app.stop().await;
}

#[tokio::test]
async fn over_http_2_the_authority_is_the_host() {
    let (_database, app) = guarded().await;
    let http =
        reqwest::Client::builder().http2_prior_knowledge().resolve("evil.example", address(&app)).build().unwrap();
    let url = format!("http://evil.example:{}/v1/all/messages", address(&app).port());
    refused(&Answer::of(http.get(url).send().await.unwrap()).await, "--allowed-host", "HTTP/2");
    let pause =
        |origin: &str| http.post(format!("{}/v1/subscriptions/billing/pause", app.url)).header("origin", origin).send();
    refused(&Answer::of(pause(EVIL).await.unwrap()).await, "--cors-origin", "HTTP/2");
    assert!(pause(&app.url).await.unwrap().status().is_success());
    app.stop().await;
}

fn address(app: &TestApp) -> std::net::SocketAddr {
    app.url.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_a_page_can_send_without_asking_first_is_no_json() {
    let (_database, app) = guarded().await;
    for path in
        ["/v1/streams/account-1/messages", "/v1/subscriptions/billing/pause", "/v1/aggregated-streams/all/rebuild"]
    {
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
            let request = app.http.post(format!("{}{path}", app.url)).header("content-type", media_type);
            let answer = Answer::of(request.body(r#"{"messages": [{"type": "T"}]}"#).send().await.unwrap()).await;
            answer.problem(415, "unsupported-media-type");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn the_document_says_that_every_operation_may_be_forbidden() {
    let document: Value = serde_json::from_str(&headwater::http::openapi::document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/")) {
        for (method, operation) in item.as_object().unwrap() {
            let answer = &operation["responses"]["403"];
            assert_eq!(answer["description"], "forbidden", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn with_credentials_any_name_will_do_and_a_foreign_page_still_changes_nothing() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let body = json!({ "messages": [{ "type": "A" }] });
    let path = "/v1/streams/a-1/messages";
    assert_eq!(send(&app, "POST", path, &[("host", "evil.example")], Some(&body)).await.status, 201);
    let answer = send(&app, "POST", path, &[("origin", EVIL)], Some(&body)).await;
    refused(&answer, "--cors-origin", path);
    // The first thing that a page without a credential hears is that, too.
    let stranger = app.client_without();
    let request = stranger.http.post(format!("{}{path}", app.url)).header("origin", EVIL).json(&body);
    refused(&Answer::of(request.send().await.unwrap()).await, "--cors-origin", path);
    app.stop().await;
}
