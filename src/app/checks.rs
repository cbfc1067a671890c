//! What settings come to on this machine, before anything is started.

use std::path::PathBuf;

use super::{AppError, OPEN_FILES_RESERVED, credentials, embedded_settings, tls_files};
use crate::config::Settings;
use crate::domain::time::Timestamp;
use crate::embedded_postgres::EmbeddedPostgres;
use crate::http;

/// Whether a service would start with these settings, as far as no database is needed to know.
pub async fn check_settings(settings: &Settings) -> Result<(), AppError> {
    credentials::check_address(settings)?;
    credentials::jwt_settings(settings)?;
    match tls_files(settings) {
        Some(files) => http::server::check_tls_files(files).await.map_err(AppError::Http),
        None => Ok(()),
    }
}

/// Where the data of the embedded server is; `None`: another one is used.
pub fn data_dir(settings: &Settings) -> Result<Option<PathBuf>, AppError> {
    match (settings.given_database(), &settings.data_dir) {
        (Some(_), _) => Ok(None),
        (None, Some(directory)) => Ok(Some(directory.clone())),
        (None, None) => Ok(Some(EmbeddedPostgres::default_data_dir()?)),
    }
}

/// When the newest base backup of the embedded server was finished, as `headwater backup` has noted.
pub async fn backed_up_at(settings: &Settings) -> Option<Timestamp> {
    let noted = EmbeddedPostgres::noted_backup(&embedded_settings(settings)).await?;
    Timestamp::parse_rfc3339(&noted)
}

/// As many connections as the setting says, or as the limit of open files leaves room for: the database, the listening
/// socket and files must be reached however many clients there are.
pub fn connections_max(settings: &Settings) -> usize {
    let reserved = settings.database_connections_max + OPEN_FILES_RESERVED;
    let room = open_files_max().saturating_sub(reserved).max(1);
    if room < settings.connections_max {
        tracing::info!(connections_max = room, "the limit of open files allows fewer connections than the setting");
    }
    settings.connections_max.min(room)
}

/// How many files this process may have open.
pub fn open_files_max() -> usize {
    // SAFETY: the structure is filled by the call before it is read.
    unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        match libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) {
            0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX),
            _ => usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_given_without_its_pooler_is_given() {
        let mut settings = Settings::defaults();
        (settings.database_url, settings.data_dir) = (None, Some("/data".into()));
        assert_eq!(data_dir(&settings).unwrap(), Some("/data".into()));
        settings.direct_database_url = Some("postgresql://localhost/store".into());
        assert_eq!(data_dir(&settings).unwrap(), None);
    }
}
