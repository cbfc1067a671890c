//! A durable private PostgreSQL beside its data, for when no database URL is given.
#![expect(clippy::disallowed_methods, reason = "the supervisor's threads are its own, not workers of the runtime")]

mod account;
mod binaries;
mod data_dir;
mod download;
mod error;
mod init_db;
mod orphan;
mod program;
mod readiness;
mod recovered;
mod restore;
mod server_log;
mod supervisor;
mod tools;

pub use download::{Download, DownloadWhen};
pub use error::EmbeddedPostgresError;
pub use restore::{RestorePlan, restore};
pub use tools::{Tools, url_as};

use account::Account;
use binaries::{Binaries, SUGGESTED_MAJOR, Search};
use data_dir::{DataDir, DataDirLock, LockFacts};
use std::future::Future;
use std::path::{Path, PathBuf};
use supervisor::{Launch, Phase, Supervisor};
use tokio_util::sync::CancellationToken;

/// The superuser that `initdb` makes, and as whom all clients of the socket connect.
const ROLE: &str = "headwater";
const DATABASE: &str = "headwater";
/// So much is kept for a backup, unless the settings say something else.
const BACKUP_WAL_BYTES_MAX: usize = 8 << 30;
/// Beside the data: when the newest base backup was finished.
const BACKUP_NOTE: &str = "backup.txt";

/// Where the data is, and what runs on it.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedSettings {
    /// None: [`EmbeddedPostgres::default_data_dir`].
    pub data_dir: Option<PathBuf>,
    /// The directory that holds `postgres` and `initdb`. None: they are looked for.
    pub bin_dir: Option<PathBuf>,
    /// Whether PostgreSQL may be downloaded, and from where.
    pub download: Download,
    /// Changes that are kept for a backup that does not receive them. None: [`BACKUP_WAL_BYTES_MAX`].
    pub backup_wal_bytes_max: Option<usize>,
}

impl EmbeddedSettings {
    /// Where the data is.
    pub fn data_root(&self) -> Result<PathBuf, EmbeddedPostgresError> {
        self.data_dir.clone().map_or_else(EmbeddedPostgres::default_data_dir, Ok)
    }
}

/// A running PostgreSQL that is started again when it dies.
///
/// If this is dropped without [`stop`](Self::stop), it asks PostgreSQL to shut down and does not wait: the data stays locked
/// until the shutdown is done (or, if our process ends first, the kernel interrupts PostgreSQL).
pub struct EmbeddedPostgres {
    url: String,
    data_dir: PathBuf,
    supervisor: Supervisor,
}

impl EmbeddedPostgres {
    /// Finds PostgreSQL, makes the data when there is none, stops an orphan of an earlier run, and returns when
    /// connections are accepted. There is no deadline for a server that recovers.
    pub async fn start(settings: &EmbeddedSettings) -> Result<EmbeddedPostgres, EmbeddedPostgresError> {
        Self::start_unless(settings, &CancellationToken::new()).await
    }

    /// The same; once it is to stop, [`EmbeddedPostgresError::Stopped`], and nothing of it runs any more.
    pub async fn start_unless(
        settings: &EmbeddedSettings,
        stopping: &CancellationToken,
    ) -> Result<EmbeddedPostgres, EmbeddedPostgresError> {
        let settings = settings.clone();
        let download = settings.download.clone();
        let mut prepared = blocking(move || Prepared::new(&settings)).await?;
        let data_dir = prepared.data_dir.root.clone();
        let binaries = match prepared.installed.take() {
            Some(installed) => installed,
            None => {
                let downloading = stopping.run_until_cancelled(prepared.download(&download)).await;
                downloading.unwrap_or(Err(EmbeddedPostgresError::Stopped))?
            }
        };
        let until = stopping.clone();
        let (launch, lock, url) = blocking(move || prepared.make_ready(binaries, &|| until.is_cancelled())).await?;
        let postgres = EmbeddedPostgres { url, data_dir, supervisor: Supervisor::start(launch, lock)? };
        let mut phase = postgres.supervisor.phase();
        let settling = phase.wait_for(|phase| !matches!(phase, Phase::Starting));
        let settled = stopping.run_until_cancelled(settling).await.map(|settled| settled.map(|phase| phase.clone()));
        match settled {
            Some(Ok(Phase::Ready)) => Ok(postgres),
            Some(Ok(Phase::GaveUp(failure))) => Err(failure.into()),
            Some(Ok(Phase::Starting | Phase::Stopped) | Err(_)) => Err(EmbeddedPostgresError::Stopped),
            None => {
                postgres.stop().await;
                Err(EmbeddedPostgresError::Stopped)
            }
        }
    }

    /// Names the server's socket; understood by tokio-postgres, sqlx and psql.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The directory of its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Resolves if PostgreSQL cannot be started any more and the supervisor has given up.
    pub fn failed(&self) -> impl Future<Output = EmbeddedPostgresError> + Send + 'static {
        let mut phase = self.supervisor.phase();
        async move {
            if let Ok(phase) = phase.wait_for(|phase| matches!(phase, Phase::GaveUp(_))).await
                && let Phase::GaveUp(failure) = phase.clone()
            {
                return failure.into();
            }
            // It was stopped, so it will never fail.
            std::future::pending().await
        }
    }

    /// A fast shutdown: open transactions are rolled back, everything is written. Returns when PostgreSQL is gone and
    /// the data is unlocked; the data stays.
    pub async fn stop(self) {
        self.supervisor.ask_to_stop();
        let mut phase = self.supervisor.phase();
        // An error means that the thread is gone, and PostgreSQL with it.
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Stopped | Phase::GaveUp(_))).await;
    }

    /// The URL of the server that another headwater runs on this data; `None` if none does.
    pub async fn running_url(settings: &EmbeddedSettings) -> Result<Option<String>, EmbeddedPostgresError> {
        let root = settings.data_root()?;
        blocking(move || Ok(LockFacts::of_holder(&DataDir::at(&root))?.map(|facts| facts.url))).await
    }

    /// Whether the server of a [`running_url`](Self::running_url) is there: its URL is known before.
    pub async fn accepts_connections(url: &str) -> bool {
        let Some(socket_dir) = socket_dir_of(url) else { return true };
        blocking(move || Ok(readiness::is_there(&socket_dir))).await.unwrap_or(true)
    }

    /// Notes beside the data when the newest base backup was finished: a copy of the data does not have that note.
    pub fn note_backup(settings: &EmbeddedSettings, finished_at: &str) -> Result<(), EmbeddedPostgresError> {
        let data_dir = DataDir::at(&settings.data_root()?);
        let account = Account::choose(&data_dir.root, &data_dir.pgdata)?;
        restore::write_file(&account, &data_dir.root.join(BACKUP_NOTE), finished_at)
    }

    /// When the newest base backup was finished; `None` if there is none, or the note cannot be read.
    pub async fn noted_backup(settings: &EmbeddedSettings) -> Option<String> {
        let path = settings.data_root().ok()?.join(BACKUP_NOTE);
        blocking(move || Ok(std::fs::read_to_string(path).ok())).await.ok()?
    }

    /// For root `/var/lib/headwater`, which PostgreSQL's account can reach; else `$XDG_DATA_HOME/headwater` or
    /// `~/.local/share/headwater`.
    pub fn default_data_dir() -> Result<PathBuf, EmbeddedPostgresError> {
        if account::effective_uid() == 0 {
            return Ok(PathBuf::from("/var/lib/headwater"));
        }
        let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        from("XDG_DATA_HOME")
            .or_else(|| from("HOME").map(|home| home.join(".local/share")))
            .map(|dir| dir.join("headwater"))
            .ok_or(EmbeddedPostgresError::NoDefaultDataDir)
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        self.supervisor.ask_to_stop();
    }
}

/// A data directory that is locked and checked, on which a server can be started.
struct Prepared {
    data_dir: DataDir,
    lock: DataDirLock,
    account: Account,
    data_major: Option<u32>,
    installed: Option<Binaries>,
    socket_dir: PathBuf,
    url: String,
    backup_wal_bytes_max: Option<usize>,
}

impl Prepared {
    fn new(settings: &EmbeddedSettings) -> Result<Prepared, EmbeddedPostgresError> {
        let (data_dir, is_new) = DataDir::open(&settings.data_root()?)?;
        // Before anything else, so that a process that does not get the lock changes nothing.
        let mut lock = DataDirLock::take(&data_dir)?;
        let account = Account::choose(&data_dir.root, &data_dir.pgdata)?;
        if is_new {
            account.give(&data_dir.root)?;
        }
        // Otherwise this account could not start headwater itself later.
        account.give(&data_dir.lock_file())?;
        let socket_dir = data_dir.socket_dir(&account);
        let url = url_of(&socket_dir);
        lock.write_facts(&data_dir, &url)?;
        account.check_reaches(&data_dir.root)?;
        let data_major = data_dir.major_version()?;
        let downloaded = download::dir(&data_dir.root).join("bin");
        let search = Search {
            bin_dir: settings.bin_dir.as_deref(),
            downloaded: Some(&downloaded),
            downloaded_only: settings.download.when == DownloadWhen::Always,
            pgdata: &data_dir.pgdata,
            data_major,
        };
        let installed = match search.run() {
            // The download may fit if the installed version does not.
            Err(EmbeddedPostgresError::VersionMismatch { data_major: download::MAJOR, .. })
                if settings.download.when != DownloadWhen::Never
                    && settings.bin_dir.is_none()
                    && download::AVAILABLE =>
            {
                None
            }
            found => found?,
        };
        let backup_wal_bytes_max = settings.backup_wal_bytes_max;
        Ok(Prepared { data_dir, lock, account, data_major, installed, socket_dir, url, backup_wal_bytes_max })
    }

    async fn download(&self, from: &Download) -> Result<Binaries, EmbeddedPostgresError> {
        check_download(self.data_major, from.when)?;
        let bin_dir = download::fetch(&self.data_dir.root, from).await?;
        blocking(move || {
            Binaries::in_dir(&bin_dir).map_err(|reason| EmbeddedPostgresError::BinDirUnusable { bin_dir, reason })
        })
        .await
    }

    /// Gives up waiting for another server to end when it is to stop.
    fn make_ready(
        self,
        binaries: Binaries,
        is_to_stop: &dyn Fn() -> bool,
    ) -> Result<(Launch, DataDirLock, String), EmbeddedPostgresError> {
        let Prepared { data_dir, lock, account, socket_dir, url, backup_wal_bytes_max, .. } = self;
        if is_to_stop() {
            return Err(EmbeddedPostgresError::Stopped);
        }
        account.check_executes(&binaries.program("postgres"))?;
        orphan::stop(&data_dir.pgdata, is_to_stop)?;
        orphan::forget_the_dead(&data_dir.pgdata, &data_dir::socket_path(&socket_dir))?;
        init_db::ensure(&data_dir, &binaries, &account)?;
        data_dir::make_socket_dir(&socket_dir, &account)?;
        let launch = Launch { binaries, account, pgdata: data_dir.pgdata, socket_dir, backup_wal_bytes_max };
        Ok((launch, lock, url))
    }
}

/// For data without an installation that fits: whether the download can help; the error says what else can.
fn check_download(data_major: Option<u32>, when: DownloadWhen) -> Result<(), EmbeddedPostgresError> {
    let download = if !download::AVAILABLE {
        "(This headwater was built without the download.)"
    } else if when == DownloadWhen::Never {
        "(The download is switched off: --postgres-download.)"
    } else if data_major.is_some_and(|major| major != download::MAJOR) {
        "(The download has another major version than the data.)"
    } else {
        return Ok(());
    };
    let suggested_major = data_major.unwrap_or(SUGGESTED_MAJOR);
    Err(EmbeddedPostgresError::BinariesNotFound { suggested_major, download })
}

/// A URL with the socket's directory as its host, which all three clients understand. Port and TLS are named, so that
/// PGPORT and PGSSLMODE of the environment make no difference.
fn url_of(socket_dir: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut host = String::new();
    for byte in socket_dir.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => host.push(char::from(*byte)),
            _ => write!(host, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    format!("postgresql://{ROLE}@{host}:5432/{DATABASE}?sslmode=disable")
}

/// The socket's directory in a URL of [`url_of`].
fn socket_dir_of(url: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let (_, rest) = url.split_once('@')?;
    let mut bytes = rest.split_once(':')?.0.bytes();
    let mut path = Vec::new();
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(std::ffi::OsString::from_vec(path).into())
}

/// Runs work that waits for files and programs on a thread for such work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedPostgresError> + Send + 'static,
) -> Result<T, EmbeddedPostgresError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_binaries_and_download_the_error_says_what_to_install_or_set() {
        for (data_major, when) in [(None, DownloadWhen::Never), (Some(15), DownloadWhen::WhenMissing)] {
            let message = check_download(data_major, when).unwrap_err().to_string();
            for advice in ["Install it", "HEADWATER_POSTGRES_BIN_DIR", "HEADWATER_DATABASE_URL", "download"] {
                assert!(message.contains(advice), "{advice}: {message}");
            }
        }
        assert_eq!(check_download(None, DownloadWhen::WhenMissing).is_ok(), download::AVAILABLE);
    }

    #[test]
    fn url_names_the_socket_directory_whatever_its_name() {
        let url = url_of(Path::new("/a b/c,d@e"));
        assert_eq!(url, "postgresql://headwater@%2Fa%20b%2Fc%2Cd%40e:5432/headwater?sslmode=disable");
        assert_eq!(socket_dir_of(&url), Some("/a b/c,d@e".into()));
    }
}
