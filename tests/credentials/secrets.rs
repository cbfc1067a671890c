//! Credentials are in no log, no metric, no answer, wherever a request has put them.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::http_client;
use crate::support::jwt::{Issuer, claims};

/// Everything that the library and the service have to say goes into a file.
struct Loud {
    child: std::process::Child,
    log: std::path::PathBuf,
    url: String,
}

impl Loud {
    fn start(database: &TestDatabase, directory: &std::path::Path, secret: &std::path::Path) -> Self {
        let log = directory.join("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
            .args(["serve", "--listen", "127.0.0.1:0", "--credentials", "required", "--database-url", &database.url])
            .args(["--jwt-secret-file", secret.to_str().unwrap(), "--log", "trace"])
            .env_remove("DATABASE_URL")
            .env_remove("HEADWATER_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        std::thread::spawn(move || stdout.read_to_string(&mut String::new()));
        let url = line.trim().strip_prefix("headwater listening on ").expect("it starts").to_owned();
        Self { child, log, url }
    }

    /// Stops it, and answers all that it has logged.
    fn stop(mut self) -> String {
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        self.child.wait().unwrap();
        String::from_utf8(std::fs::read(&self.log).unwrap()).unwrap()
    }
}

impl Drop for Loud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_in_no_log_no_metric_and_no_problem() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let file = directory.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let maker = TestApp::guarded(&database).await;
    let admin = maker.token().to_owned();
    let ticket = maker.post("/v1/tickets", &json!({ "scopes": ["read:*"] })).await.json();
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();
    maker.stop().await;
    let issuer = Issuer::secret(SECRET);
    let jwt = issuer.token("HS256", &claims("admin"));
    let wrong_jwt = Issuer::secret("another secret, which is as long as that").token("HS256", &claims("admin"));
    let wrong_key = format!("hw_{}_{}", "b".repeat(13), "c".repeat(52));
    let wrong_ticket = format!("{}AAAA", &ticket[..ticket.len() - 4]);
    let secrets = [&admin, &ticket, &jwt, &wrong_jwt, &wrong_key, &wrong_ticket];

    let service = Loud::start(&database, directory.path(), &file);
    let mut answers = Vec::new();
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for http in [http_client(), http2] {
        for secret in secrets {
            let url = |path: &str| format!("{}{path}", service.url);
            let bearer = format!("Bearer {secret}");
            let requests = [
                http.get(url("/v1/all/messages")).header("authorization", &bearer),
                http.get(url("/v1/keys")).header("authorization", &bearer),
                http.get(url("/v1/all/messages")).header("authorization", format!("Basic {secret}")),
                http.get(url("/v1/all/messages")).header("authorization", format!("Bearer {secret} {secret}")),
                http.get(url("/v1/all/messages")).header("cookie", format!("headwater_ticket={secret}")),
                http.get(url("/v1/all/messages")).header("x-api-key", secret.as_str()),
                http.get(url(&format!("/v1/all/messages?ticket={secret}"))),
                http.get(url(&format!("/v1/all/messages?ticket={secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/all/messages?{secret}=1"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/all/messages?from={secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/all/events?ticket={secret}&from={secret}"))),
                http.get(url(&format!("/v1/all/events?last_event_id={secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/{secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/keys/{secret}"))).header("authorization", &bearer),
                http.delete(url(&format!("/v1/keys/{secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/messages/{secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/streams/{secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/v1/subscriptions/{secret}"))).header("authorization", &bearer),
                http.get(url(&format!("/problems/{secret}"))),
                http.post(url("/v1/keys"))
                    .header("authorization", &bearer)
                    .json(&json!({ "name": "n", "scopes": [secret] })),
                http.post(url("/v1/keys"))
                    .header("authorization", &bearer)
                    .json(&json!({ "name": "n", secret.as_str(): 1 })),
                http.post(url("/v1/tickets")).header("authorization", &bearer).json(&json!({ "scopes": [secret] })),
                http.post(url("/v1/keys"))
                    .header("authorization", &bearer)
                    .header("content-type", "application/json")
                    .body(format!("{{\"{secret}")),
                http.post(url("/v1/keys"))
                    .header("authorization", &bearer)
                    .header("content-type", format!("text/{secret}"))
                    .body("x"),
            ];
            for request in requests {
                let response = request.send().await.unwrap();
                let is_stream = response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream");
                let (status, headers) = (response.status(), format!("{:?}", response.headers()));
                // An event stream has no end.
                let text = if is_stream { String::new() } else { response.text().await.unwrap() };
                answers.push(format!("{status} {headers} {text}"));
            }
            // One that is taken opens a stream.
            let events = http.get(url(&format!("/v1/all/events?ticket={secret}"))).send().await.unwrap();
            assert_eq!(events.status() == 200, *secret == ticket);
        }
        let metrics = http.get(format!("{}/metrics", service.url)).header("authorization", format!("Bearer {admin}"));
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("headwater_http_requests_total"));
        answers.push(metrics);
    }
    // A key that is made is in its answer, and nowhere else.
    let made =
        http_client().post(format!("{}/v1/keys", service.url)).header("authorization", format!("Bearer {admin}"));
    let made = made.json(&json!({ "name": "n", "scopes": ["read:*"] })).send().await.unwrap();
    let made = made.json::<serde_json::Value>().await.unwrap()["key"].as_str().unwrap().to_owned();
    let log = service.stop();
    assert!(log.lines().count() > 1_000, "{} lines", log.lines().count());
    answers.push(log);
    for secret in secrets.into_iter().chain([&made]) {
        // Any part of it that could be used.
        let part = &secret[secret.len() - 30..];
        for answer in &answers {
            let at = answer.find(part);
            let around = at.map(|at| &answer[at.saturating_sub(300)..at]);
            assert_eq!(around, None, "a secret is in an answer or in the log, after this");
        }
    }
}
