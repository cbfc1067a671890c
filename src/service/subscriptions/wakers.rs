//! Who waits on this instance, by subscription, and what they share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::service::log::pages::{PageBounds, PageSizer};
use crate::service::tail::Membership;
use crate::store::read::PageLimit;

/// What the consumers of one subscription share on this instance.
pub(super) struct SubscriptionState {
    pub id: i64,
    wake: watch::Sender<u64>,
    /// New messages of a competing subscription are claimed by one at a time: the others would only find the cursor
    /// moved.
    pub claiming: tokio::sync::Mutex<()>,
    /// Up to where there is nothing for a partition, with the cursor from which that was seen.
    floors: Mutex<HashMap<i32, Floor>>,
    /// For one stream: a position in it, and the global position up to which nothing follows it.
    stream_seen: Mutex<(i64, i64)>,
    pages: Mutex<PageSizer>,
    /// The log that these places are of.
    history: AtomicU64,
    /// Keeps the source's topic open between the requests of who comes again and again.
    lingering: Mutex<Option<(Membership, Instant)>>,
}

#[derive(Clone, Copy)]
struct Floor {
    base: i64,
    up_to: i64,
}

/// What is read at once for its consumers.
const PAGES: PageBounds = PageBounds { first: 128, messages_max: 1_000, bytes_max: 2 << 20 };
/// A topic is kept open this long after it was used.
const LINGER: Duration = Duration::from_secs(30);

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
            lingering: Mutex::default(),
        }
    }

    /// Places of a log that is gone are forgotten.
    pub fn is_in(&self, history: u64) {
        if self.history.swap(history, Ordering::SeqCst) != history {
            lock(&self.floors).clear();
            *lock(&self.stream_seen) = (i64::MIN, 0);
        }
    }

    /// Everybody who waits looks again.
    pub fn wake(&self) {
        self.wake.send_modify(|turn| *turn += 1);
    }

    pub fn waker(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// A place at or after the cursor, up to which there is nothing for the partition.
    pub fn floor(&self, partition: i32, cursor: i64) -> i64 {
        match lock(&self.floors).get(&partition) {
            Some(floor) if floor.base == cursor => floor.up_to,
            _ => cursor,
        }
    }

    pub fn set_floor(&self, partition: i32, base: i64, up_to: i64) {
        lock(&self.floors).insert(partition, Floor { base, up_to });
    }

    /// The global position up to which nothing follows a position in the stream; 0 if that is not known.
    pub fn stream_seen(&self, position: i64) -> i64 {
        let seen = *lock(&self.stream_seen);
        if seen.0 == position { seen.1 } else { 0 }
    }

    pub fn set_stream_seen(&self, position: i64, global_position: i64) {
        *lock(&self.stream_seen) = (position, global_position);
    }

    /// How large the next page may be.
    pub fn page_limit(&self) -> PageLimit {
        lock(&self.pages).limit()
    }

    pub fn saw_page(&self, messages: usize, bytes: usize) {
        lock(&self.pages).saw(messages, bytes);
    }

    /// Keeps the topic open for a while.
    pub fn keep_alive(&self, join: impl FnOnce() -> Membership) {
        let mut lingering = lock(&self.lingering);
        match &mut *lingering {
            Some((_, used)) => *used = Instant::now(),
            None => *lingering = Some((join(), Instant::now())),
        }
    }

    fn is_waited_for(&self) -> bool {
        self.wake.receiver_count() > 0
    }
}

/// All subscriptions that somebody consumes on this instance.
#[derive(Default)]
pub(super) struct Wakers {
    locals: Mutex<HashMap<i64, Arc<SubscriptionState>>>,
}

impl Wakers {
    pub fn local(&self, id: i64) -> Arc<SubscriptionState> {
        lock(&self.locals).entry(id).or_insert_with(|| Arc::new(SubscriptionState::new(id))).clone()
    }

    pub fn wake(&self, id: i64) {
        let local = lock(&self.locals).get(&id).cloned();
        if let Some(local) = local {
            local.wake();
        }
    }

    pub fn wake_all(&self) {
        for local in lock(&self.locals).values() {
            local.wake();
        }
    }

    /// The subscriptions for which somebody waits here.
    pub fn waited_for(&self) -> Vec<i64> {
        lock(&self.locals).values().filter(|local| local.is_waited_for()).map(|local| local.id).collect()
    }

    /// Forgets what nobody has used for a while.
    pub fn tidy(&self) {
        lock(&self.locals).retain(|_, local| {
            let mut lingering = lock(&local.lingering);
            if lingering.as_ref().is_some_and(|(_, used)| used.elapsed() > LINGER) {
                *lingering = None;
            }
            let is_kept = lingering.is_some();
            drop(lingering);
            is_kept || Arc::strong_count(local) > 1
        });
    }
}

/// Nothing in here is left half done by a panic, so a poisoned lock is as good as another.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
