//! Makes data of a base backup and the changes that came after it: in a directory of its own that gets its name only when
//! all is done.
use super::account::Account;
use super::data_dir::{self, DataDir, DataDirLock};
use super::error::EmbeddedPostgresError;
use super::readiness::{self, Readiness};
use super::server_log::{ServerLog, describe};
use super::supervisor::Launch;
use super::tools::binaries_for;
use super::{BACKUP_NOTE, EmbeddedSettings, blocking, init_db, recovered};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

pub(super) const UNFINISHED_PREFIX: &str = "pgdata.restore-";
const POLL: Duration = Duration::from_millis(50);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// The server cannot know that nothing more was written before the time that it is to stop at.
const TARGET_NOT_REACHED: &str = "recovery ended before configured recovery target was reached";
/// A file of a base backup that is about the backup, not the data.
const MANIFEST: &str = "backup_manifest";

/// What to make data of.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The base backup: the server's directory as it was copied.
    pub base: PathBuf,
    /// The files of changes since then, without a gap: where they are, and their names.
    pub wal: Vec<(PathBuf, String)>,
    /// The size of each of them.
    pub wal_file_bytes: i64,
    /// The place in the log of changes up to which they are there for certain; 0: nothing is known of it.
    pub up_to: i64,
    /// The time after which changes are left out, as PostgreSQL reads it. All that was committed before is in `wal`.
    pub until: Option<String>,
    /// A file that is written beside the data: name and text.
    pub note: (&'static str, String),
}

/// Restores into the data directory, which has no data yet.
pub async fn restore(settings: &EmbeddedSettings, plan: RestorePlan) -> Result<PathBuf, EmbeddedPostgresError> {
    let settings = settings.clone();
    blocking(move || {
        let (data_dir, is_new) = DataDir::open(&settings.data_root()?)?;
        // Before anything else, so that a process that does not get the lock changes nothing.
        let lock = DataDirLock::take(&data_dir)?;
        if data_dir.pgdata.symlink_metadata().is_ok() {
            return Err(EmbeddedPostgresError::DataExists { pgdata: data_dir.pgdata });
        }
        let account = Account::choose(&data_dir.root, &data_dir.pgdata)?;
        if is_new {
            account.give(&data_dir.root)?;
        }
        account.give(&data_dir.lock_file())?;
        account.check_reaches(&data_dir.root)?;
        init_db::remove_unfinished(&data_dir)?;
        let unfinished = data_dir.root.join(format!("{UNFINISHED_PREFIX}{}", std::process::id()));
        let outcome = Restore { settings: &settings, plan: &plan, data_dir: &data_dir, account: &account }
            .make(&unfinished)
            .and_then(|()| {
                write_note(&data_dir, &account, &plan.note)?;
                // Of a backup of other data, which were here before.
                remove_if_there(&data_dir.root.join(BACKUP_NOTE))?;
                rename(&unfinished, &data_dir.pgdata)?;
                init_db::sync(&data_dir.root)
            });
        if outcome.is_err()
            && let Err(error) = init_db::remove_unfinished(&data_dir)
        {
            tracing::warn!("what was restored so far stays: {error}");
        }
        drop(lock);
        outcome.map(|()| data_dir.root)
    })
    .await
}

struct Restore<'a> {
    settings: &'a EmbeddedSettings,
    plan: &'a RestorePlan,
    data_dir: &'a DataDir,
    account: &'a Account,
}

impl Restore<'_> {
    fn make(&self, unfinished: &Path) -> Result<(), EmbeddedPostgresError> {
        let binaries = binaries_for(self.settings, &self.plan.base)?;
        self.account.check_executes(&binaries.program("postgres"))?;
        self.copy_dir(&self.plan.base, unfinished)?;
        for (from, name) in &self.plan.wal {
            self.copy_file(from, &unfinished.join("pg_wal").join(name))?;
        }
        // Tells the server to recover from a backup, and to begin a new timeline at its end.
        let signal = unfinished.join("recovery.signal");
        fs::write(&signal, "").map_err(EmbeddedPostgresError::io("write", &signal))?;
        self.take_over(&signal, 0o600)?;
        let socket_dir = self.data_dir.socket_dir(self.account);
        data_dir::make_socket_dir(&socket_dir, self.account)?;
        let launch = Launch {
            binaries,
            account: self.account.clone(),
            pgdata: unfinished.to_owned(),
            socket_dir,
            backup_wal_bytes_max: self.settings.backup_wal_bytes_max,
        };
        match recover(&launch, self.plan.until.as_deref()) {
            // It has found a change that came after that time, so all before are there.
            Ok(()) if self.plan.until.is_some() => return Ok(()),
            // All that there is was committed before that time, or something is damaged.
            Err(EmbeddedPostgresError::DoesNotRecover { output, .. })
                if self.plan.until.is_some() && output.contains(TARGET_NOT_REACHED) =>
            {
                recover(&launch, None)?;
            }
            recovered => recovered?,
        }
        recovered::check_end(unfinished, self.plan)
    }

    /// Copies a directory of the server, but for the changes in it: those come whole from elsewhere.
    fn copy_dir(&self, from: &Path, to: &Path) -> Result<(), EmbeddedPostgresError> {
        DirBuilder::new().mode(0o700).create(to).map_err(EmbeddedPostgresError::io("create", to))?;
        self.account.give(to)?;
        for entry in fs::read_dir(from).map_err(EmbeddedPostgresError::io("read", from))? {
            let entry = entry.map_err(EmbeddedPostgresError::io("read", from))?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(EmbeddedPostgresError::io("look at", &path))?;
            if kind.is_dir() {
                self.copy_dir(&path, &to.join(name))?;
            } else if !kind.is_file() {
                // A link leads to a tablespace elsewhere.
                let unknown = io::Error::other("it is neither a file nor a directory");
                return Err(EmbeddedPostgresError::io("restore", path)(unknown));
            } else if name != MANIFEST && from.file_name().is_none_or(|parent| parent != "pg_wal") {
                self.copy_file(&path, &to.join(name))?;
            }
        }
        Ok(())
    }

    fn copy_file(&self, from: &Path, to: &Path) -> Result<(), EmbeddedPostgresError> {
        fs::copy(from, to).map_err(EmbeddedPostgresError::io("copy", from))?;
        self.take_over(to, 0o600)
    }

    fn take_over(&self, path: &Path, mode: u32) -> Result<(), EmbeddedPostgresError> {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(path, permissions).map_err(EmbeddedPostgresError::io("change the mode of", path))?;
        self.account.give(path)
    }
}

/// Runs the server until it has recovered, and stops it in order.
fn recover(launch: &Launch, until: Option<&str>) -> Result<(), EmbeddedPostgresError> {
    let mut command = launch.command();
    let mut set = |name: &str, value: &str| {
        command.arg("-c").arg(format!("{name}={value}"));
    };
    // The changes are in pg_wal, where the server looks for what the command does not bring.
    set("restore_command", "false");
    set("recovery_target_timeline", "current");
    set("recovery_target_action", "promote");
    // So connections are accepted when the recovery is over, not before.
    set("hot_standby", "off");
    if let Some(until) = until {
        set("recovery_target_time", until);
        set("recovery_target_inclusive", "on");
    }
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(EmbeddedPostgresError::io("run", "postgres"))?;
    let log = child.stderr.take().map(ServerLog::capture);
    let failed = |child: &mut Child, log: Option<ServerLog>| {
        let status = child.wait().map_or_else(|error| error.to_string(), describe);
        let output = log.map(|log| log.last_words()).unwrap_or_default();
        EmbeddedPostgresError::DoesNotRecover { status, output }
    };
    let mut progress = Instant::now() + PROGRESS_EVERY;
    let started = Instant::now();
    while readiness::ask(&launch.socket_dir) == Readiness::NotYet {
        if !matches!(child.try_wait(), Ok(None)) {
            return Err(failed(&mut child, log));
        }
        if Instant::now() >= progress {
            tracing::info!(waited_s = started.elapsed().as_secs(), "PostgreSQL applies the changes");
            progress += PROGRESS_EVERY;
        }
        std::thread::sleep(POLL);
    }
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(failed(&mut child, log)),
    }
}

fn write_note(
    data_dir: &DataDir,
    account: &Account,
    (name, text): &(&str, String),
) -> Result<(), EmbeddedPostgresError> {
    let path = data_dir.root.join(name);
    write_file(account, &path, text)
}

/// Writes a small file beside the data, whole or not at all, for the account alone.
pub(super) fn write_file(account: &Account, path: &Path, text: &str) -> Result<(), EmbeddedPostgresError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let unfinished = path.with_extension("unfinished");
    let _ = fs::remove_file(&unfinished);
    // The directory may belong to another user than we are: a link laid there must not lead us elsewhere.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(EmbeddedPostgresError::io("create", &unfinished))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(EmbeddedPostgresError::io("write", &unfinished))?;
    account.give(&unfinished)?;
    rename(&unfinished, path)
}

fn rename(from: &Path, to: &Path) -> Result<(), EmbeddedPostgresError> {
    fs::rename(from, to).map_err(EmbeddedPostgresError::io("rename", from))
}

fn remove_if_there(path: &Path) -> Result<(), EmbeddedPostgresError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EmbeddedPostgresError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
