//! Writes exported messages into a store, batch by batch. What is there already is passed over, so an import that was
//! stopped is simply started again.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::batches::{Batch, ReadError};
use super::seen::Seen;
use crate::domain::signal::Signal;
use crate::service::back_off::BackOff;
use crate::store::import::{ImportError, ImportMode, Imported};
use crate::store::{Database, Session, StoreError};
use crate::telemetry::Observer;

/// Why an import has stopped. What is written stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("line {line}: {reason}")]
    Refused { line: u64, reason: String },
    #[error("line {line}: {error}")]
    Store { line: u64, error: StoreError },
    #[error("stopped before line {line}; started again, it goes on from there")]
    Stopped { line: u64 },
}

/// Writes to one store.
pub struct Import {
    database: Database,
    mode: ImportMode,
    /// How long a database is waited for that is away.
    patience: Duration,
    stopping: CancellationToken,
    session: Option<Session>,
    back_off: BackOff,
}

impl Import {
    pub fn new(
        database: Database,
        mode: ImportMode,
        patience: Duration,
        stopping: CancellationToken,
        observer: Observer,
    ) -> Self {
        let back_off = BackOff::new("import", observer);
        Self { database, mode, patience, stopping, session: None, back_off }
    }

    /// Writes what is not there yet of a batch.
    pub async fn write(&mut self, batch: &Batch) -> Result<Imported, ImportFailure> {
        let mode = self.mode;
        let writing = async |session: &Session| session.import(&batch.messages, batch.after, mode).await;
        let imported = self.try_until_done(batch, writing).await?;
        if let Some(last) = imported.last_position {
            // A running service looks for itself too, once in a while.
            let _ = self.database.notify(&[Signal::Appended(last)]).await;
        }
        Ok(imported)
    }

    /// Says whether a batch would be refused, as the store is now, after the batches of the file that were checked before.
    /// `has_messages`: without that table, the store is empty, and is not asked.
    pub async fn check(&mut self, batch: &Batch, seen: &mut Seen, has_messages: bool) -> Result<(), ImportFailure> {
        let mode = self.mode;
        let checking = async |session: &Session| session.check_import(&batch.messages, batch.after, mode).await;
        let new = match has_messages {
            true => self.try_until_done(batch, checking).await?,
            false if self.stopping.is_cancelled() => return Err(self.stopped_before(batch)),
            false => (0..batch.messages.len()).collect(),
        };
        seen.take(&batch.messages, &new).map_err(|(nth, reason)| refused(batch, nth, reason))
    }

    fn stopped_before(&self, batch: &Batch) -> ImportFailure {
        ImportFailure::Stopped { line: batch.lines.first().copied().unwrap_or(0) }
    }

    /// A step whose answer was lost may have been done: it is tried again, and finds what is there.
    async fn try_until_done<T>(
        &mut self,
        batch: &Batch,
        step: impl AsyncFn(&Session) -> Result<T, ImportError>,
    ) -> Result<T, ImportFailure> {
        let line = batch.lines.first().copied().unwrap_or(0);
        let mut failing_since = None;
        loop {
            if self.stopping.is_cancelled() {
                return Err(self.stopped_before(batch));
            }
            let error = match self.try_once(&step).await {
                Ok(done) => {
                    self.back_off.worked();
                    return Ok(done);
                }
                Err(ImportError::Refused { nth, reason }) => {
                    return Err(refused(batch, nth, reason));
                }
                Err(ImportError::Store(error)) => error,
            };
            self.session = None;
            let is_over = failing_since.get_or_insert_with(Instant::now).elapsed() >= self.patience;
            if is_over || !error.may_pass() {
                return Err(ImportFailure::Store { line, error });
            }
            self.back_off.after(Err(error), &self.stopping).await;
        }
    }

    async fn try_once<T>(&mut self, step: &impl AsyncFn(&Session) -> Result<T, ImportError>) -> Result<T, ImportError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.database.import_session().await?,
        };
        let done = step(&session).await;
        self.session = Some(session);
        done
    }
}

fn refused(batch: &Batch, nth: usize, reason: String) -> ImportFailure {
    ImportFailure::Refused { line: batch.lines.get(nth).copied().unwrap_or(0), reason }
}
