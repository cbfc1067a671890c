//! PostgreSQL's programs as children: `pg_receivewal`, which writes changes as they come, and those that end by themselves.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{BackupError, described};
use crate::embedded_postgres::{Tools, url_as};
use crate::store::backup::{BACKUP_ROLE, BACKUP_SLOT};

pub const RECEIVER: &str = "pg_receivewal";
/// How much of a program's output goes into an error: the end of it.
const OUTPUT_BYTES_MAX: usize = 4 << 10;
/// A program that was asked to end and has not is killed after this time.
const END_WAIT_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// How the server says that it has removed changes which were not received.
const REMOVED: [&str; 3] =
    ["has already been removed", "can no longer get changes", "can no longer access replication slot"];

/// A program that runs, with the end of what it writes to standard error.
pub struct Program {
    name: &'static str,
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Program {
    /// It is interrupted when the thread that called this ends.
    pub fn start(name: &'static str, mut command: Command) -> Result<Self, BackupError> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(BackupError::io("run", name))?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let reader = child.stderr.take().map(|stderr| {
            let output = output.clone();
            std::thread::spawn(move || keep_end(stderr, &output))
        });
        Ok(Self { name, child, output, reader })
    }

    /// `None`: it runs. Otherwise how it has ended.
    pub fn has_ended(&mut self) -> Option<Result<(), BackupError>> {
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status,
            Err(error) => return Some(Err(BackupError::io("wait for", self.name)(error))),
        };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let output = self.output.lock();
        let output = String::from_utf8_lossy(&output).trim().to_owned();
        let failed = BackupError::Program { program: self.name, status: described(status), output };
        Some(if status.success() { Ok(()) } else { Err(failed) })
    }

    /// Asks it to end, and waits.
    #[expect(clippy::disallowed_methods, reason = "the backup has a thread of its own")]
    pub fn end(&mut self) -> Result<(), BackupError> {
        // SAFETY: the child has not been waited for as long as `has_ended` answers nothing, so its id is still its own.
        let interrupt = |child: &Child| unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
        let deadline = Instant::now() + END_WAIT_MAX;
        let mut is_asked = false;
        loop {
            if let Some(ended) = self.has_ended() {
                return ended;
            }
            if !std::mem::replace(&mut is_asked, true) {
                interrupt(&self.child);
            } else if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn keep_end(mut stderr: impl Read, output: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let mut output = output.lock();
        output.extend_from_slice(&buffer[..count]);
        let surplus = output.len().saturating_sub(OUTPUT_BYTES_MAX);
        output.drain(..surplus);
    }
}

/// Writes the changes to a directory as they come, and to disk at once.
pub fn receive(tools: &Tools, url: &str, into: &Path) -> Result<Program, BackupError> {
    let mut command = tools.command(RECEIVER);
    command.arg("--directory").arg(into).args(["--dbname", &url_as(url, BACKUP_ROLE), "--slot", BACKUP_SLOT]).args([
        "--synchronous",
        "--no-loop",
        "--no-password",
    ]);
    Program::start(RECEIVER, command)
}

/// Whether the server has removed changes that were to be received.
pub fn tells_of_a_gap(error: &BackupError) -> bool {
    matches!(error, BackupError::Program { output, .. } if REMOVED.iter().any(|text| output.contains(text)))
}
