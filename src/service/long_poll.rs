//! A request that waits for something until a deadline.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::read::PlaceError;
use super::tail::Tail;

/// Waiting for something new, until a deadline at most.
pub struct LongPoll<'a> {
    deadline: Instant,
    tail: &'a Tail,
    /// The history of the log when the request began.
    history: u64,
    draining: &'a CancellationToken,
}

impl<'a> LongPoll<'a> {
    pub fn new(tail: &'a Tail, draining: &'a CancellationToken, wait: Duration) -> Self {
        Self { deadline: Instant::now() + wait, tail, history: tail.history(), draining }
    }

    /// As places count it.
    pub fn history(&self) -> u64 {
        self.history
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits for a change. `false`: there was none before the deadline, or the service stops.
    pub async fn wait_for(&self, change: impl Future<Output = ()>) -> bool {
        if self.is_over() {
            return false;
        }
        tokio::select! {
            () = change => true,
            // Something may have come at the last moment, so the caller looks once more.
            () = tokio::time::sleep_until(self.deadline) => true,
            () = self.draining.cancelled() => false,
        }
    }

    /// The same for a request that waits at a position of a log: an error if the log has changed since the request began.
    pub async fn wait_in_log(&self, change: impl Future<Output = ()>, position: i64) -> Result<bool, PlaceError> {
        let mut histories = self.tail.histories();
        tokio::select! {
            biased;
            _ = histories.wait_for(|history| *history != self.history) => {
                Err(PlaceError::HistoryChanged { position, head: self.tail.settled() })
            }
            is_changed = self.wait_for(change) => Ok(is_changed),
        }
    }
}
