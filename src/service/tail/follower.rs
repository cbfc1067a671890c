//! A cursor: a place in the log and a wish to go on from there. It holds nothing else.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::cache::{Place, Read};
use super::{Begin, Membership, Tail};
use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::cursor::{Check, Cursor};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::domain::source::Source;
use crate::service::back_off::BackOff;
use crate::store::StoreError;
use crate::store::read::PageLimit;

/// Messages handed over at once, and (but for the first) their bytes: what waits together leaves in one write.
pub const BATCH_MESSAGES_MAX: usize = 256;
pub const BATCH_BYTES_MAX: usize = 128 << 10;
/// Messages of the first page read from the database; pages grow and shrink between these with the messages' size.
const PAGE_MESSAGES_MIN: i64 = 32;
const PAGE_MESSAGES_MAX: i64 = 512;
/// Bytes of a page, but for its last message.
const PAGE_BYTES_MAX: usize = 512 << 10;
/// A page that is not there by then is asked for again, smaller.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A filter that lets nothing pass: after so many messages the cursor is told all the same.
const PROGRESS_EVERY: usize = 1_000;
/// How the log names the followers of this instance where one of them fails.
pub const FOLLOWERS: &str = "followers";

/// What a follower gets next.
#[derive(Debug)]
pub enum Next {
    /// Messages that pass the filter, in order; never empty.
    Messages(Vec<Arc<Message>>),
    /// The same of an aggregated stream.
    Aggregated(Vec<Arc<AggregatedMessage>>),
    /// The same of several sources, each with the cursor after it.
    Merged(Vec<(Cursor, Delivery)>),
    /// The filter let nothing pass for a while; the place has moved on.
    Moved,
    /// History is done; from here on messages come as they are settled.
    CaughtUp,
    /// Its place is not in the cache any more: pages are read from the database again.
    FellBehind,
    /// A page has to be read: call [`Follower::read_page`].
    NeedsPage,
    /// There is nothing new: wait for [`Follower::changed`].
    Idle,
    /// What was followed has been deleted.
    Deleted,
    /// The database refuses to give what follows, or it cannot be read: waiting does not help.
    Failed(StoreError),
    /// The log went back: the place is one of a log that is gone.
    HistoryChanged,
}

/// A message as one of several sources has it.
#[derive(Debug, Clone)]
pub enum Delivery {
    Message(Arc<Message>),
    /// With the name of its aggregated stream.
    Aggregated(Arc<str>, Arc<AggregatedMessage>),
}

impl Delivery {
    pub fn message_id(&self) -> Uuid {
        match self {
            Delivery::Message(message) => message.id,
            Delivery::Aggregated(_, one) => one.message.id,
        }
    }
}

/// What a follower knows of its own pace: how large its pages may be, and how much it has passed over in silence.
#[derive(Debug)]
pub struct Pace {
    passed_over: usize,
    page_messages: i64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { passed_over: 0, page_messages: PAGE_MESSAGES_MIN }
    }
}

impl Pace {
    /// How large the next page may be.
    pub fn page(&self) -> PageLimit {
        PageLimit { messages: self.page_messages, bytes: PAGE_BYTES_MAX }
    }

    /// A page had so much: the next one may be larger, or is asked for as it fits.
    pub fn saw_page(&mut self, messages: usize, bytes: usize) {
        let next = if bytes > PAGE_BYTES_MAX { messages as i64 / 2 } else { self.page_messages * 2 };
        self.page_messages = next.clamp(1, PAGE_MESSAGES_MAX);
    }

    /// A page was not had: what is asked for next is less.
    pub fn page_failed(&mut self) {
        self.page_messages = (self.page_messages / 2).max(1);
    }

    /// Of so many messages, whether some passed the filter. Says whether the cursor should be told all the same.
    pub fn is_to_be_told(&mut self, examined: usize, some_passed: bool) -> bool {
        self.passed_over = if some_passed { 0 } else { self.passed_over + examined };
        let far = self.passed_over >= PROGRESS_EVERY;
        if far {
            self.passed_over = 0;
        }
        far
    }
}

/// One reader of a source, wherever it stands.
pub struct Follower {
    tail: Tail,
    membership: Membership,
    source: Source,
    filter: Filter,
    place: Place,
    /// By what the message at the place is recognised.
    check: Option<Check>,
    /// The last message of the source that it has seen, whether it passed the filter or not.
    last: Option<Cursor>,
    /// The log that it follows.
    history: u64,
    is_live: bool,
    pace: Pace,
}

impl Follower {
    /// Follows a source from a place on.
    pub fn new(tail: Tail, source: Source, filter: Filter, begin: Begin) -> Self {
        let membership = tail.join(&source);
        let Begin { place, check, history } = begin;
        let (last, is_live, pace) = (None, false, Pace::default());
        Self { tail, membership, source, filter, place, check, last, history, is_live, pace }
    }

    /// The cursor as a client may come back with it.
    pub fn id(&self) -> Cursor {
        Cursor::of_place(self.cursor(), self.check, self.last)
    }

    /// The cursor: passed to a later request, it goes on after everything that was handed over.
    pub fn cursor(&self) -> i64 {
        self.place.stream_after.unwrap_or(self.place.after)
    }

    /// Whether the cursor counts positions in one stream; otherwise it is a global position.
    pub fn counts_in_stream(&self) -> bool {
        self.place.stream_after.is_some()
    }

    /// What is there now, without waiting.
    pub fn advance(&mut self) -> Next {
        let most = (BATCH_MESSAGES_MAX, BATCH_BYTES_MAX);
        let Some(read) = self.tail.read_in(self.history, &self.source, self.place, most) else {
            return Next::HistoryChanged;
        };
        match read {
            Read::Hit { messages, upto, check } => {
                let examined = messages.len();
                let passed = self.pass(messages);
                self.move_to(upto, check);
                if !passed.is_empty() {
                    return Next::Messages(passed);
                }
                if self.pace.is_to_be_told(examined, false) {
                    return Next::Moved;
                }
                if examined > 0 {
                    return self.advance();
                }
                if !std::mem::replace(&mut self.is_live, true) {
                    self.tail.inner.observer.record(Observation::CacheRead { hit: true });
                    return Next::CaughtUp;
                }
                Next::Idle
            }
            Read::Miss if std::mem::replace(&mut self.is_live, false) => {
                self.tail.inner.observer.record(Observation::FellBehind);
                Next::FellBehind
            }
            Read::Miss => Next::NeedsPage,
        }
    }

    /// Reads the next page from the database, however long that is away. Gives what passes the filter; nothing passed
    /// does not mean that there is no more.
    pub async fn read_page(&mut self) -> Next {
        let mut back_off = BackOff::new(FOLLOWERS, self.tail.inner.observer.clone());
        loop {
            match self.try_read_page().await {
                Ok(next) => {
                    back_off.worked();
                    return next;
                }
                Err(error) => {
                    let pause = back_off.failed(&error);
                    if !error.may_pass() {
                        return Next::Failed(error);
                    }
                    self.pace.page_failed();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn try_read_page(&mut self) -> Result<Next, StoreError> {
        self.tail.inner.observer.record(Observation::CacheRead { hit: false });
        let upto = self.tail.settled();
        let after = self.cursor();
        let limit = self.pace.page();
        let page = {
            let _turn = self.tail.inner.catch_up_reads.acquire().await;
            let reading = self.tail.inner.database.follow_page(&self.source, after, upto, limit, &self.filter);
            in_time(reading).await?
        };
        if self.tail.history() != self.history {
            return Ok(Next::HistoryChanged);
        }
        let (page, is_full) = (page.messages, page.is_full);
        self.pace.saw_page(page.len(), page.iter().map(Message::memory_bytes).sum());
        let examined = page.len();
        // A full page ends somewhere; one that is not full has seen everything there is.
        let seen = if is_full { page.last().map(|last| last.global_position) } else { Some(upto) };
        let passed = self.pass(page.into_iter().map(Arc::new).collect());
        let after = self.place.after.max(seen.unwrap_or(upto));
        self.move_to(after, self.tail.check_at(after));
        if !passed.is_empty() {
            return Ok(Next::Messages(passed));
        }
        Ok(if self.pace.is_to_be_told(examined, false) { Next::Moved } else { Next::NeedsPage })
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        self.membership.changed().await;
    }

    /// Everything up to a global position has been seen.
    fn move_to(&mut self, after: i64, check: Option<Check>) {
        if !self.counts_in_stream() {
            let known = self.check.filter(|_| after == self.place.after);
            self.check = check.or(known);
        }
        self.place.after = after;
    }

    /// Moves on over the messages, and keeps those that pass the filter.
    fn pass(&mut self, mut messages: Vec<Arc<Message>>) -> Vec<Arc<Message>> {
        if let Some(last) = messages.last() {
            let seen = self.place.stream_after.as_mut().map(|seen| {
                *seen = last.position;
                last.position
            });
            let cursor = Cursor::at(seen.unwrap_or(last.global_position), last.id);
            (self.last, self.check) = (Some(cursor), cursor.check.filter(|_| seen.is_some()));
        }
        if !self.filter.is_empty() {
            messages.retain(|message| self.filter.passes(message));
        }
        if !messages.is_empty() {
            self.pace.is_to_be_told(messages.len(), true);
        }
        messages
    }
}

/// A page, unless that takes too long.
pub async fn in_time<T>(reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let too_slow = |_| StoreError::Unavailable("a page took too long".into());
    tokio::time::timeout(PAGE_TIMEOUT, reading).await.map_err(too_slow)?
}
