//! Backups of the embedded server: what was acknowledged before a time is restored, nothing else, whatever was killed.

mod clock;
mod damage;
mod doctor;
mod gaps;
mod kills;
mod once;
mod room;
mod set_back;
mod times;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::app::{Answer, PATIENCE};
use crate::support::database::temporary_dir;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::{eventually, until_some};

/// A copy of the server, and its check, may take longer than other facts on a busy machine.
const BACKUP_PATIENCE: Duration = Duration::from_secs(120);

/// Data, a place for backups, and a service.
struct Stage {
    parent: TempDir,
    service: Option<ServiceProcess>,
}

impl Stage {
    fn new(arguments: &[&str]) -> Self {
        let mut stage = Self { parent: temporary_dir(), service: None };
        stage.service = Some(stage.serve("data", arguments));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.parent.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A service on a data directory of this name.
    fn serve(&self, name: &str, arguments: &[&str]) -> ServiceProcess {
        let data = self.path(name);
        let listen = ["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
        ServiceProcess::start(&[&listen, arguments].concat())
    }

    fn url(&self) -> String {
        self.service.as_ref().unwrap().url.clone()
    }

    fn stop(&mut self) {
        assert!(self.service.take().unwrap().stop().success());
    }

    fn backup(&self, arguments: &[&str]) -> Backup {
        Backup::start(&self.data(), &self.path("backup"), arguments)
    }

    /// One base backup, and nothing more.
    fn backup_once(&self) -> Output {
        headwater(&["backup", "--once", "--to", text(&self.path("backup")), "--data-dir", text(&self.data())])
    }

    fn restore(&self, into: &str, arguments: &[&str]) -> Output {
        let (from, into) = (self.path("backup"), self.path(into));
        headwater(&[&["restore", "--from", text(&from), "--data-dir", text(&into)], arguments].concat())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.args(arguments).env_remove("DATABASE_URL").env("HEADWATER_LOG", "info").stdin(Stdio::null());
    command
}

/// The program, until its end.
fn headwater(arguments: &[&str]) -> Output {
    let output = command(arguments).output().unwrap();
    eprintln!("{arguments:?}: {}{}", String::from_utf8_lossy(&output.stdout), errors(&output));
    output
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", errors(output));
}

#[track_caller]
fn refused(output: &Output, reason: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", errors(output));
    assert!(errors(output).contains(reason), "{reason:?} is not said: {}", errors(output));
}

/// `headwater backup` as a process.
struct Backup {
    child: Child,
    /// What it says on both outputs.
    said: Arc<Mutex<Vec<String>>>,
}

impl Backup {
    fn start(data: &Path, to: &Path, arguments: &[&str]) -> Self {
        let own = ["backup", "--to", text(to), "--data-dir", text(data)];
        let mut child =
            command(&[&own, arguments].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    eprintln!("backup: {line}");
                    said.lock().push(line);
                }
            });
        }
        Self { child, said }
    }

    /// Waits until so many lines have a text.
    async fn says(&self, text: &str, times: usize) {
        let count = || self.said.lock().iter().filter(|line| line.contains(text)).count();
        until_some(&format!("the backup says {text:?}"), BACKUP_PATIENCE, || (count() >= times).then_some(())).await;
    }

    async fn has_base(&self) {
        self.says("is whole", 1).await;
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It receives all that was acknowledged by now, and ends.
    fn stop(mut self) -> ExitStatus {
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        self.child.wait().unwrap()
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // Does nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn append(url: &str, stream: &str, number: i64) -> Value {
    let body = json!({ "messages": [{ "type": "Counted", "data": { "number": number } }] });
    let request = http_client().post(format!("{url}/v1/streams/{stream}/messages")).json(&body);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["messages"][0].clone()
}

/// The numbers in a stream.
async fn numbers(url: &str, stream: &str) -> Vec<i64> {
    let page = http_client().get(format!("{url}/v1/streams/{stream}/messages?limit=1000")).send().await.unwrap();
    let page = Answer::of(page).await.json();
    page["messages"].as_array().unwrap().iter().map(|message| message["data"]["number"].as_i64().unwrap()).collect()
}

/// A gauge of the service; waits until it is there.
async fn gauge(url: &str, name: &str) -> f64 {
    eventually(name, || async {
        let text = http_client().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    })
    .await
}

/// A time that is after all that was answered, and before all that comes.
async fn now() -> String {
    tokio::time::sleep(Duration::from_millis(2)).await;
    let now = headwater::domain::time::Timestamp::now().to_rfc3339();
    tokio::time::sleep(Duration::from_millis(2)).await;
    now
}

/// The processes that were started with this path.
fn processes_with(path: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text(path))).collect()
}
