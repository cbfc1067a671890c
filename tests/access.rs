//! What a caller may do, on every path: what its scopes allow, and nothing of what they do not.

mod aggregated;
mod answers;
mod appending;
mod limits;
mod reading;
mod subscriptions;
mod table;

use headwater::config::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp, TestClient};
use crate::support::database::TestDatabase;

/// A service that needs credentials.
pub struct Guarded {
    pub app: TestApp,
    database: TestDatabase,
}

/// Somebody that calls it.
pub struct Client(TestClient);

impl Guarded {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let database = TestDatabase::migrated().await;
        let app = TestApp::guarded_with(&database.url, change).await;
        Self { app, database }
    }

    /// Somebody with a key that has these scopes.
    pub async fn caller(&self, scopes: &[&str]) -> Client {
        Client(self.app.client_that_may(scopes).await)
    }

    pub async fn admin(&self) -> Client {
        self.caller(&["admin"]).await
    }

    /// Somebody without a key.
    pub fn nobody(&self) -> Client {
        Client(self.app.client_without())
    }

    /// A session in SQL.
    pub async fn sql(&self) -> tokio_postgres::Client {
        self.database.connect().await
    }

    pub async fn end(self) {
        self.app.stop().await;
    }
}

impl std::ops::Deref for Client {
    type Target = TestClient;

    fn deref(&self) -> &TestClient {
        &self.0
    }
}

impl Client {
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        Answer::of(request.send().await.unwrap()).await
    }

    /// Appends one message of type `T`, and answers its id.
    pub async fn write(&self, stream: &str, data: Value) -> String {
        let answer = self.append(stream, &json!({ "messages": [{ "type": "T", "data": data }] })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["messages"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Refused for want of this scope, wherever it is asked for.
    pub async fn lacks(&self, scope: &str, method: Method, path: &str, body: Option<&Value>) {
        let answer = self.call(method.clone(), path, body).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
        assert_eq!(answer.problem(403, "forbidden")["scope"], scope, "{method} {path}");
    }
}

/// The names of the streams of the messages on a page.
pub fn streams_of(page: &Answer) -> Vec<String> {
    assert_eq!(page.status, 200, "{}", page.text);
    let page = page.json();
    let messages = page["messages"].as_array().unwrap();
    messages.iter().map(|message| message["stream_name"].as_str().unwrap().to_owned()).collect()
}
