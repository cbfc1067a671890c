//! Takes what PostgreSQL writes to standard error, line by line, into our own log.
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;

/// The last lines go into the error when PostgreSQL does not start.
const TAIL_LINES_MAX: usize = 20;
/// A longer line (a statement with its data) is logged in parts.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// How long to wait for the last lines of a server that has ended: its left-over children may hold the pipe open.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_millis(300);

/// What PostgreSQL says of itself is for `--log postgres=debug`, but for what an operator should know: that it recovers
/// after a crash, or that one of its processes has died.
const WORTH_TELLING: [&str; 6] = [
    "database system was interrupted",
    "database system was not properly shut down",
    "redo ",
    "server process (",
    "terminating any other active server processes",
    "all server processes terminated",
];

/// The log of one run of the server.
pub(super) struct ServerLog {
    tail: Arc<Mutex<VecDeque<String>>>,
    ended: Receiver<()>,
}

impl ServerLog {
    /// Reads on a thread of its own until every process of the server has closed its end.
    pub fn capture(stderr: impl Read + Send + 'static) -> ServerLog {
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_LINES_MAX)));
        let (end, ended) = sync_channel(1);
        let lines = Arc::clone(&tail);
        let reader = std::thread::Builder::new().name("postgres-log".to_owned());
        let spawned = reader.spawn(move || {
            copy_lines(BufReader::new(stderr), &lines);
            let _ = end.send(());
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "PostgreSQL's log cannot be read");
        }
        ServerLog { tail, ended }
    }

    /// The last lines of a server that has ended.
    pub fn last_words(&self) -> String {
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(LAST_WORDS_WAIT_MAX) {
            tracing::debug!("children of the ended PostgreSQL are still there");
        }
        let tail = self.tail.lock();
        tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

fn copy_lines(mut stderr: impl BufRead, tail: &Mutex<VecDeque<String>>) {
    let mut line = Vec::new();
    let mut severity = Severity::Info;
    loop {
        line.clear();
        match stderr.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        // DETAIL, HINT and the further lines of a statement belong to the line before them.
        severity = Severity::of(text).unwrap_or(severity);
        severity.log(text);
        let mut tail = tail.lock();
        if tail.len() == TAIL_LINES_MAX {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Debug,
    Info,
    Warn,
    Error,
}

impl Severity {
    /// The severity of a line; `None`: it continues the one before.
    fn of(line: &str) -> Option<Severity> {
        // The server logs this each time that it is asked whether it is ready.
        if line.starts_with("FATAL:  the database system is ") {
            return Some(Severity::Debug);
        }
        // A session that was ended on purpose: by a shutdown, or by us because a commit was in doubt.
        if line == "FATAL:  terminating connection due to administrator command" {
            return Some(Severity::Debug);
        }
        // A read that has as many bytes as it may: the rest of the statement is given up, by us.
        if line == "ERROR:  canceling statement due to user request" {
            return Some(Severity::Debug);
        }
        let (label, text) = line.split_once(":  ")?;
        match label {
            "PANIC" => Some(Severity::Error),
            // These are about one client, not the server: a violated constraint is an ERROR, too.
            "FATAL" | "ERROR" | "WARNING" => Some(Severity::Warn),
            "LOG" if WORTH_TELLING.iter().any(|beginning| text.starts_with(beginning)) => Some(Severity::Info),
            "LOG" | "NOTICE" | "INFO" => Some(Severity::Debug),
            _ => None,
        }
    }

    fn log(self, text: &str) {
        match self {
            Severity::Debug => tracing::debug!(target: "postgres", "{text}"),
            Severity::Info => tracing::info!(target: "postgres", "{text}"),
            Severity::Warn => tracing::warn!(target: "postgres", "{text}"),
            Severity::Error => tracing::error!(target: "postgres", "{text}"),
        }
    }
}

/// How a process ended, in words: `exited with code 1`, `was ended by signal 9`.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_follows_the_label_and_details_belong_to_what_they_follow() {
        assert_eq!(Severity::of("PANIC:  could not write"), Some(Severity::Error));
        assert_eq!(Severity::of("ERROR:  duplicate key"), Some(Severity::Warn));
        assert_eq!(Severity::of("LOG:  database system was not properly shut down"), Some(Severity::Info));
        assert_eq!(Severity::of("LOG:  checkpoint complete: wrote 3 buffers"), Some(Severity::Debug));
        assert_eq!(Severity::of("FATAL:  the database system is starting up"), Some(Severity::Debug));
        assert_eq!(Severity::of("DETAIL:  Key (id)=(1) already exists."), None);
    }

    #[test]
    fn a_statement_that_was_given_up_is_no_warning_and_neither_is_its_text() {
        let given_up = ["ERROR:  canceling statement due to user request", "STATEMENT:  SELECT", "\tFROM messages"];
        let severities = given_up.map(Severity::of);
        assert_eq!(severities, [Some(Severity::Debug), None, None]);
        let too_long = "ERROR:  canceling statement due to statement timeout";
        assert_eq!(Severity::of(too_long), Some(Severity::Warn));
    }

    #[test]
    fn last_words_are_the_last_lines_in_order() {
        let lines: String = (1..=TAIL_LINES_MAX + 5).map(|number| format!("LOG:  line {number}\n")).collect();
        let log = ServerLog::capture(std::io::Cursor::new(lines));
        let words = log.last_words();
        assert_eq!(words.lines().count(), TAIL_LINES_MAX);
        assert!(words.starts_with("LOG:  line 6\n") && words.ends_with("LOG:  line 25"), "{words}");
    }
}
