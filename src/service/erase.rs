//! Erases the data and metadata of a message: its place, id, type and time stay.

use uuid::Uuid;

use super::tail::Tail;
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1_000;

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("message {id} not found")]
    NotFound { id: Uuid },
    #[error("the role of the service may not change messages: GRANT UPDATE ON message_store.messages TO that role")]
    MissingRight,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Erases messages. Cheap to clone.
#[derive(Clone)]
pub struct Eraser {
    database: Database,
    tail: Tail,
    observer: Observer,
}

impl Eraser {
    pub fn new(database: Database, tail: Tail, observer: Observer) -> Self {
        Self { database, tail, observer }
    }

    /// Erases a message, and answers what is left of it. Done again it changes nothing, and answers the same.
    pub async fn erase(&self, id: Uuid, reason: Option<&str>) -> Result<Message, EraseError> {
        let erased = self.database.messages().erase(id, reason).await.map_err(|error| match error {
            error if error.is_missing_right() => EraseError::MissingRight,
            error => EraseError::Store(error),
        })?;
        let Some((message, erasure)) = erased else { return Err(EraseError::NotFound { id }) };
        // Before the answer: nothing here shows the former data after it.
        self.tail.erased(vec![erasure]);
        self.tail.hint_erased();
        self.observer.record(Observation::Erased { id, global_position: message.global_position });
        Ok(message)
    }
}
