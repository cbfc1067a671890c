//! Anything with an order is a log: everything, a category, a stream, several of them, an aggregated stream, some of its
//! partitions. A log says what it has in memory after a place, gives a page of it, and wakes readers that wait for more.
//! All that read it do so with a [`Cursor`](cursor::Cursor).

pub mod cursor;
pub mod follower;
pub mod following;
pub mod latest;
pub mod merged;
#[cfg(test)]
pub(super) mod model;
pub mod pages;
mod reach;
pub mod suffix;

use std::sync::Arc;

use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::event_id::{Check, EventId};
use crate::domain::filter::Filter;
use crate::domain::keyed::KeyPlace;
use crate::domain::message::Message;
use crate::domain::source::Source;
use crate::service::aggregated::log::{AggregatedLog, AggregatedSource};
use crate::service::tail::Membership;
use crate::store::StoreError;
use crate::store::read::{FollowedPage, PageLimit};
pub use crate::store::trim::Trimmed;

/// A log that can be followed; it keeps what is new in memory for as long as this is held.
pub enum Log {
    /// Messages as they are settled.
    Messages(Membership),
    /// Messages as they are projected.
    Aggregated(Box<AggregatedLog>),
}

/// Which log it is: the same for all of its readers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogName {
    Messages(Source),
    Aggregated(AggregatedSource),
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Everything up to this global position has been seen.
    pub after: i64,
    /// For a single stream: the last position in it that has been seen, -1 for none.
    pub stream_after: Option<i64>,
    /// By what the message there is recognised.
    pub check: Option<Check>,
    /// The log went back so often before this place was found.
    pub history: u64,
}

/// A message of a log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The id of its event: everything up to it has been seen.
    pub id: EventId,
    pub message: Arc<Message>,
    /// In an aggregated stream.
    pub link: Option<Link>,
}

/// Where an aggregated stream has a message.
#[derive(Debug, Clone)]
pub struct Link {
    pub aggregated_stream: Arc<str>,
    pub partition: i32,
    pub position: i64,
    /// Of a keyed one: all its places in what is read, of which the above is the first.
    pub keys: Option<Arc<[KeyPlace]>>,
}

/// What comes after a place.
#[derive(Debug)]
pub struct Page {
    /// In order.
    pub entries: Vec<Entry>,
    /// Everything up to this global position has been seen.
    pub up_to: i64,
    /// By what the message there is recognised, if that is known.
    pub check: Option<Check>,
    /// There is no more at this moment.
    pub is_end: bool,
    /// Messages before those that are here, after the place, were trimmed.
    pub trimmed: Option<Trimmed>,
}

/// What a read of a log gives.
#[derive(Debug)]
pub enum Read {
    Page(Page),
    /// It is not in memory: a page has to be read from the database.
    Miss,
    /// What was read has been deleted.
    Deleted,
    /// The log went back: the place is one of a log that is gone.
    HistoryChanged,
}

impl Log {
    pub fn name(&self) -> LogName {
        match self {
            Log::Messages(membership) => LogName::Messages(membership.source().clone()),
            Log::Aggregated(log) => LogName::Aggregated(log.source().clone()),
        }
    }

    /// The same log, joined once more.
    pub fn again(&self) -> Self {
        match self {
            Log::Messages(membership) => Log::Messages(membership.again()),
            Log::Aggregated(log) => Log::Aggregated(Box::new(log.again())),
        }
    }

    /// Whether it has other followers here.
    pub fn has_company(&self) -> bool {
        match self {
            Log::Messages(membership) => membership.has_company(),
            Log::Aggregated(log) => log.has_company(),
        }
    }

    /// What is in memory after a place.
    pub fn newest(&self, place: Place, limit: PageLimit) -> Read {
        match self {
            Log::Messages(membership) => membership.newest(place, limit),
            Log::Aggregated(log) => log.newest(place, limit),
        }
    }

    /// What is in the database after a place. What only the service can judge is not judged.
    pub async fn page(&self, place: Place, limit: PageLimit, filter: &Filter) -> Result<Read, StoreError> {
        match self {
            Log::Messages(membership) => membership.page(place, limit, filter).await,
            Log::Aggregated(log) => log.page(place, limit).await,
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        match self {
            Log::Messages(membership) => membership.changed().await,
            Log::Aggregated(log) => log.changed().await,
        }
    }
}

impl Page {
    /// What was read after a place, of what is settled.
    pub fn followed(page: FollowedPage, place: Place, settled: i64) -> Self {
        let FollowedPage { messages, is_full } = page;
        // A full page ends somewhere; one that is not full has seen everything there is.
        let seen = messages.last().filter(|_| is_full).map_or(settled, |last| last.global_position);
        let in_stream = place.stream_after.is_some();
        let entries = messages.into_iter().map(|message| Entry::of(Arc::new(message), in_stream)).collect();
        Self { entries, up_to: seen.max(place.after), check: None, is_end: !is_full, trimmed: None }
    }
}

impl Place {
    pub fn global(after: i64, history: u64) -> Self {
        Self { after, stream_after: None, check: None, history }
    }

    /// In the stream for a single stream, global otherwise.
    pub fn position(&self) -> i64 {
        self.stream_after.unwrap_or(self.after)
    }
}

impl Entry {
    /// `in_stream`: its place is its position in its stream.
    pub fn of(message: Arc<Message>, in_stream: bool) -> Self {
        let position = if in_stream { message.position } else { message.global_position };
        Self { id: EventId::at(position, message.id), message, link: None }
    }

    pub fn aggregated(aggregated_stream: &Arc<str>, one: AggregatedMessage) -> Self {
        let AggregatedMessage { partition, position, keys, message } = one;
        let link = Link { aggregated_stream: aggregated_stream.clone(), partition, position, keys };
        Self { link: Some(link), ..Self::of(message, false) }
    }

    pub fn global_position(&self) -> i64 {
        self.message.global_position
    }
}
