//! A service inside the test's own process.
#![allow(dead_code)]

use std::time::Duration;

use headwater::app::Running;
use headwater::config::{CredentialsMode, Settings};
use headwater::domain::observation::Observation;
use headwater::domain::scope::Scope;
use headwater::domain::time::Timestamp;
use headwater::lifecycle::Lifecycle;
use headwater::service::Service;
use headwater::service::auth::KeyRequest;
use reqwest::Response;
use serde_json::{Value, json};

use super::database::TestDatabase;
use super::events::Events;
use super::log_scan;
use super::waiting::eventually;

/// The longest that a test waits for a fact.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A client of one service, with a credential or without.
#[derive(Clone)]
pub struct TestClient {
    pub url: String,
    pub http: reqwest::Client,
    token: Option<String>,
    follows_over_http2: bool,
}

/// A service on a free port, and a client of it.
pub struct TestApp {
    client: TestClient,
    pub service: Service,
    lifecycle: Lifecycle,
    finished: tokio::task::JoinHandle<()>,
}

/// What the service answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.expect("the answer arrives whole"),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {:?}", self.text))
    }

    /// The problem document; asserts its form, its status and its kind.
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        let document = self.json();
        assert_eq!(document["type"], format!("/problems/{slug}"), "{document}");
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string() && document["detail"].is_string(), "{document}");
        document
    }
}

impl TestApp {
    /// From here on its event streams are followed over this version of HTTP.
    pub fn following_over(mut self, version: reqwest::Version) -> Self {
        self.client.follows_over_http2 = version == reqwest::Version::HTTP_2;
        self
    }

    /// A service with the default settings on a database.
    pub async fn on(database: &TestDatabase) -> Self {
        Self::with(&database.url, |_| {}).await
    }

    /// A service with other settings, on any database URL.
    pub async fn with(url: &str, change: impl FnOnce(&mut Settings)) -> Self {
        log_scan::collect_own();
        let mut settings = Settings::defaults();
        settings.listen = "127.0.0.1:0".parse().unwrap();
        settings.drain_timeout = Duration::from_secs(5);
        change(&mut settings);
        let lifecycle = Lifecycle::new();
        let running = Running::start(&settings, url, lifecycle.clone()).await.expect("the service starts");
        let url = running.url().to_owned();
        let service = running.service.clone();
        let finished = tokio::spawn(async move { running.finish().await.expect("the service stops cleanly") });
        Self { client: TestClient::of(url, None), service, lifecycle, finished }
    }

    /// A service that requires credentials. The app itself is a client whose key may do everything.
    pub async fn guarded(database: &TestDatabase) -> Self {
        Self::guarded_with(&database.url, |_| {}).await
    }

    /// The same with other settings, on any database URL.
    pub async fn guarded_with(url: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let mut app = Self::with(url, |settings| {
            settings.auth.credentials = Some(CredentialsMode::Required);
            change(settings);
        })
        .await;
        let key = app.make_key(&["admin"]).await;
        app.client = app.client_with(&key);
        app
    }

    /// An API key with these scopes.
    pub async fn make_key(&self, scopes: &[&str]) -> String {
        self.make_key_for(scopes, None).await
    }

    /// An API key that expires.
    pub async fn make_key_for(&self, scopes: &[&str], lasts: Option<Duration>) -> String {
        let scopes: Vec<Scope> = scopes.iter().map(|scope| scope.parse().expect("a scope")).collect();
        let expires_at = lasts.map(Timestamp::after);
        let request = KeyRequest { name: "test", scopes: &scopes, expires_at, created_by: "test" };
        self.service.credentials.create_key(request).await.expect("a key is made").secret.expose().to_owned()
    }

    /// A client with a key that has these scopes.
    pub async fn client_that_may(&self, scopes: &[&str]) -> TestClient {
        let key = self.make_key(scopes).await;
        self.client_with(&key)
    }

    /// A client that sends this credential.
    pub fn client_with(&self, token: &str) -> TestClient {
        TestClient::of(self.client.url.clone(), Some(token))
    }

    /// A client without a credential.
    pub fn client_without(&self) -> TestClient {
        TestClient::of(self.client.url.clone(), None)
    }

    /// Waits for something to happen; call [`Service::observer`]`.watch()` before what causes it.
    pub async fn observed(
        watcher: &mut tokio::sync::broadcast::Receiver<Observation>,
        what: &str,
        is_it: impl Fn(&Observation) -> bool,
    ) -> Observation {
        let waiting = async {
            loop {
                match watcher.recv().await {
                    Ok(observation) if is_it(&observation) => return observation,
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// Is about to stop.
    pub fn leave(&self) {
        self.lifecycle.leave();
    }

    /// It answers before it has looked what is in the log.
    pub async fn until_ready(&self) {
        eventually("it is ready", || async { (self.get("/readyz").await.status == 200).then_some(()) }).await;
    }

    /// Begins to stop, without waiting.
    pub fn drain(&self) {
        self.lifecycle.drain();
    }

    /// Stops and waits for the end.
    pub async fn stop(self) {
        self.lifecycle.drain();
        drop(self.client);
        self.finished.await.expect("the service ends without a panic");
        log_scan::assert_no_secrets();
    }
}

impl std::ops::Deref for TestApp {
    type Target = TestClient;

    fn deref(&self) -> &TestClient {
        &self.client
    }
}

impl TestClient {
    fn of(url: String, token: Option<&str>) -> Self {
        Self { url, http: super::http_client_with(token), token: token.map(str::to_owned), follows_over_http2: false }
    }

    /// The credential that it sends.
    pub fn token(&self) -> &str {
        self.token.as_deref().expect("a client with a credential")
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.http.post(format!("{}{path}", self.url)).json(body).send().await.unwrap()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.http.put(format!("{}{path}", self.url)).json(body).send().await.unwrap()).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.http.patch(format!("{}{path}", self.url)).json(body).send().await.unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.http.delete(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    /// Sends exactly this text as JSON.
    pub async fn post_text(&self, path: &str, body: impl Into<String>) -> Answer {
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        Answer::of(request.body(body.into()).send().await.unwrap()).await
    }

    /// Appends to a stream; the body is the append request.
    pub async fn append(&self, stream: &str, body: &Value) -> Answer {
        self.post(&format!("/v1/streams/{}/messages", encode(stream)), body).await
    }

    /// Appends one message and asserts that it was written; returns its global position.
    pub async fn write(&self, stream: &str, message_type: &str, data: Value) -> i64 {
        let answer = self.append(stream, &json!({ "messages": [{ "type": message_type, "data": data }] })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["messages"][0]["global_position"].as_i64().unwrap()
    }

    /// Opens an event stream.
    pub async fn follow(&self, path: &str) -> Events {
        // On a connection of its own: one that had another request before is served in another way.
        let http = match self.follows_over_http2 {
            true => super::http2_client_with(self.token.as_deref()),
            false => super::http_client_with(self.token.as_deref()),
        };
        Events::of(http.get(format!("{}{path}", self.url)).send().await.expect("the service answers")).await
    }

    /// A metric's value, by its name with labels as it is printed.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

/// A name as one segment of a path.
pub fn encode(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
