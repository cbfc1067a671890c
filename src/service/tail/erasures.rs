//! Forgets what was erased: copies in the cache are dropped, and those that are on their way to a client are replaced.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::Tail;
use super::reader::Reader;
use crate::domain::message::Message;
use crate::store::erasures::Erasure;
use crate::store::{Session, StoreError};

/// How often erasures are looked for without a hint.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many of the last erasures are remembered, for copies that wait for a slow client.
const RECENT_MAX: usize = 4_096;

/// The last erasures that this instance knows of.
#[derive(Default)]
pub(super) struct Erased {
    recent: Mutex<Recent>,
    /// Anything was erased since this instance runs.
    is_any: AtomicBool,
    /// There may be something new.
    is_hinted: AtomicBool,
    /// Counts erasures.
    count: watch::Sender<u64>,
    /// Raised when history may have changed. What was found by a look that began before that is out of date.
    doubts: AtomicU64,
    /// What the last look found, with the doubts that there were when it began.
    counted: Mutex<Option<(u64, ErasureCount)>>,
}

/// What changes history, counted; and the server that counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct ErasureCount {
    erasures: i64,
    trims: i64,
    /// A backup that is restored twice counts the same twice.
    server: Option<String>,
}

/// Which state of its past the log is in. A page of settled messages is the same as long as this is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    history: i64,
    counted: ErasureCount,
}

#[cfg(test)]
impl Generation {
    pub fn of_history(history: i64) -> Self {
        Self { history, ..Self::default() }
    }
}

#[derive(Default)]
struct Recent {
    by_position: HashMap<i64, (Uuid, String)>,
    /// In the order in which they came.
    positions: VecDeque<i64>,
}

/// What the reader has seen of erasures.
#[derive(Debug, Default)]
pub(super) struct SeenErasures {
    number: Option<i64>,
    looked: Option<Instant>,
}

impl Tail {
    /// Messages may have been erased or trimmed: look soon.
    pub fn hint_erased(&self) {
        self.doubt_generation();
        self.inner.wake.notify_one();
    }

    /// These messages were erased. No copy of them is shown after this.
    pub fn erased(&self, erasures: Vec<Erasure>) {
        let erased = &self.inner.erased;
        if erasures.is_empty() {
            return;
        }
        let count = erasures.len() as u64;
        {
            // Known before the cache forgets them: a copy that was read there is replaced on its way out.
            let mut recent = erased.recent.lock();
            for erasure in &erasures {
                recent.take_in(erasure);
            }
            erased.is_any.store(true, Ordering::SeqCst);
        }
        let mut cache = self.cache();
        erasures.iter().for_each(|erasure| cache.erase(erasure.global_position));
        drop(cache);
        self.inner.shared_pages.forget();
        erased.count.send_modify(|sum| *sum += count);
    }

    /// The log is another one: what was counted in the former one says nothing.
    pub(super) fn doubt_generation(&self) {
        let erased = &self.inner.erased;
        erased.doubts.fetch_add(1, Ordering::SeqCst);
        erased.is_hinted.store(true, Ordering::SeqCst);
    }

    /// The state that the log's past is in, unless that is not known at this moment. What is read after this call is of that
    /// state or of a later one. What another instance erased or trimmed is known on its signal, or within a look's interval.
    pub fn generation(&self) -> Option<Generation> {
        let erased = &self.inner.erased;
        let (doubts, counted) = erased.counted.lock().clone().filter(|_| self.is_reading())?;
        let generation = Generation { history: self.history_number(), counted };
        (doubts == erased.doubts.load(Ordering::SeqCst)).then_some(generation)
    }

    /// Nothing was erased or trimmed in what a script has.
    #[cfg(test)]
    pub(super) fn script_generation(&self) {
        let erased = &self.inner.erased;
        *erased.counted.lock() = Some((erased.doubts.load(Ordering::SeqCst), ErasureCount::default()));
        self.reads(true);
    }

    /// Changes when messages were erased.
    pub fn erasures(&self) -> watch::Receiver<u64> {
        self.inner.erased.count.subscribe()
    }

    /// The positions of the last erasures.
    pub fn erased_positions(&self) -> Vec<i64> {
        self.inner.erased.recent.lock().positions.iter().copied().collect()
    }

    /// Replaces a copy of a message that was erased meanwhile.
    pub fn redact(&self, message: &mut Arc<Message>) {
        let erased = &self.inner.erased;
        if !erased.is_any.load(Ordering::SeqCst) || message.is_erased {
            return;
        }
        if let Some((_, text)) =
            erased.recent.lock().by_position.get(&message.global_position).filter(|(id, _)| *id == message.id)
        {
            *message = Arc::new(message.erased(text));
        }
    }
}

impl Recent {
    fn take_in(&mut self, erasure: &Erasure) {
        let (at, text) = (erasure.global_position, erasure.text.clone());
        if self.by_position.insert(at, (erasure.id, text)).is_none() {
            self.positions.push_back(at);
        }
        if self.positions.len() > RECENT_MAX
            && let Some(oldest) = self.positions.pop_front()
        {
            self.by_position.remove(&oldest);
        }
    }
}

impl SeenErasures {
    /// When they are looked for again without a hint.
    pub fn next_look(&self) -> Instant {
        self.looked.map_or_else(Instant::now, |looked| looked + LOOK_INTERVAL)
    }
}

impl Reader {
    /// Looks for erasures if a hint has come, or once an interval.
    pub(super) async fn look_for_erasures(&mut self, session: &Session) -> Result<(), StoreError> {
        let is_hinted = self.tail.inner.erased.is_hinted.swap(false, Ordering::SeqCst);
        if !is_hinted && Instant::now() < self.erasures.next_look() {
            return Ok(());
        }
        loop {
            let doubts = self.tail.inner.erased.doubts.load(Ordering::SeqCst);
            let found = session.erasures_after(self.erasures.number).await?;
            self.tail.erased(found.erasures);
            self.erasures.number = Some(found.seen);
            if found.is_all {
                let server = self.memory.server.clone();
                let counted = ErasureCount { erasures: found.seen, trims: found.trims, server };
                *self.tail.inner.erased.counted.lock() = Some((doubts, counted));
                self.erasures.looked = Some(Instant::now());
                return Ok(());
            }
        }
    }
}
