//! One timer for the heartbeats of all connections.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio_util::sync::CancellationToken;

/// The resolution of the timer: a heartbeat comes at most this much too late.
const TICK: Duration = Duration::from_secs(1);

/// Waits for a wake-up.
pub type Beat = Pin<Box<OwnedNotified>>;

/// Wakes connections after a number of seconds. Cheap to clone.
#[derive(Clone, Default)]
pub struct Heartbeats {
    slots: Arc<Mutex<Slots>>,
}

#[derive(Default)]
struct Slots {
    tick: u64,
    due: BTreeMap<u64, Arc<Notify>>,
}

impl Heartbeats {
    /// Ends after at least this long, and at most one tick more.
    pub fn after(&self, interval: Duration) -> Beat {
        let mut slots = self.slots.lock();
        // The current tick has begun already, so it does not count.
        let due = slots.tick + interval.as_secs().max(1) + 1;
        let slot = slots.due.entry(due).or_default().clone();
        // Made under the lock, before the slot can be notified, so that no wake-up is missed.
        Box::pin(slot.notified_owned())
    }

    /// Runs until the service stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(),
                () = stopping.cancelled() => return,
            }
        }
    }

    fn tick(&self) {
        let mut slots = self.slots.lock();
        slots.tick += 1;
        let now = slots.tick;
        while let Some(first) = slots.due.first_entry() {
            if *first.key() > now {
                break;
            }
            first.remove().notify_waiters();
        }
    }
}
