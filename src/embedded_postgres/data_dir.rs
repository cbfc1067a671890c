//! The places inside a data directory, and the lock beside the data.
use super::account::Account;
use super::error::EmbeddedPostgresError;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A process that only looks who holds the lock takes it for an instant: a start waits longer than that.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(200);
/// How long to wait for the holder's facts, which it writes right after it took the lock.
const LOCK_FACTS_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(10);
const LOCK_FACTS_BYTES_MAX: u64 = 16 * 1024;
/// The address of a unix socket has 108 bytes on Linux (104 elsewhere), one of them the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// The name of PostgreSQL's socket for the port that we give it.
const SOCKET_FILE: &str = ".s.PGSQL.5432";

/// The places inside one data directory.
#[derive(Clone, Debug)]
pub(super) struct DataDir {
    pub root: PathBuf,
    pub pgdata: PathBuf,
}

impl DataDir {
    pub fn at(root: &Path) -> DataDir {
        DataDir { root: root.to_owned(), pgdata: root.join("pgdata") }
    }

    /// Finds the directory, and makes it when it is not there. True: it is new.
    pub fn open(root: &Path) -> Result<(DataDir, bool), EmbeddedPostgresError> {
        let is_new = !root.exists();
        if is_new {
            // The parents are for everybody, as `mkdir -p` makes them: PostgreSQL's account must pass them.
            if let Some(parent) = root.parent() {
                fs::create_dir_all(parent).map_err(EmbeddedPostgresError::io("create", parent))?;
            }
            match DirBuilder::new().mode(0o700).create(root) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.map_err(EmbeddedPostgresError::io("create", root))?,
            }
        }
        // The name of the socket directory may follow from this one, so it must always be the same.
        let root = root.canonicalize().map_err(EmbeddedPostgresError::io("find", root))?;
        Ok((DataDir::at(&root), is_new))
    }

    pub fn lock_file(&self) -> PathBuf {
        self.root.join("headwater.lock")
    }

    /// The major version that made the data; None when there is no data yet.
    pub fn major_version(&self) -> Result<Option<u32>, EmbeddedPostgresError> {
        let path = self.pgdata.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse() {
                Ok(major) => Ok(Some(major)),
                Err(_) => {
                    let problem = std::io::Error::other(format!("`{}` is no major version", text.trim()));
                    Err(EmbeddedPostgresError::io("understand", path)(problem))
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EmbeddedPostgresError::io("read", path)(error)),
        }
    }

    /// The directory of the socket: `run/`, or one elsewhere if that cannot be the way to a socket.
    pub fn socket_dir(&self, account: &Account) -> PathBuf {
        let beside_data = self.root.join("run");
        if is_for_sockets(&beside_data) {
            return beside_data;
        }
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, self.root.as_os_str().as_bytes()).simple();
        let name = format!("headwater-{name}");
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute() && fs::metadata(dir).is_ok_and(|found| found.uid() == account.uid))
            .map(|dir| dir.join(&name))
            .filter(|dir| is_for_sockets(dir));
        runtime_dir.unwrap_or_else(|| Path::new("/tmp").join(&name))
    }
}

/// Whether all clients can name a socket in this directory: its address has few bytes, a URL is text, and for libpq a comma
/// parts one host from the next.
fn is_for_sockets(dir: &Path) -> bool {
    socket_path(dir).as_os_str().len() <= SOCKET_PATH_BYTES_MAX && dir.to_str().is_some_and(|name| !name.contains(','))
}

pub(super) fn socket_path(socket_dir: &Path) -> PathBuf {
    socket_dir.join(SOCKET_FILE)
}

/// Makes the directory for the socket, for the account alone: `pg_hba.conf` lets everybody in who can enter it.
pub(super) fn make_socket_dir(dir: &Path, account: &Account) -> Result<(), EmbeddedPostgresError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return account.give(dir),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(EmbeddedPostgresError::io("create", dir)(error)),
    }
    // It may be another user's trap (in /tmp), so its owner and mode are checked and not changed.
    let found = fs::symlink_metadata(dir).map_err(EmbeddedPostgresError::io("look at", dir))?;
    let not_private = |reason: String| EmbeddedPostgresError::SocketDirNotPrivate { path: dir.to_owned(), reason };
    if !found.is_dir() {
        return Err(not_private("it is not a directory".to_owned()));
    }
    if found.uid() != account.uid {
        return Err(not_private(format!("it belongs to user {}, not to `{}`", found.uid(), account.name)));
    }
    if found.mode() & 0o077 != 0 {
        return Err(not_private(format!("its mode is {:o}, not 700", found.mode() & 0o777)));
    }
    Ok(())
}

/// The lock on a data directory: held for as long as this value exists, and released by the kernel if the process dies.
#[derive(Debug)]
pub(super) struct DataDirLock {
    file: File,
}

impl DataDirLock {
    /// Takes the lock; the error says which process holds it.
    pub fn take(data_dir: &DataDir) -> Result<DataDirLock, EmbeddedPostgresError> {
        let path = data_dir.lock_file();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            // The directory may belong to another user than we are: a link laid there must not lead us elsewhere.
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(EmbeddedPostgresError::io("open", &path))?;
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(DataDirLock { file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
                Err(TryLockError::WouldBlock) => {
                    let pid = LockFacts::read(&mut file).map(|facts| facts.pid);
                    return Err(EmbeddedPostgresError::DataDirInUse { data_dir: data_dir.root.clone(), pid });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(EmbeddedPostgresError::io("lock", path)(error));
                }
            }
        }
    }

    /// Writes for other processes which process holds the lock, and the server's URL.
    pub fn write_facts(&mut self, data_dir: &DataDir, url: &str) -> Result<(), EmbeddedPostgresError> {
        let text = format!("{}\n{url}\n", std::process::id());
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(EmbeddedPostgresError::io("write", data_dir.lock_file()))
    }
}

/// What the holder of a lock wrote into it.
pub(super) struct LockFacts {
    pub pid: u32,
    pub url: String,
}

impl LockFacts {
    /// The facts of the process that holds the lock now; `None` if none does.
    pub fn of_holder(data_dir: &DataDir) -> Result<Option<LockFacts>, EmbeddedPostgresError> {
        let path = data_dir.lock_file();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EmbeddedPostgresError::io("open", path)(error)),
        };
        let deadline = Instant::now() + LOCK_FACTS_WAIT_MAX;
        loop {
            match file.try_lock_shared() {
                // The file closes right here, and the lock goes with it.
                Ok(()) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(EmbeddedPostgresError::io("lock", path)(error));
                }
            }
            match LockFacts::read(&mut file) {
                Some(facts) => return Ok(Some(facts)),
                None if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
                None => {
                    return Err(EmbeddedPostgresError::DataDirInUse { data_dir: data_dir.root.clone(), pid: None });
                }
            }
        }
    }

    fn read(file: &mut File) -> Option<LockFacts> {
        let mut text = String::new();
        file.rewind().ok()?;
        file.take(LOCK_FACTS_BYTES_MAX).read_to_string(&mut text).ok()?;
        // The closing newline tells that all of it has been written.
        let (pid, url) = text.strip_suffix('\n')?.split_once('\n')?;
        Some(LockFacts { pid: pid.parse().ok()?, url: url.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    /// A comma parts hosts for libpq, and a URL is text.
    #[test]
    fn socket_is_elsewhere_where_its_clients_could_not_name_its_directory() {
        let socket_dir = |root: &Path| DataDir::at(root).socket_dir(&Account::own());
        assert_eq!(socket_dir(Path::new("/data of it")), Path::new("/data of it/run"));
        for root in [OsStr::new("/a,b"), OsStr::from_bytes(b"/a\xffb")] {
            let found = socket_dir(Path::new(root));
            let name = found.to_str().unwrap();
            assert!(name.contains("/headwater-") && !name.contains(','), "{name}");
        }
    }
}
