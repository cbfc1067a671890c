//! One reader of the log's end, many cursors: new messages are read once, settled, and kept for their followers.

pub(super) mod cache;
mod erasures;
mod fetching;
pub mod heartbeat;
mod held_back;
mod history;
mod oddities;
mod reader;
#[cfg(test)]
mod scripted;
mod shared_pages;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::domain::append::{AppendRequest, NewMessage};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::domain::source::Source;
use crate::service::hints::Signals;
use crate::service::log::follower::Follower;
use crate::service::log::pages::PageReader;
use crate::service::log::{Log, Page, Place, Read};
use crate::service::replicas::Replicas;
use crate::store::append::Written;
use crate::store::read::PageLimit;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

use cache::Cache;
use erasures::Erased;
pub use erasures::Generation;
pub use held_back::HeldBack;
pub use history::HistoryChanged;
pub use reader::Reader;
use shared_pages::{Share, SharedPages};

/// The bounds of the tail.
#[derive(Debug, Clone)]
pub struct TailSettings {
    /// Bytes of messages that are kept for followers who keep up.
    pub cache_bytes_max: usize,
    /// Bytes of pages of history that were read for one follower and are kept for others; 0: every follower reads its own.
    pub history_cache_bytes_max: usize,
    /// How often the log is looked at without a hint: for writers that do not notify.
    pub poll_interval: Duration,
    /// A writer that keeps the settled position back for this long is named in the log.
    pub held_back_warning: Duration,
    /// Reads of followers that catch up, at the same time.
    pub catch_up_reads_max: usize,
}

/// The end of the log as this instance knows it. Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    inner: Arc<Inner>,
}

struct Inner {
    cache: Mutex<Cache>,
    /// What this instance has committed and the reader has not settled yet.
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Rounds asked for and done: a caller that needs the settled position as of now waits for a round that began after
    /// the call.
    asked: AtomicU64,
    done: watch::Sender<u64>,
    head: AtomicI64,
    /// What the database's count of turns was before the reader's last look: that log is known.
    looked_at: AtomicU64,
    /// The reader's last look at the log went well.
    reads: AtomicBool,
    signals: Signals,
    held_back: Mutex<Option<HeldBack>>,
    /// Counts the logs that have stood here.
    history: watch::Sender<u64>,
    /// The number by which the database knows the log that is read here.
    history_number: AtomicI64,
    history_changed: Mutex<Option<HistoryChanged>>,
    erased: Erased,
    pages: PageReader,
    shared_pages: SharedPages,
    database: Database,
    observer: Observer,
    settings: TailSettings,
}

/// Bytes of messages that may wait for the reader, in the inbox or behind a hole. Beyond, they are read back instead.
const UNSETTLED_BYTES_MAX: usize = 16 << 20;

/// What waits for the reader. Bounded: the reader may be waiting for the database itself.
#[derive(Default)]
struct Inbox {
    batches: Vec<Committed>,
    bytes: usize,
}

impl Inbox {
    /// Says whether there was room; if not, everything has to be read from the database.
    fn push(&mut self, batch: Committed) -> bool {
        self.bytes += batch.bytes();
        let fits = self.bytes <= UNSETTLED_BYTES_MAX;
        if fits {
            self.batches.push(batch);
        } else {
            *self = Self::default();
        }
        fits
    }
}

/// A batch of this instance, as the reader takes it.
struct Committed {
    /// In order.
    positions: Vec<(i64, Uuid)>,
    /// Those of them that somebody followed when the batch was sent, in order.
    messages: Vec<Arc<Message>>,
    opened: u64,
    /// The log that it was sent to, up to where that was settled then, and the count of turns of the server.
    history: u64,
    settled: i64,
    turns: u64,
}

impl Committed {
    fn bytes(&self) -> usize {
        self.positions.len() * size_of::<(i64, Uuid)>()
            + self.messages.iter().map(|message| message.memory_bytes()).sum::<usize>()
    }
}

/// A place among the followers of some topics; leaves them when it goes.
pub struct Membership {
    tail: Tail,
    source: Source,
    wakers: Vec<watch::Receiver<()>>,
}

impl Tail {
    /// The tail, and the agent that reads for it.
    pub fn new(
        database: Database,
        replicas: Replicas,
        signals: Signals,
        settings: TailSettings,
        observer: Observer,
    ) -> (Self, Reader) {
        let inner = Inner {
            cache: Mutex::new(Cache::new(settings.cache_bytes_max)),
            inbox: Mutex::default(),
            wake: Notify::new(),
            asked: AtomicU64::new(0),
            done: watch::Sender::new(0),
            head: AtomicI64::new(0),
            looked_at: AtomicU64::new(0),
            reads: AtomicBool::new(false),
            signals,
            held_back: Mutex::default(),
            history: watch::Sender::new(0),
            history_number: AtomicI64::new(0),
            history_changed: Mutex::default(),
            erased: Erased::default(),
            pages: PageReader::new(database.clone(), replicas, settings.catch_up_reads_max),
            shared_pages: SharedPages::new(settings.history_cache_bytes_max),
            database,
            observer,
            settings,
        };
        let tail = Self { inner: Arc::new(inner) };
        let reader = Reader::new(tail.clone());
        (tail, reader)
    }

    /// The highest position below which nothing can still appear, as far as this instance knows.
    pub fn settled(&self) -> i64 {
        self.cache().settled()
    }

    /// The highest global position that was seen, settled or not.
    pub fn head(&self) -> i64 {
        self.inner.head.load(Ordering::Relaxed)
    }

    /// Whether the end of the log can be read. While it cannot, nothing new reaches the followers.
    pub fn is_reading(&self) -> bool {
        self.inner.reads.load(Ordering::SeqCst)
    }

    fn reads(&self, reads: bool) {
        if self.inner.reads.swap(reads, Ordering::SeqCst) != reads {
            self.inner.observer.record(Observation::TailReads { reads });
        }
    }

    /// What keeps the settled position back, as of the reader's last look.
    pub fn held_back(&self) -> Option<HeldBack> {
        self.inner.held_back.lock().clone()
    }

    /// There may be something new: look soon.
    pub fn hint(&self) {
        self.inner.asked.fetch_add(1, Ordering::SeqCst);
        self.inner.wake.notify_one();
    }

    /// There is something up to this position, unless it is known already.
    pub fn hint_at(&self, global_position: i64) {
        if global_position > self.head() {
            self.hint();
        }
    }

    /// Looks at the log now, and returns the position that is settled then.
    pub async fn refresh(&self) -> i64 {
        let mut done = self.inner.done.subscribe();
        let round = self.inner.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.inner.wake.notify_one();
        // The sender lives as long as the tail itself, so this ends with the round.
        let _ = done.wait_for(|done| *done >= round).await;
        self.settled()
    }

    /// Makes sure that what was just read is of the log that this tail knows, or of one that it has noticed since: a page may
    /// have come from a server that took the place of another before the reader has looked at it. Costs nothing while
    /// connections lead where they led; through a pooler nobody knows, so that it costs a look.
    async fn confirm(&self) -> Result<(), StoreError> {
        let database = &self.inner.database;
        if !database.has_pooler() && self.inner.looked_at.load(Ordering::SeqCst) == database.server_turns() {
            return Ok(());
        }
        self.refresh().await;
        if self.is_reading() {
            Ok(())
        } else {
            Err(StoreError::Unavailable("the end of the log cannot be read".into()))
        }
    }

    /// Which messages of these requests somebody follows.
    pub fn wants(&self, requests: &[&AppendRequest]) -> Wanted {
        let turns = self.inner.database.server_turns();
        let cache = self.cache();
        let (opened, history, settled) = (cache.opened(), self.history(), cache.settled());
        if !cache.has_topics() {
            return Wanted { messages: None, opened, history, settled, turns };
        }
        let mut messages = Vec::new();
        for stream in requests.iter().flat_map(|request| &request.streams) {
            let stream_name = stream.stream_name.as_str();
            let is_followed = cache.follows(stream_name);
            let wants = |message: &NewMessage| is_followed || cache.selects(stream_name, Some(&message.message_type));
            messages.extend(stream.messages.iter().map(wants));
        }
        Wanted { messages: messages.contains(&true).then_some(messages), opened, history, settled, turns }
    }

    /// Takes in what this instance has just committed. `wanted` is what was asked before it was.
    pub fn committed(&self, written: Written, wanted: &Wanted) {
        let Written { positions, messages } = written;
        let Some(&(last, _)) = positions.last() else { return };
        self.inner.head.fetch_max(last, Ordering::Relaxed);
        self.inner.signals.appended(last);
        let fits = {
            let &Wanted { opened, history, settled, turns, .. } = wanted;
            self.inner.inbox.lock().push(Committed { positions, messages, opened, history, settled, turns })
        };
        if fits { self.inner.wake.notify_one() } else { self.hint() }
    }

    /// What this instance tells the others.
    pub fn signals(&self) -> Signals {
        self.inner.signals.clone()
    }

    /// Joins the topics of a source: from now on their messages are kept for it.
    pub fn join(&self, source: &Source) -> Membership {
        let mut cache = self.cache();
        let wakers = source.topics().iter().map(|topic| cache.join(topic)).collect();
        drop(cache);
        Membership { tail: self.clone(), source: source.clone(), wakers }
    }

    /// Follows a source from a place on.
    pub fn follow(&self, source: &Source, place: Place, filter: Filter) -> Follower {
        Follower::new(Log::Messages(self.join(source)), place, filter, self.inner.observer.clone())
    }

    /// Bytes and messages in the cache.
    pub fn cache_size(&self) -> (usize, usize) {
        let cache = self.cache();
        (cache.bytes(), cache.messages())
    }

    /// Reads pages from the database, for readers that are not at the end of the log.
    pub fn pages(&self) -> &PageReader {
        &self.inner.pages
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.inner.cache.lock()
    }
}

/// Which messages of a batch are followed, and which topics were open when that was asked.
pub struct Wanted {
    messages: Option<Vec<bool>>,
    opened: u64,
    history: u64,
    settled: i64,
    turns: u64,
}

impl Wanted {
    /// For each message of the batch, in order; `None` if none is followed.
    pub fn messages(&self) -> Option<&[bool]> {
        self.messages.as_deref()
    }
}

impl Membership {
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The same topics, joined once more.
    pub fn again(&self) -> Self {
        self.tail.join(&self.source)
    }

    /// Follows the same from a place on.
    pub fn follow(&self, place: Place, filter: Filter) -> Follower {
        self.tail.follow(&self.source, place, filter)
    }

    /// Whether each of the topics has other followers here. Without that, nobody follows the same source.
    pub fn has_company(&self) -> bool {
        let cache = self.tail.cache();
        self.source.topics().iter().all(|topic| cache.followers(topic) > 1)
    }

    /// What is in memory after a place.
    pub fn newest(&self, place: Place, limit: PageLimit) -> Read {
        let cache = self.tail.cache();
        // Asked under the cache's lock, so that nobody reads the new log as the old one.
        if self.tail.history() != place.history {
            return Read::HistoryChanged;
        }
        cache.read(&self.source, place, limit).map_or(Read::Miss, Read::Page)
    }

    /// What is in the database after a place.
    pub async fn page(&self, place: Place, limit: PageLimit, filter: &Filter) -> Result<Read, StoreError> {
        let settled = self.tail.settled();
        let (page, turn) = match self.share(place, limit, filter, settled).await {
            Some(Share::Page(page)) => (page, None),
            share => {
                let page = self.tail.pages().messages(&self.source, place, settled, limit, filter).await?;
                (page, share.and_then(Share::turn))
            }
        };
        self.tail.confirm().await?;
        if self.tail.history() != place.history {
            return Ok(Read::HistoryChanged);
        }
        if let Some(turn) = turn {
            turn.keep(&page);
        }
        let check = self.tail.check_at(page.up_to);
        Ok(Read::Page(Page { check, ..page }))
    }

    /// What a reader does for a page of a source that others read, too; it waits for another one's read only once. `None`: it
    /// reads for itself alone.
    async fn share(&self, place: Place, limit: PageLimit, filter: &Filter, settled: i64) -> Option<Share> {
        let pages = &self.tail.inner.shared_pages;
        if !pages.is_on() || place.stream_after.is_some() || !self.has_company() {
            return None;
        }
        let share = || Some(pages.share(&self.source, filter, place, limit, (&self.tail.generation()?, settled)));
        match share()? {
            Share::Wait(mut read) => {
                // Nothing is sent: this ends with the read.
                let _ = read.changed().await;
                share()
            }
            share => Some(share),
        }
    }

    /// Waits until one of the topics has something that was not there when this was last asked.
    pub async fn changed(&mut self) {
        match &mut *self.wakers {
            [only] => {
                let _ = only.changed().await;
            }
            several => {
                let waits = several.iter_mut().map(|newest| Box::pin(newest.changed()));
                let _ = futures_util::future::select_all(waits).await;
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut cache = self.tail.cache();
        for topic in self.source.topics() {
            cache.leave(topic);
        }
    }
}
