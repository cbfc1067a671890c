//! The program itself, as a process that can be killed.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::log_scan::{self, Log};

/// `headwater serve` as a process.
pub struct ServiceProcess {
    child: Child,
    pub url: String,
    pub log: Log,
    /// Standard output, kept open: the service may write to it again.
    _stdout: BufReader<std::process::ChildStdout>,
}

impl ServiceProcess {
    /// Starts it and waits for its first line. `arguments` go after `serve`.
    pub fn start(arguments: &[&str]) -> Self {
        Self::try_start(arguments).unwrap_or_else(|status| panic!("the service does not start: {status}"))
    }

    /// The same; if it ends before it is ready, how.
    pub fn try_start(arguments: &[&str]) -> Result<Self, ExitStatus> {
        Self::try_start_logging(arguments, "warn")
    }

    /// The same with variables of its own.
    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let started = Self::try_start_with(arguments, "warn", variables);
        started.unwrap_or_else(|status| panic!("the service does not start: {status}"))
    }

    /// The same with more in its log, or less.
    pub fn try_start_logging(arguments: &[&str], log: &str) -> Result<Self, ExitStatus> {
        Self::try_start_with(arguments, log, &[])
    }

    /// The same with variables.
    pub fn try_start_with(arguments: &[&str], log: &str, variables: &[(&str, &str)]) -> Result<Self, ExitStatus> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
            .arg("serve")
            .args(arguments)
            .env_remove("DATABASE_URL")
            .env("HEADWATER_LOG", log)
            // No balancer has to notice that it stops; a flag says otherwise.
            .env("HEADWATER_DRAIN_GRACE", "0s")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = log_scan::collect(child.stderr.take().unwrap());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        match line.trim().strip_prefix("headwater listening on ") {
            Some(url) => Ok(Self { url: url.to_owned(), child, log: lines, _stdout: stdout }),
            None => Err(child.wait().unwrap()),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let status = self.child.wait().unwrap();
        log_scan::assert_no_secrets();
        status
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The process of the embedded server on a data directory.
pub fn postmaster(data: &Path) -> Option<libc::pid_t> {
    std::fs::read_to_string(data.join("pgdata/postmaster.pid")).ok()?.lines().next()?.parse().ok()
}

/// The embedded server's URL, from where its socket is.
pub fn embedded_url(data: &Path) -> String {
    let pid_file = std::fs::read_to_string(data.join("pgdata/postmaster.pid")).unwrap();
    let socket_dir = pid_file.lines().nth(4).unwrap().replace('/', "%2F");
    format!("postgresql://headwater@{socket_dir}:5432/headwater?sslmode=disable")
}
