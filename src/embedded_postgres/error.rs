//! What can go wrong with the embedded PostgreSQL: each error says what is wrong and what to do.
use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedPostgresError {
    #[error(
        "there is no place for the embedded PostgreSQL's data: neither XDG_DATA_HOME nor HOME is set. \
         Name a directory with --data-dir (HEADWATER_DATA_DIR)"
    )]
    NoDefaultDataDir,

    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `create`, `read`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error(
        "the data directory {} is in use by another headwater ({}). Stop that one, or name another \
         directory with --data-dir (HEADWATER_DATA_DIR)",
        data_dir.display(), holder(*pid)
    )]
    DataDirInUse {
        data_dir: PathBuf,
        /// None: the holder has not written its process id yet.
        pid: Option<u32>,
    },

    #[error(
        "PostgreSQL refuses to run as root, and there is no user `postgres` to run it as. Create that user, \
         start headwater as an ordinary user, or give the data directory {} to the user that shall run it",
        data_dir.display()
    )]
    NoAccountToRunAs { data_dir: PathBuf },

    #[error("{} belongs to root, and PostgreSQL runs as `{account}`. Give it over: chown -R {account} {}", path.display(), path.display())]
    DataBelongsToRoot { path: PathBuf, account: String },

    #[error(
        "user `{account}`, as whom PostgreSQL runs, cannot enter {}. Allow it (chmod o+x {}), or choose another \
         data directory with --data-dir (HEADWATER_DATA_DIR)",
        path.display(), path.display()
    )]
    UnreachableForAccount { path: PathBuf, account: String },

    #[error(
        "user `{account}`, as whom PostgreSQL runs, cannot execute {}. Choose other binaries with \
         --postgres-bin-dir (HEADWATER_POSTGRES_BIN_DIR)",
        path.display()
    )]
    UnusableForAccount { path: PathBuf, account: String },

    #[error(
        "no PostgreSQL found. Install it (Debian: apt install postgresql; Fedora: dnf install postgresql-server; \
         macOS: brew install postgresql@{suggested_major}), name the directory that holds `postgres` and `initdb` with \
         --postgres-bin-dir (HEADWATER_POSTGRES_BIN_DIR), or use a server of your own with --database-url \
         (HEADWATER_DATABASE_URL). {download}"
    )]
    BinariesNotFound {
        suggested_major: u32,
        /// Why no download was tried.
        download: &'static str,
    },

    #[error("{} holds no usable `postgres` and `initdb`: {reason}. Correct --postgres-bin-dir (HEADWATER_POSTGRES_BIN_DIR)", bin_dir.display())]
    BinDirUnusable { bin_dir: PathBuf, reason: String },

    #[error(
        "the data in {} was made by PostgreSQL {data_major}, but the PostgreSQL found is {}. Install PostgreSQL \
         {data_major}, or name its directory with --postgres-bin-dir (HEADWATER_POSTGRES_BIN_DIR); to move the data \
         to a newer version use pg_upgrade, or `headwater export` and `headwater import`",
        pgdata.display(), listed(found)
    )]
    VersionMismatch {
        pgdata: PathBuf,
        data_major: u32,
        /// Major version and directory of each installation that was found.
        found: Vec<(u32, PathBuf)>,
    },

    #[error(
        "PostgreSQL {version} could not be downloaded: {reason}. {advice}; or install PostgreSQL and, where it is not \
         found, name its directory with --postgres-bin-dir (HEADWATER_POSTGRES_BIN_DIR)"
    )]
    Download {
        version: &'static str,
        reason: String,
        /// What would help, as a sentence without its full stop.
        advice: &'static str,
    },

    #[error("the directory {} for PostgreSQL's socket is not private: {reason}. Remove it, or choose a shorter data directory", path.display())]
    SocketDirNotPrivate { path: PathBuf, reason: String },

    #[error("cannot make a new database in {}: {program} {status}. Its output:\n{output}", pgdata.display())]
    InitDbFailed { pgdata: PathBuf, program: &'static str, status: String, output: String },

    #[error(
        "a PostgreSQL (process {pid}) that an earlier headwater left behind still runs on {} after it was asked to stop \
         {} s ago. See what it waits for, stop it, and start again",
        pgdata.display(), waited.as_secs()
    )]
    OrphanDoesNotStop { pgdata: PathBuf, pid: u32, waited: Duration },

    #[error("PostgreSQL on {} does not start ({attempts} attempts; the last one: {status}). Its output:\n{output}", pgdata.display())]
    DoesNotStart { pgdata: PathBuf, attempts: u32, status: String, output: String },

    #[error(
        "there is data in {} already, and a restore never writes over data: name a directory without, with --data-dir \
         (HEADWATER_DATA_DIR), or move that one away",
        pgdata.display()
    )]
    DataExists { pgdata: PathBuf },

    #[error("the data cannot be made of the backup: PostgreSQL {status}. Its output:\n{output}")]
    DoesNotRecover { status: String, output: String },

    #[error(
        "changes are damaged at {end}, in {}: PostgreSQL cannot read on there, and changes up to {up_to} were received. Restore \
         to a time before that (--at), or from another copy of that file",
        file.display()
    )]
    ChangesDamaged {
        file: PathBuf,
        /// As PostgreSQL writes places in the log of changes.
        end: String,
        up_to: String,
    },

    #[error(
        "`{program}` of PostgreSQL {major} is missing in {}. Install PostgreSQL's client programs (Debian: apt install \
         postgresql-client-{major}), or name a directory that has all programs with --postgres-bin-dir \
         (HEADWATER_POSTGRES_BIN_DIR)",
        bin_dir.display()
    )]
    ProgramMissing { program: &'static str, bin_dir: PathBuf, major: u32 },

    #[error("the embedded PostgreSQL was stopped while it started")]
    Stopped,
}

impl EmbeddedPostgresError {
    /// For `map_err`: an input or output error with what was tried, and on what.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("which is just starting".to_owned(), |pid| format!("process {pid}"))
}

fn listed(found: &[(u32, PathBuf)]) -> String {
    let found: Vec<String> = found.iter().map(|(major, dir)| format!("{major} ({})", dir.display())).collect();
    found.join(", ")
}
