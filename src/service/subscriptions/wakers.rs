//! Wakes the consumers that wait on this instance, by subscription, and keeps what they share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::service::log::pages::{PageBounds, PageSizer};
use crate::service::tail::Membership;
use crate::store::read::PageLimit;

/// What the consumers of one subscription share on this instance.
pub(super) struct SubscriptionState {
    pub id: i64,
    wake: watch::Sender<u64>,
    /// New messages of a competing subscription are claimed by one consumer at a time: the others would only find the
    /// cursor moved.
    pub claiming: tokio::sync::Mutex<()>,
    /// The places up to which there is nothing for a partition.
    floors: Mutex<HashMap<i32, Floor>>,
    /// For a single stream: a position in it, and the global position up to which no message of it follows.
    stream_seen: Mutex<(i64, i64)>,
    pages: Mutex<PageSizer>,
    /// The history of the log that these places are of.
    history: AtomicU64,
    /// Keeps the source's topic open between the fetches of a consumer.
    kept_alive: Mutex<Option<(Membership, Instant)>>,
}

/// Between a partition's cursor `base` and `up_to` there is nothing to deliver.
#[derive(Clone, Copy)]
struct Floor {
    base: i64,
    up_to: i64,
}

/// The bounds of a page that is read for a subscription's consumers.
const PAGES: PageBounds = PageBounds { first: 128, messages_max: 1_000, bytes_max: 2 << 20 };
/// A topic is kept open this long after it was used.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

impl SubscriptionState {
    fn new(id: i64) -> Self {
        Self {
            id,
            wake: watch::Sender::new(0),
            claiming: tokio::sync::Mutex::default(),
            floors: Mutex::default(),
            stream_seen: Mutex::new((i64::MIN, 0)),
            pages: Mutex::new(PageSizer::new(PAGES)),
            history: AtomicU64::new(0),
            kept_alive: Mutex::default(),
        }
    }

    /// Forgets places of another history than this one.
    pub fn is_in(&self, history: u64) {
        if self.history.swap(history, Ordering::SeqCst) != history {
            self.floors.lock().clear();
            *self.stream_seen.lock() = (i64::MIN, 0);
        }
    }

    /// Lets every consumer that waits take a round.
    pub fn wake(&self) {
        self.wake.send_modify(|turn| *turn += 1);
    }

    pub fn waker(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// The place at or after the cursor up to which there is nothing for the partition.
    pub fn floor(&self, partition: i32, cursor: i64) -> i64 {
        match self.floors.lock().get(&partition) {
            Some(floor) if floor.base == cursor => floor.up_to,
            _ => cursor,
        }
    }

    pub fn set_floor(&self, partition: i32, base: i64, up_to: i64) {
        self.floors.lock().insert(partition, Floor { base, up_to });
    }

    /// The global position up to which no message follows a position in the stream; 0 if that is not known.
    pub fn stream_seen(&self, position: i64) -> i64 {
        let seen = *self.stream_seen.lock();
        if seen.0 == position { seen.1 } else { 0 }
    }

    pub fn set_stream_seen(&self, position: i64, global_position: i64) {
        *self.stream_seen.lock() = (position, global_position);
    }

    /// How large the next page may be.
    pub fn page_limit(&self) -> PageLimit {
        self.pages.lock().limit()
    }

    pub fn saw_page(&self, messages: usize, bytes: usize) {
        self.pages.lock().saw(messages, bytes);
    }

    /// Keeps the topic open for a while.
    pub fn keep_alive(&self, join: impl FnOnce() -> Membership) {
        let mut kept_alive = self.kept_alive.lock();
        match &mut *kept_alive {
            Some((_, used)) => *used = Instant::now(),
            None => *kept_alive = Some((join(), Instant::now())),
        }
    }

    fn is_waited_for(&self) -> bool {
        self.wake.receiver_count() > 0
    }
}

/// The state of all subscriptions that have consumers on this instance.
#[derive(Default)]
pub(super) struct Wakers {
    states: Mutex<HashMap<i64, Arc<SubscriptionState>>>,
}

impl Wakers {
    pub fn shared(&self, id: i64) -> Arc<SubscriptionState> {
        self.states.lock().entry(id).or_insert_with(|| Arc::new(SubscriptionState::new(id))).clone()
    }

    pub fn wake(&self, id: i64) {
        let state = self.states.lock().get(&id).cloned();
        if let Some(state) = state {
            state.wake();
        }
    }

    pub fn wake_all(&self) {
        for state in self.states.lock().values() {
            state.wake();
        }
    }

    /// The subscriptions that have waiting consumers here.
    pub fn waited_for(&self) -> Vec<i64> {
        self.states.lock().values().filter(|state| state.is_waited_for()).map(|state| state.id).collect()
    }

    /// Forgets subscriptions that have had no consumer here for a while.
    pub fn tidy(&self) {
        self.states.lock().retain(|_, state| {
            let mut kept_alive = state.kept_alive.lock();
            if kept_alive.as_ref().is_some_and(|(_, used)| used.elapsed() > KEEP_ALIVE) {
                *kept_alive = None;
            }
            let is_kept = kept_alive.is_some();
            drop(kept_alive);
            is_kept || Arc::strong_count(state) > 1
        });
    }
}
