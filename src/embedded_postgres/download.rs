//! Fetches a pinned PostgreSQL: from the releases of theseus-rs/postgresql-binaries, or from a mirror of them.
use super::error::EmbeddedPostgresError;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The release that is fetched.
const VERSION: &str = "18.4.0";
/// The major version of [`VERSION`].
pub(super) const MAJOR: u32 = 18;

/// When PostgreSQL is downloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DownloadWhen {
    /// Not even if none is found.
    #[default]
    Never,
    /// If no installed one is found that fits the data.
    WhenMissing,
    /// Whatever is installed: what was downloaded is used, and fetched once.
    Always,
}

/// Whether PostgreSQL is downloaded, and from where.
#[derive(Clone, Debug, Default)]
pub struct Download {
    pub when: DownloadWhen,
    /// Where releases are: an archive is at `VERSION/NAME` below it, and its SHA-256 at `VERSION/NAME.sha256`.
    pub url: String,
    /// The longest that it may take: an archive has some ten megabytes.
    pub timeout: Duration,
}

/// Where a download of an earlier start is, if there was one.
pub(super) fn dir(data_root: &Path) -> PathBuf {
    data_root.join(format!("postgresql-{VERSION}"))
}

#[cfg(not(feature = "download-postgres"))]
pub(super) const AVAILABLE: bool = false;
#[cfg(feature = "download-postgres")]
pub(super) const AVAILABLE: bool = true;

#[cfg(not(feature = "download-postgres"))]
pub(super) async fn fetch(_data_root: &Path, _from: &Download) -> Result<PathBuf, EmbeddedPostgresError> {
    Err(failed("this headwater was built without the download".into(), "Install PostgreSQL"))
}

#[cfg(feature = "download-postgres")]
pub(super) use fetching::fetch;

fn failed(reason: String, advice: &'static str) -> EmbeddedPostgresError {
    EmbeddedPostgresError::Download { version: VERSION, reason, advice }
}

#[cfg(feature = "download-postgres")]
mod fetching {
    use super::{Download, EmbeddedPostgresError, Path, PathBuf, VERSION, dir, failed};
    use flate2::read::GzDecoder;
    use ring::digest;
    use std::fs::{self, Permissions};
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    /// The largest archive.
    const ARCHIVE_BYTES_MAX: usize = 256 << 20;
    /// The largest file with a hash.
    const HASH_BYTES_MAX: usize = 64 << 10;
    /// A SHA-256 in hexadecimal digits.
    const HASH_DIGITS: usize = 64;

    const CHECK_NETWORK: &str = "Check the network, set HTTPS_PROXY, or name a mirror with --postgres-download-url";
    const CHECK_MIRROR: &str = "Correct --postgres-download-url: VERSION/NAME and VERSION/NAME.sha256 must be below it";
    const AGAIN: &str = "Start again to try again, or name another mirror with --postgres-download-url";
    const MAKE_ROOM: &str = "Make room (some 200 MB), or name a directory elsewhere with --data-dir";

    /// Fetches, checks and unpacks the pinned version; answers with its `bin` directory. Whatever fails leaves nothing
    /// that a later start would take for an installation.
    pub(in super::super) async fn fetch(data_root: &Path, from: &Download) -> Result<PathBuf, EmbeddedPostgresError> {
        let name = format!("postgresql-{VERSION}-{}.tar.gz", target()?);
        let url = format!("{}/{VERSION}/{name}", from.url.trim_end_matches('/'));
        tracing::info!(%url, "downloading PostgreSQL {VERSION}");
        let fetching = checked_archive(&url, &name);
        let archive = tokio::time::timeout(from.timeout, fetching).await.unwrap_or_else(|_| {
            let reason = format!("it was not done after {} s", from.timeout.as_secs());
            Err(failed(reason, "Give it more time with --postgres-download-timeout, or name a mirror nearby"))
        })?;
        let final_dir = dir(data_root);
        super::super::blocking(move || unpack(&archive, &final_dir)).await
    }

    async fn checked_archive(url: &str, name: &str) -> Result<Vec<u8>, EmbeddedPostgresError> {
        // What fetches has no provider of cryptography of its own. A second call finds it done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().user_agent("headwater").build();
        let http = http.map_err(|error| failed(in_full(&error), CHECK_NETWORK))?;
        let published = get(&http, &format!("{url}.sha256"), HASH_BYTES_MAX).await?;
        let published =
            hash_in(&published).ok_or_else(|| failed(format!("{name}.sha256 has no SHA-256 in it"), CHECK_MIRROR))?;
        let archive = get(&http, url, ARCHIVE_BYTES_MAX).await?;
        let found = hex(digest::digest(&digest::SHA256, &archive).as_ref());
        if found != published {
            let reason = format!("{name} has the SHA-256 {found}, and should have {published}");
            return Err(failed(reason, AGAIN));
        }
        Ok(archive)
    }

    async fn get(http: &reqwest::Client, url: &str, bytes_max: usize) -> Result<Vec<u8>, EmbeddedPostgresError> {
        let response = http.get(url).send().await;
        let mut response = response.map_err(|error| failed(in_full(&error), CHECK_NETWORK))?;
        if response.status() != reqwest::StatusCode::OK {
            let reason = format!("{url} answers with status {}", response.status().as_u16());
            return Err(failed(reason, CHECK_MIRROR));
        }
        let (whole, mut body) = (response.content_length(), Vec::new());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= bytes_max => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Err(failed(format!("{url} has more than {bytes_max} bytes"), CHECK_MIRROR)),
                Ok(None) => return Ok(body),
                Err(error) => {
                    let whole = whole.map_or_else(String::new, |whole| format!(" of {whole}"));
                    let error = in_full(&error);
                    return Err(failed(format!("{url} ended after {}{whole} bytes: {error}", body.len()), AGAIN));
                }
            }
        }
    }

    /// An error of reqwest says least itself, and most in its last cause.
    fn in_full(error: &reqwest::Error) -> String {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// The first run of as many hexadecimal digits as a SHA-256 has: some write the file's name beside it.
    fn hash_in(text: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(text);
        let mut words = text.split(|character: char| !character.is_ascii_hexdigit());
        words.find(|word| word.len() == HASH_DIGITS).map(str::to_ascii_lowercase)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unpack(archive: &[u8], final_dir: &Path) -> Result<PathBuf, EmbeddedPostgresError> {
        let unfinished = final_dir.with_extension("unfinished");
        let unpacked = unpack_into(archive, &unfinished, final_dir);
        if unfinished.exists()
            && let Err(error) = fs::remove_dir_all(&unfinished)
        {
            tracing::warn!(%error, directory = %unfinished.display(), "what was left of a download cannot be removed");
        }
        unpacked
    }

    fn unpack_into(archive: &[u8], unfinished: &Path, final_dir: &Path) -> Result<PathBuf, EmbeddedPostgresError> {
        for earlier in [unfinished, final_dir] {
            if earlier.exists() {
                fs::remove_dir_all(earlier).map_err(EmbeddedPostgresError::io("remove", earlier))?;
            }
        }
        let unpacked = tar::Archive::new(GzDecoder::new(archive)).unpack(unfinished);
        unpacked.map_err(|error| no_room_or_damaged(&error, unfinished))?;
        let root = installation_in(unfinished)
            .map_err(EmbeddedPostgresError::io("read", unfinished))?
            .ok_or_else(|| failed("there is no bin/postgres in the archive".into(), CHECK_MIRROR))?;
        // It is unpacked for us alone, but PostgreSQL may run as another user.
        let open_to_others = fs::set_permissions(&root, Permissions::from_mode(0o755));
        open_to_others.map_err(EmbeddedPostgresError::io("open to others", &root))?;
        fs::rename(&root, final_dir).map_err(EmbeddedPostgresError::io("rename", &root))?;
        Ok(final_dir.join("bin"))
    }

    fn no_room_or_damaged(error: &io::Error, unfinished: &Path) -> EmbeddedPostgresError {
        let mut innermost: &dyn std::error::Error = error;
        let mut has_no_room = false;
        loop {
            let kind = innermost.downcast_ref::<io::Error>().map(io::Error::kind);
            has_no_room |= matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
            match innermost.source() {
                Some(cause) => innermost = cause,
                None => break,
            }
        }
        let reason = format!("it cannot be unpacked in {}: {innermost}", unfinished.display());
        failed(reason, if has_no_room { MAKE_ROOM } else { AGAIN })
    }

    /// Archives hold one directory, with the installation in it.
    fn installation_in(unfinished: &Path) -> io::Result<Option<PathBuf>> {
        let inner = fs::read_dir(unfinished)?.flatten().map(|entry| entry.path());
        Ok(std::iter::once(unfinished.to_owned()).chain(inner).find(|dir| dir.join("bin/postgres").exists()))
    }

    /// What archives are for, as Rust names it. There is none for other systems.
    fn target() -> Result<String, EmbeddedPostgresError> {
        let system = match () {
            () if cfg!(all(target_os = "linux", target_env = "gnu")) => "unknown-linux-gnu",
            () if cfg!(all(target_os = "linux", target_env = "musl")) => "unknown-linux-musl",
            () if cfg!(target_os = "macos") => "apple-darwin",
            () => return Err(failed("there is no archive for this system".into(), "Install PostgreSQL")),
        };
        Ok(format!("{}-{system}", std::env::consts::ARCH))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn hash_is_found_beside_a_name_and_alone() {
            let hash = "0A".repeat(32);
            for text in [hash.clone(), format!("{hash}  postgresql.tar.gz\n"), format!("SHA256 (x) = {hash}")] {
                assert_eq!(hash_in(text.as_bytes()), Some(hash.to_lowercase()), "{text}");
            }
            for text in ["", "not found", &hash[1..], &format!("{hash}0")] {
                assert_eq!(hash_in(text.as_bytes()), None, "{text}");
            }
        }

        #[test]
        fn hash_is_that_of_the_bytes() {
            let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
            assert_eq!(hex(digest::digest(&digest::SHA256, b"").as_ref()), empty);
        }
    }
}
