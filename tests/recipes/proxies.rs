//! nginx and Caddy in front, by the files of `operations/`: TLS and HTTP/2, events at once, heartbeats, long polls, append
//! sessions in both directions.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Version};
use serde_json::json;

use super::{recipe, with};
use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::append_session::AppendSession;
use crate::support::certificate::PemPair;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::events::Events;
use crate::support::front::free_port;
use crate::support::waiting::eventually;

/// A proxy as a process; ended when it goes.
struct Proxy(Child);

impl Proxy {
    fn start(package: &str, command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{name} cannot be run ({error}): install the package {package}")))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx' workers end with SIGTERM to their master, not with SIGKILL.
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn nginx(directory: &Path, pair: &PemPair, port: u16, upstream: &str) -> Proxy {
    let text = recipe("nginx.conf");
    let text = with(&text, "listen 443 ssl http2;", &format!("listen 127.0.0.1:{port} ssl http2;"));
    let text = with(&text, "127.0.0.1:8080", upstream);
    let text = with(&text, "/etc/ssl/headwater.pem", pair.certificate.to_str().unwrap());
    let text = with(&text, "/etc/ssl/headwater.key", pair.key.to_str().unwrap());
    let at = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .collect();
    let whole = format!(
        "daemon off; pid {at}/nginx.pid; error_log stderr warn; worker_processes 1;\nevents {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\n{temporary}{text}\n}}\n"
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, whole).unwrap();
    Proxy::start("nginx", Command::new("nginx").arg("-e").arg("stderr").arg("-c").arg(&file).arg("-p").arg(directory))
}

fn caddy(directory: &Path, pair: &PemPair, port: u16, upstream: &str) -> Proxy {
    let text = recipe("Caddyfile");
    let files = format!("{} {}", pair.certificate.display(), pair.key.display());
    let site = format!("https://127.0.0.1:{port} {{\n\ttls {files}\n\tbind 127.0.0.1");
    let text = with(&text, "events.example.com {", &site);
    let text = with(&text, "127.0.0.1:8080", upstream);
    let file = directory.join("Caddyfile");
    std::fs::write(&file, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{text}")).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    command.env("HOME", directory).env("XDG_DATA_HOME", directory).env("XDG_CONFIG_HOME", directory);
    Proxy::start("caddy", command.stderr(Stdio::null()))
}

/// What a proxy must do, whichever it is. `url`: of the proxy.
async fn passes_everything_on(app: &TestApp, http: &Client, url: &str) {
    // HTTP/2, and the answer of the service.
    let ready = eventually("an answer through the proxy", async || {
        let answer = http.get(format!("{url}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(answer)
    })
    .await;
    assert_eq!(ready.version(), Version::HTTP_2);

    // Events come while the stream is open, one by one: what the proxy held back would never come.
    let response = http.get(format!("{url}/v1/streams/a-1/events?heartbeat=1s")).send().await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let mut events = Events::of(response).await;
    events.next("caught-up").await;
    for n in 0..5 {
        app.write("a-1", "T", json!({ "n": n })).await;
        assert_eq!(events.messages(1).await[0]["data"]["n"], n);
    }
    events.next("heartbeat").await;
    let path = format!("{url}/v1/streams/a-1/events?from=beginning");
    let lines = http.get(path).header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(lines.headers()["content-type"], "application/x-ndjson");
    let mut lines = lines;
    let mut text = String::new();
    while text.lines().filter(|line| line.contains("\"n\"")).count() < 5 {
        let chunk = tokio::time::timeout(PATIENCE, lines.chunk()).await.expect("lines come").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }

    // A long poll waits as long as it was asked to, and is answered when a message comes.
    let empty = Answer::of(http.get(format!("{url}/v1/streams/b-1/messages?wait=1s")).send().await.unwrap()).await;
    assert_eq!((empty.status, empty.json()["messages"].as_array().unwrap().len()), (200, 0));
    let poll = tokio::spawn(http.get(format!("{url}/v1/streams/b-1/messages?wait=30s")).send());
    app.write("b-1", "T", json!({ "n": 7 })).await;
    let page = Answer::of(tokio::time::timeout(PATIENCE, poll).await.expect("an answer").unwrap().unwrap()).await;
    assert_eq!(page.json()["messages"][0]["data"]["n"], 7, "{}", page.text);

    // An append, and what is wrong with one, with the name by which the client called.
    let append = http.post(format!("{url}/v1/streams/c-1/messages"));
    assert_eq!(append.json(&json!({ "messages": [{ "type": "T" }] })).send().await.unwrap().status(), 201);
    let wrong =
        http.post(format!("{url}/v1/streams/c-1/messages")).json(&json!({ "messages": [] })).send().await.unwrap();
    Answer::of(wrong).await.problem(422, "invalid");
}

/// Lines go out while lines come in.
async fn passes_append_sessions_on(http: &Client, url: &str) {
    let message = |n: i64| json!({ "type": "T", "data": { "n": n } });
    // nginx asks the service once the body has begun.
    let mut session = AppendSession::beginning_with(http, url, "d-1", &[], Some(&message(0))).await;
    assert_eq!(session.line().await.unwrap()["version"], 0);
    for n in 1..4 {
        session.write([&message(n)]).await;
        assert_eq!(session.line().await.unwrap()["version"], n);
    }
    session.end();
    assert!(session.rest().await.is_empty());
}

/// The service behind a proxy that has one address.
async fn behind(database: &TestDatabase) -> TestApp {
    TestApp::with(&database.url, |settings| settings.connections_per_address_max = 0).await
}

async fn tries(
    start: fn(&Path, &PemPair, u16, &str) -> Proxy,
) -> (Client, String, TestApp, TestDatabase, Proxy, tempfile::TempDir) {
    let database = TestDatabase::migrated().await;
    let app = behind(&database).await;
    let directory = temporary_dir();
    let pair = PemPair::make(directory.path(), "proxy");
    let port = free_port();
    let proxy = start(directory.path(), &pair, port, app.url.trim_start_matches("http://"));
    let http = pair.client().timeout(Duration::from_secs(60)).build().unwrap();
    (http, format!("https://127.0.0.1:{port}"), app, database, proxy, directory)
}

#[tokio::test]
async fn nginx_passes_events_on_as_they_come() {
    let (http, url, app, _database, _proxy, _directory) = tries(nginx).await;
    passes_everything_on(&app, &http, &url).await;
    passes_append_sessions_on(&http, &url).await;
}

#[tokio::test]
async fn caddy_passes_events_on_as_they_come() {
    let (http, url, app, _database, _proxy, _directory) = tries(caddy).await;
    passes_everything_on(&app, &http, &url).await;
    passes_append_sessions_on(&http, &url).await;
}
