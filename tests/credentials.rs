//! Who may ask: keys, tickets, JWTs, and the ends of all of them.

mod api_keys;
mod command_line;
mod ends;
mod jwt;
mod secrets;
mod tickets;

use std::time::Duration;

use crate::support::app::{TestApp, TestClient};
use crate::support::database::TestDatabase;

/// Waits until a request is refused for want of a credential: within the time that is promised.
async fn until_refused(client: &TestClient, path: &str) {
    let url = format!("{}{path}", client.url);
    let refused = async { while client.http.get(&url).send().await.unwrap().status() != 401 {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("it is refused within 5 s");
}

#[tokio::test]
async fn nothing_but_public_pages_is_answered_without_a_credential() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let stranger = app.client_without();
    for path in ["/livez", "/readyz", "/", "/favicon.ico", "/openapi.json", "/docs/", "/problems/unauthenticated"] {
        let status = stranger.get(path).await.status;
        assert!(status < 300 || (path == "/readyz" && status == 503), "{path}: {status}");
    }
    for path in [
        "/v1/all/messages",
        "/v1/all/events",
        "/v1/all/events?ticket=",
        "/v1/streams/a-1/messages",
        "/v1/keys",
        "/metrics",
        "/no/such/path",
        "/v1/",
        "/livez/",
        "//livez",
        "/console",
        "/docs/../v1/keys",
    ] {
        let answer = stranger.get(path).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.headers["www-authenticate"], "Bearer", "{path}");
    }
    let body = serde_json::json!({ "messages": [{ "type": "A" }] });
    stranger.append("a-1", &body).await.problem(401, "unauthenticated");
    stranger.post("/v1/tickets", &serde_json::json!({ "scopes": ["read:*"] })).await.problem(401, "unauthenticated");
    assert_eq!(app.append("a-1", &body).await.status, 201);
    app.stop().await;
}

#[tokio::test]
async fn whatever_is_no_credential_is_refused_alike() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let key = app.token().to_owned();
    let other = if key.ends_with('a') { "b" } else { "a" };
    let (cut, changed) = (&key[..key.len() - 1], format!("{}{other}", &key[..key.len() - 1]));
    let (id, swapped) = (&key[3..16], format!("hw_{}{}", "a".repeat(13), &key[16..]));
    for token in [
        "x",
        "hw_",
        id,
        cut,
        &changed,
        &swapped,
        &key.to_uppercase(),
        &format!("{key}{key}"),
        "hwt_x.y",
        "a.b.c",
        "..",
        "null",
    ] {
        let answer = app.client_with(token).get("/v1/all/messages").await;
        let problem = answer.problem(401, "unauthenticated");
        assert!(!problem.to_string().contains(id) && !answer.text.contains("hw_"), "{token}: {problem}");
    }
    for header in
        [format!("Basic {key}"), key.clone(), "Bearer".into(), String::new(), format!("Bearer {key}, Bearer {key}")]
    {
        let request =
            app.client_without().http.get(format!("{}/v1/all/messages", app.url)).header("authorization", header);
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let request = app.client_without().http.get(format!("{}/v1/all/messages", app.url));
    assert_eq!(request.header("authorization", format!("bEARER   {key} ")).send().await.unwrap().status(), 200);
    app.stop().await;
}
