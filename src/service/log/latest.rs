//! The newest message of every stream, and then what comes: how a dashboard opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cursor::Next;
use super::follower::{FOLLOWERS, Follower};
use super::pages::{PageBounds, PageSizer};
use super::{Entry, Place};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::service::back_off::BackOff;
use crate::service::tail::Tail;
use crate::telemetry::Observer;

/// Pages of newest messages.
const PAGES: PageBounds = PageBounds { first: 32, messages_max: 512, bytes_max: 512 << 10 };

/// How many streams all followers together still have to tell the newest messages of. Cheap to clone.
#[derive(Clone)]
pub struct LatestBudget {
    held: Arc<AtomicUsize>,
    max: usize,
}

/// Why the newest messages are not told.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum LatestError {
    #[error(
        "more than {max} streams were looked at for the newest message of each; the setting latest_of_each_streams_max \
         says how many that may be"
    )]
    TooMany { max: usize },
    #[error(
        "other event streams are being told the newest messages of so many streams that the limit of {max} for all \
         together (latest_of_each_streams_max) is reached"
    )]
    Busy { max: usize },
}

/// Where the newest messages are, in order; counted until they are told.
pub struct LatestPositions {
    positions: Vec<i64>,
    budget: LatestBudget,
    /// How many are counted.
    held: usize,
}

/// A follower that is first told the newest message of every stream. These have no cursor: a client that comes back before
/// all are told begins again.
pub struct LatestOfEach {
    positions: LatestPositions,
    /// How many of them were read.
    read: usize,
    is_told: bool,
    /// Where the newest messages were looked for, and the follower goes on.
    place: Place,
    pages: PageSizer,
    tail: Tail,
    filter: Filter,
    observer: Observer,
    follower: Follower,
}

impl LatestBudget {
    pub fn new(max: usize) -> Self {
        Self { held: Arc::default(), max }
    }

    pub fn begin(&self) -> LatestPositions {
        LatestPositions { positions: Vec::new(), budget: self.clone(), held: 0 }
    }
}

impl LatestPositions {
    /// Counts streams that are looked at.
    pub fn count(&mut self, streams: usize) -> Result<(), LatestError> {
        let LatestBudget { held, max } = &self.budget;
        self.held += streams;
        let all = held.fetch_add(streams, Ordering::SeqCst) + streams;
        match (self.held > *max, all > *max) {
            (true, _) => Err(LatestError::TooMany { max: *max }),
            (false, true) => Err(LatestError::Busy { max: *max }),
            (false, false) => Ok(()),
        }
    }

    pub fn extend(&mut self, positions: Vec<i64>) {
        self.positions.extend(positions);
    }

    /// All are found.
    pub fn finish(&mut self) {
        self.positions.sort_unstable();
        // A stream and its category may both be followed.
        self.positions.dedup();
        self.positions.shrink_to_fit();
    }
}

impl Drop for LatestPositions {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::SeqCst);
    }
}

impl LatestOfEach {
    /// The follower begins at the position up to which the newest messages were looked for.
    pub fn new(positions: LatestPositions, tail: Tail, filter: Filter, observer: Observer, follower: Follower) -> Self {
        let (place, pages) = (follower.place(), PageSizer::new(PAGES));
        Self { positions, read: 0, is_told: false, place, pages, tail, filter, observer, follower }
    }

    /// The follower, once all newest messages are told.
    pub fn follower(&self) -> Option<&Follower> {
        self.is_told.then_some(&self.follower)
    }

    pub fn follower_mut(&mut self) -> &mut Follower {
        &mut self.follower
    }

    /// What is next, without waiting.
    pub fn advance(&mut self) -> Next {
        if self.read < self.positions.positions.len() {
            return Next::NeedsPage;
        }
        if !std::mem::replace(&mut self.is_told, true) {
            self.positions = self.positions.budget.begin();
            self.read = 0;
        }
        self.follower.advance()
    }

    /// Reads the next page. Nothing passed does not mean that there is no more.
    pub async fn read_page(&mut self) -> Next {
        if self.is_told {
            return self.follower.read_page().await;
        }
        let mut back_off = BackOff::new(FOLLOWERS, self.observer.clone());
        loop {
            let rest = &self.positions.positions[self.read..];
            match self.tail.pages().at(rest, self.pages.limit()).await {
                Ok((messages, read)) => {
                    back_off.worked();
                    if self.tail.history() != self.place.history {
                        return Next::HistoryChanged;
                    }
                    self.read += read;
                    self.pages.saw(messages.len(), messages.iter().map(Message::memory_bytes).sum());
                    let passing = messages.into_iter().filter(|message| self.filter.passes(message));
                    let entries: Vec<Entry> = passing.map(|message| Entry::of(Arc::new(message), false)).collect();
                    return if entries.is_empty() { Next::NeedsPage } else { Next::Messages(entries) };
                }
                Err(error) => {
                    let pause = back_off.failed(&error);
                    if !error.may_pass() {
                        return Next::Failed(error);
                    }
                    self.pages.failed();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
