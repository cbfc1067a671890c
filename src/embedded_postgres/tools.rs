//! PostgreSQL's own programs for backups: found as the server is, and run by the account that runs this one.
use super::EmbeddedSettings;
use super::account::Account;
use super::binaries::{Binaries, Search};
use super::data_dir::DataDir;
use super::error::EmbeddedPostgresError;
use super::program::command;
use super::{DownloadWhen, ROLE, SUGGESTED_MAJOR, download};
use std::path::Path;
use std::process::Command;

/// The programs that fit some data.
#[derive(Clone, Debug)]
pub struct Tools {
    binaries: Binaries,
}

impl Tools {
    /// Finds the installation for the data of `settings`, and checks that it has these programs.
    pub fn for_data(settings: &EmbeddedSettings, programs: &[&'static str]) -> Result<Tools, EmbeddedPostgresError> {
        let data_dir = DataDir::at(&settings.data_root()?);
        Self::for_copy(settings, &data_dir.pgdata, programs)
    }

    /// The same for data that is elsewhere: a base backup.
    pub fn for_copy(
        settings: &EmbeddedSettings,
        pgdata: &Path,
        programs: &[&'static str],
    ) -> Result<Tools, EmbeddedPostgresError> {
        let binaries = binaries_for(settings, pgdata)?;
        match programs.iter().find(|program| !binaries.program(program).exists()) {
            None => Ok(Tools { binaries }),
            Some(program) => Err(EmbeddedPostgresError::ProgramMissing {
                program,
                bin_dir: binaries.bin_dir.clone(),
                major: binaries.major,
            }),
        }
    }

    /// A command that the kernel interrupts when the *thread* that started it ends.
    pub fn command(&self, program: &str) -> Command {
        command(&self.binaries.program(program), &Account::own())
    }
}

/// The installation that fits data.
pub(super) fn binaries_for(settings: &EmbeddedSettings, pgdata: &Path) -> Result<Binaries, EmbeddedPostgresError> {
    let root = settings.data_root()?;
    let downloaded = download::dir(&root).join("bin");
    let data_major = DataDir { root, pgdata: pgdata.to_owned() }.major_version()?;
    let search = Search {
        bin_dir: settings.bin_dir.as_deref(),
        downloaded: Some(&downloaded),
        downloaded_only: settings.download.when == DownloadWhen::Always,
        pgdata,
        data_major,
    };
    search.run()?.ok_or(EmbeddedPostgresError::BinariesNotFound {
        suggested_major: data_major.unwrap_or(SUGGESTED_MAJOR),
        download: "",
    })
}

/// The URL of the embedded server for another of its roles.
pub fn url_as(url: &str, role: &str) -> String {
    url.replacen(&format!("//{ROLE}@"), &format!("//{role}@"), 1)
}
