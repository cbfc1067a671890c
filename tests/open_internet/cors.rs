//! Pages of other origins read answers only if their origin is named, letter by letter.

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;

const NAMED: [&str; 2] = ["https://app.example", "http://localhost:3000"];

async fn send(app: &TestApp, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.http.request(method.parse::<Method>().unwrap(), format!("{}{path}", app.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// The words of a list, in lower case.
fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().flat_map(|value| value.to_str().unwrap().split(','));
    values.map(|word| word.trim().to_lowercase()).collect()
}

async fn named(database: &TestDatabase) -> TestApp {
    TestApp::with(&database.url, |settings| {
        settings.cors_origin = NAMED.iter().map(|origin| origin.parse().unwrap()).collect();
    })
    .await
}

#[tokio::test]
async fn without_the_setting_no_answer_speaks_of_origins() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for origin in ["https://app.example", "null", &app.url.clone()] {
        let answer = send(&app, "GET", "/v1/all/messages", &[("origin", origin)]).await;
        assert_eq!(answer.status, 200);
        let preflight = [("origin", origin), ("access-control-request-method", "PUT")];
        let asked = send(&app, "OPTIONS", "/v1/subscriptions/a", &preflight).await;
        asked.problem(405, "method-not-allowed");
        for headers in [&answer.headers, &asked.headers] {
            assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{headers:?}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_named_origin_reads_answers_with_and_without_credentials_and_others_do_not() {
    let database = TestDatabase::migrated().await;
    let app = named(&database).await;
    app.write("account-1", "Opened", json!({})).await;
    for path in ["/v1/all/messages", "/v1/all/messages?limit=0", "/nothing", "/v1/all/events", "/metrics"] {
        for origin in NAMED {
            let url = format!("{}{path}", app.url);
            let answer = app.http.get(url).header("origin", origin).send().await.unwrap();
            let headers = answer.headers();
            assert_eq!(text(headers, "access-control-allow-origin"), origin, "{path}");
            assert_eq!(text(headers, "access-control-allow-credentials"), "true", "{path}");
            let exposed = words(headers, "access-control-expose-headers");
            for name in ["etag", "retry-after", "www-authenticate"] {
                assert!(exposed.contains(&name.to_owned()), "{path}: {exposed:?}");
            }
            assert!(words(headers, "vary").contains(&"origin".to_owned()), "{path}");
        }
        for origin in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "https://evil-app.example",
            "https://sub.app.example",
            "https://APP.example",
            "http://localhost",
            "http://localhost:30000",
            "null",
            "*",
            "https://app.example, http://localhost:3000",
            "",
        ] {
            let url = format!("{}{path}", app.url);
            let answer = app.http.get(url).header("origin", origin).send().await.unwrap();
            let headers = answer.headers();
            assert_eq!(headers.get("access-control-allow-origin"), None, "{path} {origin}");
            // A cache must not hand it to a page that is named, nor the reverse.
            assert!(words(headers, "vary").contains(&"origin".to_owned()), "{path} {origin}");
        }
        let answer = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
        assert!(words(answer.headers(), "vary").contains(&"origin".to_owned()), "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_preflight_names_what_may_be_sent_and_changes_nothing() {
    let database = TestDatabase::migrated().await;
    let app = named(&database).await;
    for (method, path) in [
        ("POST", "/v1/streams/account-1/messages"),
        ("PUT", "/v1/subscriptions/billing"),
        ("PATCH", "/v1/subscriptions/billing"),
        ("DELETE", "/v1/subscriptions/billing"),
        ("GET", "/v1/all/events"),
    ] {
        let asks = |origin| {
            [
                ("origin", origin),
                ("access-control-request-method", method),
                (
                    "access-control-request-headers",
                    "authorization,content-type,idempotency-key,if-none-match,last-event-id",
                ),
            ]
        };
        let answer = send(&app, "OPTIONS", path, &asks(NAMED[0])).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{method} {path}");
        let headers = &answer.headers;
        assert_eq!(text(headers, "access-control-allow-origin"), NAMED[0]);
        assert_eq!(text(headers, "access-control-allow-credentials"), "true");
        assert!(words(headers, "access-control-allow-methods").contains(&method.to_lowercase()), "{headers:?}");
        let allowed = words(headers, "access-control-allow-headers");
        for name in ["authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id"] {
            assert!(allowed.contains(&name.to_owned()), "{allowed:?}");
        }
        assert!(!allowed.contains(&"*".to_owned()) && !allowed.contains(&"cookie".to_owned()), "{allowed:?}");
        assert!(text(headers, "access-control-max-age").parse::<u32>().unwrap() <= 7_200);
        assert!(words(headers, "vary").contains(&"origin".to_owned()), "{headers:?}");
        let answer = send(&app, "OPTIONS", path, &asks("https://evil.example")).await;
        assert_eq!(answer.headers.get("access-control-allow-origin"), None, "{method} {path}");
    }
    assert_eq!(app.get("/v1/subscriptions").await.json()["subscriptions"], json!([]));
    app.stop().await;
}
