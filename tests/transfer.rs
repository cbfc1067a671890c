//! `headwater export` and `import`: what was stored comes back as it was, once, whatever is killed or lost on the way.

mod export;
mod import;
mod refusals;
mod under_fire;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::database::temporary_dir;

/// The program with a database, its output piped.
pub fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.args(arguments).args(["--database-url", url, "--log", "warn"]);
    command.env_remove("DATABASE_URL").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end: exit code, standard output, standard error.
pub async fn run(url: &str, arguments: &[&str]) -> (i32, String, String) {
    let child = command(url, arguments).spawn().unwrap();
    finish(child).await
}

pub async fn finish(child: Child) -> (i32, String, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// The same with something on standard input.
pub async fn run_with_input(url: &str, arguments: &[&str], input: String) -> (i32, String, String) {
    let mut child = command(url, arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = tokio::task::spawn_blocking(move || {
        // A program that refuses a line stops reading.
        let _ = stdin.write_all(input.as_bytes());
    });
    let told = finish(child).await;
    feeding.await.unwrap();
    told
}

pub async fn import(url: &str, file: &Path, more: &[&str]) -> (i32, String, String) {
    run(url, &[&["import", file.to_str().unwrap()], more].concat()).await
}

/// Imports, and asserts that this succeeded.
pub async fn imported(url: &str, file: &Path, more: &[&str]) -> String {
    let (code, out, error) = import(url, file, more).await;
    assert_eq!((code, out.as_str()), (0, ""), "{error}");
    error
}

/// A file in a directory of its own.
pub struct Lines {
    _directory: TempDir,
    pub path: PathBuf,
}

impl Lines {
    pub fn of(text: &str) -> Self {
        let directory = temporary_dir();
        let path = directory.path().join("messages.ndjson");
        std::fs::write(&path, text).unwrap();
        Self { _directory: directory, path }
    }

    /// Where nothing is yet.
    pub fn nowhere() -> Self {
        let lines = Self::of("");
        std::fs::remove_file(&lines.path).unwrap();
        lines
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }
}

/// One line, with an id made of its global position.
pub fn line(stream_name: &str, position: i64, global_position: i64) -> String {
    let id = Uuid::from_u128(global_position as u128);
    format!(
        r#"{{"id":"{id}","stream_name":"{stream_name}","type":"Imported","position":{position},"global_position":{global_position},"data":{{"n": {global_position}}},"time":"2018-01-01T00:00:00.000000Z"}}"#
    ) + "\n"
}

/// So many messages in seven streams of two categories; every tenth global position is a hole.
pub fn many(count: i64) -> String {
    let positions = (1..).filter(|position| position % 10 != 0).take(count as usize);
    (0..)
        .zip(positions)
        .map(|(nth, at)| line(&format!("{}-{}", ["a", "b"][nth as usize % 2], nth % 7), nth / 7, at))
        .collect()
}

/// Everything that is stored, as text, a message a line in order of global positions.
pub async fn stored(sql: &Client) -> Vec<String> {
    let all = "SELECT row_to_json(m)::text || extract(epoch FROM time) FROM message_store.messages AS m \
        ORDER BY global_position";
    sql.query(all, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

pub async fn count(sql: &Client) -> i64 {
    sql.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
}

/// Ids in order of global positions.
pub async fn ids(sql: &Client) -> Vec<Uuid> {
    let ids = "SELECT id FROM message_store.messages ORDER BY global_position";
    sql.query(ids, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The id in a line.
pub fn id_of(line: &str) -> Uuid {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().parse().unwrap()
}
