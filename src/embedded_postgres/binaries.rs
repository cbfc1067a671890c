//! Finds an installed PostgreSQL that fits the data.
use super::error::EmbeddedPostgresError;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest major version that is used; PostgreSQL's makers do not support older ones.
const OLDEST_MAJOR: u32 = 14;
/// The version that error messages advise to install.
pub(super) const SUGGESTED_MAJOR: u32 = 18;

/// Directories that packages install into; `*` matches any one name.
const USUAL_PLACES: &[&str] = &[
    "/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
    "/usr/pgsql-*/bin",                                   // PostgreSQL's own packages for Red Hat
    "/usr/lib64/pgsql/*/bin",                             // Gentoo, older SUSE
    "/usr/lib/postgresql*/bin",                           // SUSE, Alpine
    "/usr/libexec/postgresql*",                           // Alpine
    "/usr/bin",                                           // Fedora, Arch
    "/usr/local/pgsql/bin",                               // built from source
    "/usr/local/bin",                                     // FreeBSD
    "/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew, Apple silicon
    "/usr/local/opt/postgresql@*/bin",                    // Homebrew, Intel
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",    // Homebrew, Linux
    "/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
    "/Library/PostgreSQL/*/bin",                          // EDB's installer
];

/// One installation of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub bin_dir: PathBuf,
    pub major: u32,
    /// As the program prints it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// The installation in a directory, or what it lacks.
    pub fn in_dir(dir: &Path) -> Result<Binaries, String> {
        let postgres = dir.join("postgres");
        if !postgres.exists() {
            return Err("there is no `postgres`".to_owned());
        }
        // PostgreSQL looks for its libraries beside the program it was started as; links in /usr/local/bin
        // lead to where they are.
        let real_dir = postgres.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
        let bin_dir = [real_dir, Some(dir.to_owned())]
            .into_iter()
            .flatten()
            .find(|dir| dir.join("postgres").exists() && dir.join("initdb").exists())
            .ok_or("there is no `initdb` beside `postgres`")?;
        let output = Command::new(bin_dir.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("`postgres --version` cannot be run: {error}"))?;
        let output = String::from_utf8_lossy(&output.stdout);
        let (major, version) =
            parse_version(&output).ok_or_else(|| format!("`postgres --version` says `{}`", output.trim()))?;
        Ok(Binaries { bin_dir, major, version })
    }
}

/// Where to look for an installed PostgreSQL, and for which data.
pub(super) struct Search<'a> {
    /// The setting, which takes precedence.
    pub bin_dir: Option<&'a Path>,
    /// An earlier download.
    pub downloaded: Option<&'a Path>,
    /// Whatever is installed is not looked at.
    pub downloaded_only: bool,
    pub pgdata: &'a Path,
    pub data_major: Option<u32>,
}

impl Search<'_> {
    /// Finds an installation. `None`: nothing usable is installed. An error: what is installed does not fit.
    pub fn run(&self) -> Result<Option<Binaries>, EmbeddedPostgresError> {
        if let Some(dir) = self.bin_dir {
            let found = Binaries::in_dir(dir)
                .map_err(|reason| EmbeddedPostgresError::BinDirUnusable { bin_dir: dir.to_owned(), reason })?;
            return self.choose(vec![found]);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
        let in_usual_places = USUAL_PLACES.iter().flat_map(|pattern| expand(pattern));
        let installed = in_path.chain(in_usual_places).filter(|_| !self.downloaded_only);
        let dirs = installed.chain(self.downloaded.map(Path::to_owned));
        let mut seen = HashSet::new();
        let found = dirs
            .filter_map(|dir| Binaries::in_dir(&dir).ok())
            .filter(|found| seen.insert(found.bin_dir.clone()))
            .collect();
        self.choose(found)
    }

    /// Takes the first that fits the data; for new data the first of all.
    fn choose(&self, found: Vec<Binaries>) -> Result<Option<Binaries>, EmbeddedPostgresError> {
        let Some(data_major) = self.data_major else {
            let set_by_hand = self.bin_dir.is_some();
            return Ok(found.into_iter().find(|found| set_by_hand || found.major >= OLDEST_MAJOR));
        };
        if found.is_empty() {
            return Ok(None);
        }
        if let Some(fitting) = found.iter().find(|found| found.major == data_major) {
            return Ok(Some(fitting.clone()));
        }
        Err(EmbeddedPostgresError::VersionMismatch {
            pgdata: self.pgdata.to_owned(),
            data_major,
            found: found.into_iter().map(|found| (found.major, found.bin_dir)).collect(),
        })
    }
}

/// The directories that a pattern matches, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, String)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| Some((name.strip_prefix(prefix)?.parse().ok()?, name)))
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, name)| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` and `postgres (PostgreSQL) 19beta1`.
fn parse_version(output: &str) -> Option<(u32, String)> {
    let version = output.trim().strip_prefix("postgres (PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_what_the_program_says() {
        let output = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse_version(output), Some((15, "15.18 (Debian 15.18-0+deb12u1)".to_owned())));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some((19, "19beta1".to_owned())));
        assert_eq!(parse_version("something else 15"), None);
    }

    #[test]
    fn highest_version_of_a_usual_place_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for name in ["9", "15", "16", "common"] {
            std::fs::create_dir_all(root.path().join(name).join("bin")).unwrap();
        }
        let pattern = format!("{}/*/bin", root.path().display());
        let expected: Vec<PathBuf> = ["16", "15", "9"].iter().map(|name| root.path().join(name).join("bin")).collect();
        assert_eq!(expand(&pattern), expected);
    }

    #[test]
    fn installation_that_fits_the_data_is_chosen_and_a_misfit_is_named() {
        let installed = |major| Binaries { bin_dir: format!("/pg/{major}").into(), major, version: major.to_string() };
        let pgdata = Path::new("/data");
        let search =
            |data_major| Search { bin_dir: None, downloaded: None, downloaded_only: false, pgdata, data_major };
        let both = vec![installed(17), installed(15)];
        assert_eq!(search(Some(15)).choose(both.clone()).unwrap(), Some(installed(15)));
        assert_eq!(search(None).choose(both.clone()).unwrap(), Some(installed(17)));
        assert_eq!(search(None).choose(vec![installed(9)]).unwrap(), None);
        let error = search(Some(16)).choose(both).unwrap_err().to_string();
        assert!(error.contains("made by PostgreSQL 16"), "{error}");
        assert!(error.contains("17 (/pg/17), 15 (/pg/15)"), "{error}");
    }
}
