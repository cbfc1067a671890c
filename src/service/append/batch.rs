//! How much is written in one transaction.

use std::collections::HashSet;

use uuid::Uuid;

use super::{AppendSettings, PendingAppend};

/// Conditions in one transaction at most, each counted once for every category that it is about (one request alone may
/// have more): its neighbours wait while they are judged.
const CONDITIONS_MAX: usize = 200;

/// What is in a batch so far.
#[derive(Default)]
pub struct BatchSize {
    ids: HashSet<Uuid>,
    messages: usize,
    bytes: usize,
    conditions: usize,
}

impl BatchSize {
    /// Counts a request, unless an id of it is in the batch already: it waits for the next one, where the id is looked up.
    pub fn add(&mut self, waiting: &PendingAppend) -> bool {
        let own: Vec<Uuid> = waiting.request.messages().filter(|m| m.is_client_supplied_id).map(|m| m.id).collect();
        if own.iter().any(|id| self.ids.contains(id)) {
            return false;
        }
        self.ids.extend(own);
        self.messages += waiting.request.message_count();
        self.bytes += waiting.bytes.bytes;
        self.conditions += waiting.request.read_categories().count();
        true
    }

    /// Nothing more is to be added.
    pub fn is_full(&self, settings: &AppendSettings) -> bool {
        self.messages >= settings.batch_messages_max
            || self.bytes >= settings.batch_bytes_max
            || self.conditions >= CONDITIONS_MAX
    }
}
