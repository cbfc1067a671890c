//! The log lines of the services that tests start: kept in files, and searched for secrets as they come.
//!
//! A secret that a test makes has [`SECRET_MARK`] in it. What the service makes itself (keys, tickets) is known by its form.
#![allow(dead_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Once};

use parking_lot::Mutex;

use super::app::PATIENCE;
use super::waiting::until_some;

/// In every password, token and key that tests give.
pub const SECRET_MARK: &str = "HwTestSecret";

/// What secrets follow, and how many letters of one make it one.
const BEFORE_SECRETS: [(&str, usize); 7] =
    [("Bearer ", 8), ("bearer ", 8), ("ticket=", 8), ("hw_", 16), ("hwt_", 16), ("eyJ", 16), ("BEGIN PRIVATE KEY", 0)];

/// The lines of this process' services and of those that it started.
static LINES: LazyLock<Mutex<File>> = LazyLock::new(|| Mutex::new(open(&format!("{}.log", std::process::id()))));
/// The lines that have a secret.
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Where the lines of a run are kept; `scripts/test` looks into `secrets` at the end.
fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("logs")
}

fn open(name: &str) -> File {
    std::fs::create_dir_all(directory()).unwrap();
    OpenOptions::new().create(true).append(true).open(directory().join(name)).unwrap()
}

/// Takes in the log lines of services inside this process. Does so once, however often it is called.
pub fn collect_own() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::new("headwater=debug,warn");
        // A test may have set one before; its lines are its own.
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Scanned::default).try_init();
    });
}

/// The log of a process.
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// How many of them were looked at.
    seen: usize,
}

impl Log {
    /// Waits for the next line with this text.
    pub async fn next_with(&mut self, text: &str) -> String {
        let what = format!("the log has {text:?}");
        let (lines, seen) = (self.lines.clone(), &mut self.seen);
        until_some(&what, PATIENCE, || {
            let lines = lines.lock();
            let found = lines.iter().skip(*seen).position(|line| line.contains(text))?;
            *seen += found + 1;
            Some(lines[*seen - 1].clone())
        })
        .await
    }

    pub fn all_so_far(&self) -> Vec<String> {
        self.lines.lock().clone()
    }
}

/// Takes in the log of a process, until it ends, and passes it on.
pub fn collect(log: impl Read + Send + 'static) -> Log {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let taken = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            take(&line);
            eprintln!("{line}");
            taken.lock().push(line);
        }
    });
    Log { lines, seen: 0 }
}

/// Asserts that no line so far has a secret, of whichever test.
#[track_caller]
pub fn assert_no_secrets() {
    let found = FOUND.lock();
    assert!(found.is_empty(), "secrets in the log: {found:#?}");
}

/// The secret that a text has, if there is one.
pub fn secret_in(text: &str) -> Option<&str> {
    if let Some(at) = text.find(SECRET_MARK) {
        return Some(&text[at..]);
    }
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    BEFORE_SECRETS.iter().find_map(|(before, letters)| {
        text.match_indices(before)
            .map(|(at, _)| &text[at..])
            .find(|rest| rest.as_bytes()[before.len()..].iter().take_while(|byte| is_letter(byte)).count() >= *letters)
    })
}

fn take(line: &str) {
    let _ = writeln!(LINES.lock(), "{line}");
    if secret_in(line).is_some() {
        let _ = writeln!(open("secrets"), "{line}");
        FOUND.lock().push(line.to_owned());
    }
}

/// One event of this process' log: written whole when it is dropped.
#[derive(Default)]
struct Scanned(Vec<u8>);

impl Write for Scanned {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Scanned {
    fn drop(&mut self) {
        String::from_utf8_lossy(&self.0).lines().for_each(take);
    }
}

#[test]
fn a_secret_is_known_by_its_mark_or_its_form() {
    for line in [
        "connecting as app:HwTestSecret-1@db",
        "authorization: Bearer 0123456789abcdef",
        "GET /v1/all/events?ticket=0123456789abcdef",
        "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        assert!(secret_in(line).is_some(), "{line}");
    }
    for line in ["WWW-Authenticate: Bearer", "a request failed path=/v1/keys", "schema: hw_x", "Bearer is missing", ""]
    {
        assert_eq!(secret_in(line), None, "{line}");
    }
}
