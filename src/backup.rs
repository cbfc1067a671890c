//! `headwater backup` and `headwater restore`, for the embedded server: base backups and all changes as they come, with
//! PostgreSQL's own programs, in a directory from which any time in between can be restored.

mod base;
mod directory;
mod receiver;
mod restore;
mod run;
mod wal;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

pub use restore::{RestoreOptions, run_restore};
pub use run::{BackupOptions, run_backup};
pub use watch::watch;

use crate::embedded_postgres::EmbeddedPostgresError;
use crate::store::{OpenError, StoreError};

/// Why a backup or a restore cannot go on. `is_final`: trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    EmbeddedPostgres(#[from] EmbeddedPostgresError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the database: {0}")]
    Store(#[from] StoreError),
    #[error("{program} {status}: {output}")]
    Program { program: &'static str, status: String, output: String },
    #[error(
        "changes were removed before they were received ({reason}): what was written since {since} cannot be restored to; \
         the backup begins anew"
    )]
    Gap { reason: String, since: String },
    #[error("{program} has not begun to receive changes")]
    DoesNotReceive { program: &'static str },
    #[error("another `headwater backup` works on {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} has files, and no backups of Headwater: name an empty directory, or a new one", path.display())]
    NoBackups { path: PathBuf },
    #[error(
        "{} has backups of another store, or of this one before it was restored: name another directory",
        path.display()
    )]
    OtherStore { path: PathBuf },
    #[error("{} cannot be understood: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("the headwater that ran on this data was stopped before the base backup was whole")]
    ServerGone,
    #[error("it was stopped before the base backup was whole")]
    Stopped,
    #[error("{0}")]
    CannotRestore(String),
}

impl BackupError {
    /// For `map_err`: an input or output error with what was tried, and on what.
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Another attempt would fail in the same way.
    fn is_final(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::NoBackups { .. } | Self::OtherStore { .. } | Self::Unreadable { .. } => true,
            Self::EmbeddedPostgres(EmbeddedPostgresError::ProgramMissing { .. }) => true,
            Self::Io { .. }
            | Self::EmbeddedPostgres(_)
            | Self::Open(_)
            | Self::Store(_)
            | Self::Program { .. }
            | Self::Gap { .. }
            | Self::DoesNotReceive { .. }
            | Self::ServerGone
            | Self::Stopped
            | Self::CannotRestore(_) => false,
        }
    }
}

/// How a program has ended, in words.
fn described(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Writes what was renamed or removed in a directory to disk.
fn sync(directory: &Path) -> Result<(), BackupError> {
    std::fs::File::open(directory).and_then(|file| file.sync_all()).map_err(BackupError::io("sync", directory))
}
