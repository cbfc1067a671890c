//! However much is logged, and wherever somebody puts a secret by mistake: none of it reaches the log, an answer or a metric.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::app::Answer;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::log_scan::{self, SECRET_MARK, secret_in};
use crate::support::service_process::ServiceProcess;
use crate::transfer;

/// A key as the command line makes it.
async fn key(database: &TestDatabase) -> String {
    let (code, out, error) =
        transfer::run(&database.url, &["keys", "create", "--name", "tests", "--scope", "admin"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(secret_in(&error), None, "{error}");
    let key = out.split(|letter: char| letter.is_whitespace() || letter == '"').find(|word| word.starts_with("hw_"));
    key.unwrap_or_else(|| panic!("no key in {out}")).to_owned()
}

/// The database's URL with a password that it does not ask for.
fn with_password(url: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}password={SECRET_MARK}-of-the-database")
}

struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Client {
    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let mut request = self.http.request(method.parse::<Method>().unwrap(), format!("{}{path}", self.url));
        request = request.bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// What somebody who has the key does with it, and where it does not belong.
    async fn use_and_misuse(&self) {
        let messages = json!({ "messages": [{ "type": "Opened", "data": { "n": 1 } }] });
        let answer = Answer::of(self.send("POST", "/v1/streams/account-1/messages", Some(messages)).await).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let wanted = json!({ "scopes": ["read:account-*"], "ttl": "1m" });
        let answer = Answer::of(self.send("POST", "/v1/tickets", Some(wanted)).await).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let ticket = answer.json()["ticket"].as_str().unwrap().to_owned();
        let path = format!("{}/v1/streams/account-1/events?from=beginning&ticket={ticket}", self.url);
        Events::of(self.http.get(path).send().await.unwrap()).await.next("message").await;

        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJIb2xkZXIiLCJleHAiOjB9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";
        let mark = format!("{SECRET_MARK}-0123456789");
        for secret in [self.key.as_str(), &ticket, jwt, &mark] {
            for (method, path, body) in [
                ("GET", format!("/v1/streams/{secret}/messages"), None),
                ("GET", format!("/v1/streams/{secret}"), None),
                ("GET", format!("/v1/all/messages?filter={secret}"), None),
                ("GET", format!("/v1/all/messages?ticket={secret}"), None),
                ("GET", format!("/v1/all/messages?from={secret}"), None),
                ("GET", format!("/v1/messages/{secret}"), None),
                ("GET", format!("/nothing/{secret}"), None),
                ("GET", format!("/v1/subscriptions/{secret}"), None),
                ("DELETE", format!("/v1/keys/{secret}"), None),
                ("POST", "/v1/streams/a-1/messages".to_owned(), Some(json!({ "messages": secret }))),
                ("POST", "/v1/streams/a-1/messages".to_owned(), Some(json!({ secret: [] }))),
                ("POST", "/v1/tickets".to_owned(), Some(json!({ "scopes": [secret], "ttl": "1m" }))),
            ] {
                let answer = self.send(method, &path, body).await;
                assert!(answer.status().as_u16() < 500, "{method} {path}");
            }
            // As a credential that is wrong, in each way in which one may come.
            for (name, value) in [
                ("authorization", format!("Bearer {secret}x")),
                ("authorization", format!("Basic {secret}")),
                ("authorization", secret.to_owned()),
                ("cookie", format!("headwater_ticket={secret}x; other={secret}")),
                ("idempotency-key", secret.to_owned()),
                ("last-event-id", secret.to_owned()),
                ("host", format!("{secret}.example")),
                ("origin", format!("https://{secret}.example")),
                ("content-type", format!("text/{secret}")),
            ] {
                let request = self.http.post(format!("{}/v1/streams/a-1/messages", self.url)).header(name, value);
                let answer = Answer::of(request.body("{}").send().await.unwrap()).await;
                assert!((400..500).contains(&answer.status), "{name}: {}", answer.text);
                if name == "authorization" || name == "cookie" {
                    assert_eq!(secret_in(&answer.text), None, "{name}: {}", answer.text);
                }
            }
        }
    }
}

#[tokio::test]
async fn no_secret_reaches_the_log_or_a_metric_however_much_is_logged() {
    let database = TestDatabase::migrated().await;
    let key = key(&database).await;
    let url = with_password(&database.url);
    let arguments = ["--database-url", &url, "--listen", "127.0.0.1:0", "--credentials", "required"];
    let mut service = ServiceProcess::try_start_logging(&arguments, "debug").unwrap();
    http_client(); // installs the provider of TLS
    for http in [http_client(), reqwest::Client::builder().http2_prior_knowledge().build().unwrap()] {
        let client = Client { http, url: service.url.clone(), key: key.clone() };
        client.use_and_misuse().await;
        let metrics = client.send("GET", "/metrics", None).await.text().await.unwrap();
        assert_eq!(secret_in(&metrics), None);
    }
    // When this is in the log, all that came before it was searched.
    service.signal(libc::SIGTERM);
    service.log.next_with("stopping").await;
    assert!(service.log.all_so_far().len() > 10, "little was logged");
    log_scan::assert_no_secrets();
    assert!(service.wait().success());
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_without_its_password() {
    for url in [
        format!("postgresql://app:{SECRET_MARK}@127.0.0.1:1/headwater"),
        format!("postgresql://app@127.0.0.1:1/headwater?password={SECRET_MARK}"),
        format!("postgresql://app:{SECRET_MARK}@127.0.0.1:port/headwater"),
        format!("postgresql//app:{SECRET_MARK}@"),
        SECRET_MARK.to_owned(),
    ] {
        for command in
            [&["serve", "--database-wait", "0s", "--listen", "127.0.0.1:0"][..], &["migrate"], &["keys", "list"]]
        {
            let (code, out, error) = transfer::run(&url, command).await;
            assert_ne!(code, 0, "{command:?}");
            assert_eq!((secret_in(&out), secret_in(&error)), (None, None), "{command:?}: {error}");
        }
    }
}
