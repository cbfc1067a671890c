//! The embedded PostgreSQL: durable, alone on its data, and never in anybody's way.
mod data_directory;
mod death;
mod download;
mod start_and_stop;

use crate::support::database::{TestDatabase, connect, temporary_dir};
use crate::support::embedded_process::{self, EmbeddedProcess};
use crate::support::waiting::{until, until_some};
use headwater::embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresError as Error, EmbeddedSettings};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
/// The user `nobody` of every system that tests run on as root.
const NOBODY: u32 = 65_534;

/// Data in a directory that every user can reach.
struct Data {
    parent: TempDir,
    settings: EmbeddedSettings,
}

impl Data {
    fn new() -> Data {
        let parent = temporary_dir();
        let settings = EmbeddedSettings { data_dir: Some(parent.path().join("data")), ..EmbeddedSettings::default() };
        Data { parent, settings }
    }

    fn dir(&self) -> &Path {
        self.settings.data_dir.as_deref().unwrap()
    }

    fn pgdata(&self) -> PathBuf {
        self.dir().join("pgdata")
    }

    async fn start(&self) -> EmbeddedPostgres {
        self.try_start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start(&self) -> Result<EmbeddedPostgres, Error> {
        EmbeddedPostgres::start(&self.settings).await
    }

    async fn error(&self) -> Error {
        match self.try_start().await {
            Ok(_) => panic!("it starts"),
            Err(error) => error,
        }
    }

    fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// A clean shutdown removes the file; a crash leaves it.
    fn is_shut_down_cleanly(&self) -> bool {
        !self.pgdata().join("postmaster.pid").exists()
    }
}

fn is_root() -> bool {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn is_alive(pid: i32) -> bool {
    // A dead one that nobody has waited for yet has no memory any more.
    fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|statm| !statm.starts_with("0 "))
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a plain system call, on a process that the test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// A field of `/proc/PID/status`, such as `PPid` and `Uid`.
fn status_of(pid: i32, field: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

async fn setting(url: &str, name: &str) -> String {
    connect(url).await.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
}

async fn count(url: &str) -> i64 {
    connect(url).await.query_one("SELECT count(*) FROM kept", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn embedded_process_body() {
    embedded_process::body().await;
}

#[tokio::test]
async fn test_database_is_its_own_and_is_dropped_with_its_value() {
    let kept = TestDatabase::migrated().await;
    let dropped = TestDatabase::empty().await;
    let client = dropped.connect().await;
    let name: String = client.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    // The open session does not keep it alive.
    drop(dropped);
    let question = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let left = kept.connect().await.query_one(question, &[&name]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    assert_eq!(setting(&kept.url, "fsync").await, "on");
}
