//! Takes a base backup: copies the server while it works, and checks the copy.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::BackupError;
use super::directory::BaseFacts;
use super::receiver::Program;
use crate::embedded_postgres::{Tools, url_as};
use crate::store::backup::{BACKUP_ROLE, WalState};

const COPY: &str = "pg_basebackup";
const VERIFY: &str = "pg_verifybackup";
const POLL: Duration = Duration::from_millis(50);
/// In the file of this name the server notes where the changes of a copy begin.
const LABEL: &str = "backup_label";

/// Copies the server. `may_go_on` is asked all the time; where it refuses, the copy is given up.
pub fn copy(
    tools: &Tools,
    url: &str,
    into: &Path,
    may_go_on: impl FnMut() -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut command = tools.command(COPY);
    // Without the changes that are made meanwhile: they are received already. (The child that would receive them would outlive
    // a copy that is killed.)
    command
        .arg("--pgdata")
        .arg(into)
        .args(["--dbname", &url_as(url, BACKUP_ROLE), "--checkpoint", "fast", "--wal-method", "none"])
        .args(["--label", "headwater backup", "--no-password"]);
    run(COPY, command, may_go_on)
}

/// Compares each file of a copy with its checksum.
pub fn verify(
    tools: &Tools,
    copy: &Path,
    may_go_on: impl FnMut() -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut command = tools.command(VERIFY);
    // Changes are checked by their files: they are elsewhere.
    command.args(["--exit-on-error", "--no-parse-wal"]).arg(copy);
    run(VERIFY, command, may_go_on)
}

#[expect(clippy::disallowed_methods, reason = "the backup has a thread of its own")]
fn run(
    name: &'static str,
    command: Command,
    mut may_go_on: impl FnMut() -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut program = Program::start(name, command)?;
    loop {
        if let Some(ended) = program.has_ended() {
            return ended;
        }
        may_go_on()?;
        std::thread::sleep(POLL);
    }
}

/// What is known of a copy that was finished in this state.
pub fn facts_of(copy: &Path, run: &str, finished: &WalState) -> Result<BaseFacts, BackupError> {
    let label = copy.join(LABEL);
    let text = std::fs::read_to_string(&label).map_err(BackupError::io("read", &label))?;
    // START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
    let line = text.lines().find(|line| line.starts_with("START WAL LOCATION"));
    let file = line.and_then(|line| line.split_once("(file ")?.1.strip_suffix(')'));
    let first_wal_file = file
        .ok_or_else(|| BackupError::Unreadable { path: label, reason: "it does not say where changes begin".into() })?
        .to_owned();
    Ok(BaseFacts {
        finished_at: finished.time.to_rfc3339(),
        first_wal_file,
        wal_file_bytes: finished.file_bytes,
        run: run.to_owned(),
    })
}
