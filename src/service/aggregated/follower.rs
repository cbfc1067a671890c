//! A cursor in an aggregated stream: a global position, which stands for any set of its partitions.

use std::sync::Arc;

use tokio::sync::watch;

use super::feed::{FeedMember, Feeds, Read};
use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::cursor::{Check, Cursor};
use crate::domain::filter::Filter;
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::service::tail::follower::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, FOLLOWERS, Next, Pace, in_time};
use crate::service::tail::{CatchUpReads, Tail};
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// One reader of an aggregated stream, wherever it stands.
pub struct AggregatedFollower {
    feeds: Feeds,
    member: FeedMember,
    database: Database,
    tail: Tail,
    reads: CatchUpReads,
    observer: Observer,
    id: i64,
    name: Arc<str>,
    /// Sorted; `None`: all of them.
    partitions: Option<Arc<[i32]>>,
    filter: Filter,
    /// Everything up to this global position has been handed over.
    after: i64,
    /// By what the message there is recognised.
    check: Option<Check>,
    /// The last message of its partitions that it has seen, whether it passed the filter or not.
    last: Option<Cursor>,
    /// The log that it follows.
    history: u64,
    histories: watch::Receiver<u64>,
    is_live: bool,
    is_deleted: bool,
    pace: Pace,
}

/// What is followed, and from where.
pub struct Wanted {
    pub id: i64,
    pub name: Arc<str>,
    pub partitions: Option<Arc<[i32]>>,
    pub filter: Filter,
    pub after: i64,
    /// By what the message there is recognised.
    pub check: Option<Check>,
    pub history: u64,
}

impl AggregatedFollower {
    pub(super) fn new(feeds: Feeds, database: Database, tail: &Tail, observer: Observer, wanted: Wanted) -> Self {
        let member = feeds.join(wanted.id);
        Self {
            feeds,
            member,
            database,
            tail: tail.clone(),
            histories: tail.histories(),
            reads: tail.catch_up_reads(),
            observer,
            id: wanted.id,
            name: wanted.name,
            partitions: wanted.partitions,
            filter: wanted.filter,
            after: wanted.after,
            check: wanted.check,
            last: None,
            history: wanted.history,
            is_live: false,
            is_deleted: false,
            pace: Pace::default(),
        }
    }

    /// The cursor: everything up to this global position has been handed over.
    pub fn cursor(&self) -> i64 {
        self.after
    }

    /// The cursor as a client may come back with it.
    pub fn id(&self) -> Cursor {
        Cursor::of_place(self.after, self.check, self.last)
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is there now, without waiting.
    pub fn advance(&mut self) -> Next {
        if self.is_deleted {
            return Next::Deleted;
        }
        if self.tail.history() != self.history {
            return Next::HistoryChanged;
        }
        let partitions = self.partitions.as_deref();
        match self.feeds.read(self.history, self.id, self.after, partitions, (BATCH_MESSAGES_MAX, BATCH_BYTES_MAX)) {
            Read::Deleted => Next::Deleted,
            Read::Hit { messages, upto, is_catching_up } => {
                let examined = messages.len();
                let passed = self.pass(messages);
                self.move_to(upto);
                if !passed.is_empty() {
                    return Next::Aggregated(passed);
                }
                if self.pace.is_to_be_told(examined, false) {
                    return Next::Moved;
                }
                if examined > 0 {
                    return self.advance();
                }
                // While history is being projected, its end has not been seen.
                if !is_catching_up && !std::mem::replace(&mut self.is_live, true) {
                    return Next::CaughtUp;
                }
                Next::Idle
            }
            Read::Miss if std::mem::replace(&mut self.is_live, false) => {
                self.observer.record(Observation::FellBehind);
                Next::FellBehind
            }
            Read::Miss => Next::NeedsPage,
        }
    }

    /// Reads the next page from the database, however long that is away. Gives what passes the filter; nothing passed
    /// does not mean that there is no more.
    pub async fn read_page(&mut self) -> Next {
        let mut back_off = BackOff::new(FOLLOWERS, self.observer.clone());
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
        self.observer.record(Observation::CacheRead { hit: false });
        // Asked before the page is read, so the page has all of it.
        let known = self.feeds.upto_in(self.history, self.id).unwrap_or(0);
        let limit = self.pace.page();
        let page = {
            let _turn = self.reads.acquire().await;
            in_time(self.database.aggregated_page(self.id, self.partitions.as_deref(), self.after, limit)).await?
        };
        if self.tail.history() != self.history {
            return Ok(Next::HistoryChanged);
        }
        self.feeds.saw(self.id, page.as_ref());
        let Some(page) = page else {
            self.is_deleted = true;
            return Ok(Next::Deleted);
        };
        self.pace.saw_page(page.messages.len(), page.messages.iter().map(|one| one.message.memory_bytes()).sum());
        let examined = page.messages.len();
        let seen = page.more_after.unwrap_or(page.projected_position.max(known));
        let passed = self.pass(page.messages.into_iter().map(Arc::new).collect());
        self.move_to(self.after.max(seen));
        if !passed.is_empty() {
            return Ok(Next::Aggregated(passed));
        }
        Ok(if self.pace.is_to_be_told(examined, false) { Next::Moved } else { Next::NeedsPage })
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.member.changed() => {}
            _ = self.histories.changed() => {}
        }
    }

    /// Waits until it may stand further on, with a message or without one.
    pub async fn progressed(&mut self) {
        tokio::select! {
            () = self.member.progressed() => {}
            _ = self.histories.changed() => {}
        }
    }

    fn move_to(&mut self, after: i64) {
        let known = self.check.filter(|_| after == self.after);
        self.check = self.tail.check_at(after).or(known);
        self.after = after;
    }

    fn pass(&mut self, mut messages: Vec<Arc<AggregatedMessage>>) -> Vec<Arc<AggregatedMessage>> {
        if let Some(last) = messages.last() {
            self.last = Some(Cursor::at(last.message.global_position, last.message.id));
        }
        if !self.filter.is_empty() {
            messages.retain(|one| self.filter.passes(&one.message));
        }
        if !messages.is_empty() {
            self.pace.is_to_be_told(messages.len(), true);
        }
        messages
    }
}
