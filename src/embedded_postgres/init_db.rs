//! Makes new data: in a directory of its own that gets its name only when all is done.
use super::account::Account;
use super::binaries::Binaries;
use super::data_dir::DataDir;
use super::error::EmbeddedPostgresError;
use super::program::command;
use super::restore;
use super::{DATABASE, ROLE};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

const UNFINISHED_PREFIX: &str = "pgdata.initdb-";
/// Locales that sort by bytes, so that an index never depends on a library's collation. The first that the system has is
/// taken.
const LOCALES: &[&str] = &["C.UTF-8", "C"];
/// A removal meets a program that is just ending and still writes; then it is tried again.
const REMOVE_ATTEMPTS_MAX: u32 = 50;
const REMOVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// How much of a program's output goes into an error.
const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// `trust` is right here: the server listens on nothing but a socket in a directory of mode 0700, so only the data's owner
/// and root can connect, who could read the files as well. A password would have to be kept beside them.
const PG_HBA: &str = "\
# Written by headwater. The server has no other way in than its socket, which only its owner and root can reach.
# TYPE  DATABASE     USER  METHOD
local   all          all   trust
local   replication  all   trust
";

/// Makes the data when there is none yet; removes what an interrupted attempt left behind.
pub(super) fn ensure(data_dir: &DataDir, binaries: &Binaries, account: &Account) -> Result<(), EmbeddedPostgresError> {
    remove_unfinished(data_dir)?;
    if data_dir.major_version()?.is_some() {
        return Ok(());
    }
    let started = Instant::now();
    let unfinished = data_dir.root.join(format!("{UNFINISHED_PREFIX}{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&unfinished).map_err(EmbeddedPostgresError::io("create", &unfinished))?;
    account.give(&unfinished)?;
    run_initdb(&unfinished, binaries, account)?;
    let pg_hba = unfinished.join("pg_hba.conf");
    fs::write(&pg_hba, PG_HBA).map_err(EmbeddedPostgresError::io("write", &pg_hba))?;
    sync(&pg_hba)?;
    create_database(&unfinished, binaries, account)?;
    fs::rename(&unfinished, &data_dir.pgdata).map_err(EmbeddedPostgresError::io("rename", &unfinished))?;
    sync(&data_dir.root)?;
    tracing::info!(
        pgdata = %data_dir.pgdata.display(),
        version = binaries.version,
        elapsed_ms = started.elapsed().as_millis() as u64,
        "made a new PostgreSQL database"
    );
    Ok(())
}

fn run_initdb(pgdata: &Path, binaries: &Binaries, account: &Account) -> Result<(), EmbeddedPostgresError> {
    let mut first_failure = None;
    for locale in LOCALES {
        let mut initdb = command(&binaries.program("initdb"), account);
        initdb
            .arg("-D")
            .arg(pgdata)
            .args(["--username", ROLE, "--encoding", "UTF8", "--data-checksums", "--no-instructions"])
            .args(["--auth-local", "trust", "--auth-host", "reject"])
            .arg(format!("--locale={locale}"));
        let output = run(&mut initdb, pgdata, None)?;
        if output.status.success() {
            return Ok(());
        }
        first_failure.get_or_insert_with(|| failure(pgdata, "initdb", &output));
    }
    Err(first_failure.expect("there is more than one locale"))
}

/// In single-user mode, so that the database is there from the moment the data has its name.
fn create_database(pgdata: &Path, binaries: &Binaries, account: &Account) -> Result<(), EmbeddedPostgresError> {
    let mut postgres = command(&binaries.program("postgres"), account);
    // Without exit_on_error a failed statement would go unnoticed.
    postgres.args(["--single", "-c", "exit_on_error=true", "-D"]).arg(pgdata).arg("postgres");
    let statement = format!("CREATE DATABASE {DATABASE};\n");
    let output = run(&mut postgres, pgdata, Some(&statement))?;
    if output.status.success() { Ok(()) } else { Err(failure(pgdata, "postgres --single", &output)) }
}

fn run(command: &mut Command, pgdata: &Path, input: Option<&str>) -> Result<Output, EmbeddedPostgresError> {
    let program = PathBuf::from(command.get_program());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().map_err(EmbeddedPostgresError::io("run", program))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program that ended early says why in its output, which is read next.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(EmbeddedPostgresError::io("read the output of a program on", pgdata))
}

fn failure(pgdata: &Path, program: &'static str, output: &Output) -> EmbeddedPostgresError {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let mut from = text.len().saturating_sub(OUTPUT_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    EmbeddedPostgresError::InitDbFailed {
        pgdata: pgdata.to_owned(),
        program,
        status: super::server_log::describe(output.status),
        output: text[from..].trim().to_owned(),
    }
}

/// Removes what an interrupted attempt to make data, or to restore it, left behind.
pub(super) fn remove_unfinished(data_dir: &DataDir) -> Result<(), EmbeddedPostgresError> {
    let root = &data_dir.root;
    let entries = fs::read_dir(root).map_err(EmbeddedPostgresError::io("read", root))?;
    for entry in entries {
        let entry = entry.map_err(EmbeddedPostgresError::io("read", root))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if [UNFINISHED_PREFIX, restore::UNFINISHED_PREFIX].iter().any(|prefix| name.starts_with(prefix)) {
            let path = entry.path();
            tracing::info!(path = %path.display(), "removing what an interrupted initdb or restore left behind");
            remove_dir(&path).map_err(EmbeddedPostgresError::io("remove", path))?;
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> std::io::Result<()> {
    let mut attempts = 1;
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if attempts < REMOVE_ATTEMPTS_MAX => std::thread::sleep(REMOVE_PAUSE),
            done => return done,
        }
        attempts += 1;
    }
}

pub(super) fn sync(path: &Path) -> Result<(), EmbeddedPostgresError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(EmbeddedPostgresError::io("sync", path))
}
