//! Why a migration did not happen.
use std::time::Duration;

use crate::store::OpenError;

/// Why a migration failed. It left everything as it was, because all of it is one transaction.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Url { source: OpenError },

    #[error("{reason}")]
    NoPrimary { reason: String },

    #[error("no connection to the database: {source}")]
    Connect { source: sqlx::Error },

    #[error("the database did not accept a connection within {} s", waited.as_secs())]
    ConnectTimeout { waited: Duration },

    #[error(
        "the database URL leads to a pooler that keeps no sessions (PgBouncer with pool_mode = transaction): PostgreSQL \
         itself has to be named too, with --direct-database-url (HEADWATER_DIRECT_DATABASE_URL), for what needs a session"
    )]
    Pooler,

    #[error("another instance was still migrating after {} s", waited.as_secs())]
    Locked { waited: Duration },

    #[error("PostgreSQL {found} is too old: {needed} or newer is needed")]
    ServerTooOld { found: i32, needed: i32 },

    #[error(
        "migration {version} ({name}) was applied with checksum {applied} and has {embedded} here: \
         an applied migration never changes"
    )]
    ChecksumChanged { version: i32, name: String, applied: String, embedded: String },

    #[error("migration {version} ({name}) was applied, and is not among those up to {newest_known} known here")]
    UnknownMigration { version: i32, name: String, newest_known: i32 },

    #[error("migration {version} ({name}) was never applied, although {newest_applied} was")]
    MissedMigration { version: i32, name: String, newest_applied: i32 },

    #[error(
        "the database has functions of version {database}, which serve callers of version {serve_from} or newer; this binary \
         calls those of version {binary}: start a newer one"
    )]
    TooOld { database: i32, serve_from: i32, binary: i32 },

    #[error("schema message_store is not one that can be attached to: {}", problems.join("; "))]
    IncompatibleMessageStore { problems: Vec<String> },

    #[error(
        "role {role} lacks rights that Headwater needs. An owner or an administrator gives them with \
         `headwater migrate --grant-to {role}`, or with: {}",
        grants.join("; ")
    )]
    MissingRights { role: String, grants: Vec<String> },

    #[error("{step}: {reason}. {advice}")]
    NotAllowed { step: String, reason: String, advice: String },

    #[error("{step}: {source}")]
    Sql { step: String, source: sqlx::Error },
}

impl MigrateError {
    /// Whether no connection was had: the database may be there later.
    pub fn is_about_connecting(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::NoPrimary { .. })
    }

    /// For `map_err`: names the step at which the statement failed.
    pub(super) fn at(step: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let step = step.into();
        move |source| Self::Sql { step, source }
    }

    /// Whether PostgreSQL refused a statement for this SQLSTATE.
    pub(super) fn is_refused_with(&self, code: &str) -> bool {
        let Self::Sql { source, .. } = self else { return false };
        source.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some(code)
    }
}
