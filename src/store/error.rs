//! Errors of the database, in three kinds. Only after the first kind the same statement may work later by itself.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::domain::observation::FailureKind;

/// Why the database did not do as it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is starting or stopping, has no connection left, or is no primary. It may come back.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// The database refused: a right is missing, a rule is broken, its disk is full.
    #[error("the database answered: {message} (SQLSTATE {code})")]
    Refused { code: String, message: String },
    /// The answer, or the statement, does not have the form that this version of the service knows.
    #[error("what the database answered cannot be read: {0}")]
    Bug(String),
}

impl StoreError {
    pub fn kind(&self) -> FailureKind {
        match self {
            StoreError::Unavailable(_) => FailureKind::Outage,
            StoreError::Refused { .. } => FailureKind::Refused,
            StoreError::Bug(_) => FailureKind::Bug,
        }
    }

    pub fn is_unavailable(&self) -> bool {
        self.kind() == FailureKind::Outage
    }

    /// Whether the role of the service lacks a right (SQLSTATE 42501).
    pub fn is_missing_right(&self) -> bool {
        matches!(self, StoreError::Refused { code, .. } if code == "42501")
    }

    /// Whether the same statement may succeed later without anybody's help: after an outage, a conflict with another
    /// transaction (class 40, a lock), a lack of memory, disk or connections (class 53), or if the statement was cancelled
    /// or took too long.
    pub fn may_pass(&self) -> bool {
        match self {
            StoreError::Unavailable(_) => true,
            StoreError::Refused { code, .. } => {
                code.starts_with("40") || code.starts_with("53") || code == "55P03" || code == "57014"
            }
            StoreError::Bug(_) => false,
        }
    }

    /// The error of a step that took longer than it may.
    pub(crate) fn too_slow(what: &str) -> Self {
        StoreError::Unavailable(format!("{what} took too long"))
    }

    pub(super) fn answered(code: &str, message: &str) -> Self {
        if is_outage(&SqlState::from_code(code)) {
            return StoreError::Unavailable(format!("{message} (SQLSTATE {code})"));
        }
        StoreError::Refused { code: code.into(), message: message.into() }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return StoreError::answered(db.code().code(), db.message());
        }
        let text = source_text(&error);
        if is_about_form(&text) { StoreError::Bug(text) } else { StoreError::Unavailable(text) }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        match &error {
            Error::Database(db) => StoreError::answered(&db.code().unwrap_or_default(), db.message()),
            Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => {
                StoreError::Unavailable(source_text(&error))
            }
            // A statement got no connection: the reason is inside.
            Error::Configuration(reason) if reason.is::<StoreError>() => {
                reason.downcast_ref().cloned().unwrap_or_else(|| StoreError::Bug(source_text(&error)))
            }
            // The other errors are about rows, columns, types and parameters.
            _ => StoreError::Bug(source_text(&error)),
        }
    }
}

/// Whether an error of the driver is about the form of a statement or an answer, not about the connection. The driver does
/// not publish the kinds of its errors, so this goes by their texts.
fn is_about_form(text: &str) -> bool {
    const ABOUT_FORM: [&str; 7] = [
        "error serializing parameter",
        "error deserializing column",
        "invalid column",
        "query returned an unexpected number",
        "error parsing response",
        "error encoding message",
        "unexpected message",
    ];
    let is_count = text.starts_with("expected ") && text.contains(" parameters but got ");
    is_count || ABOUT_FORM.iter().any(|about| text.starts_with(about))
}

/// Codes that are about the server, not the statement: connection exceptions (08), too many connections (53300), an
/// operator's intervention (57P0x), and a server that is a replica by now (25006).
fn is_outage(state: &SqlState) -> bool {
    let code = state.code();
    ends_session(code) || code == "53300" || code == "25006"
}

/// Whether the session ends with this answer: an operator's intervention (57P0x), or a connection exception (08), as
/// PgBouncer calls it when it has lost its server (08P01). What was sent before may have been carried out, and committed.
pub(super) fn ends_session(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P0")
}

/// An error with what caused it, on one line.
pub(crate) fn source_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Bounds a step in time; `what` is how the error names it.
pub(crate) async fn in_time<T, E: Into<StoreError>>(
    limit: Duration,
    what: &str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, step).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(StoreError::too_slow(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_database_are_an_outage_only_where_the_server_is_the_matter() {
        for code in ["08006", "08P01", "57P01", "57P03", "53300", "25006"] {
            assert_eq!(StoreError::answered(code, "x").kind(), FailureKind::Outage, "{code}");
        }
        for code in ["42501", "42P01", "23505", "53100", "57014", "40001", "22P02", "XX000", ""] {
            assert_eq!(StoreError::answered(code, "x").kind(), FailureKind::Refused, "{code}");
        }
    }

    #[test]
    fn what_may_pass_is_worth_another_attempt() {
        for code in ["08006", "40001", "40P01", "53100", "53200", "55P03", "57014"] {
            assert!(StoreError::answered(code, "x").may_pass(), "{code}");
        }
        for code in ["42501", "42P01", "22P02", "XX000"] {
            assert!(!StoreError::answered(code, "x").may_pass(), "{code}");
        }
        assert!(!StoreError::Bug("x".into()).may_pass());
    }

    #[test]
    fn rows_that_cannot_be_read_are_a_bug_and_lost_connections_an_outage() {
        let decode = sqlx::Error::ColumnDecode { index: "0".into(), source: "no number".into() };
        assert_eq!(StoreError::from(decode).kind(), FailureKind::Bug);
        assert_eq!(StoreError::from(sqlx::Error::RowNotFound).kind(), FailureKind::Bug);
        assert_eq!(StoreError::from(sqlx::Error::PoolTimedOut).kind(), FailureKind::Outage);
        let cut = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(StoreError::from(cut).kind(), FailureKind::Outage);
        for text in
            ["connection closed", "error communicating with the server: broken pipe", "error connecting to server"]
        {
            assert!(!is_about_form(text), "{text}");
        }
    }
}
