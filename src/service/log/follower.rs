//! A cursor on a log. It holds nothing else: what it hands over next is asked for when it is wanted.

use super::cursor::{BATCH, Cursor, Next};
use super::{Log, LogName, Place};
use crate::domain::event_id::EventId;
use crate::domain::filter::Filter;
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::telemetry::Observer;

/// How the log of the service names the followers of this instance where one of them fails.
pub(super) const FOLLOWERS: &str = "followers";

/// One reader of a log, in history or at its end.
pub struct Follower {
    log: Log,
    cursor: Cursor,
    observer: Observer,
}

impl Follower {
    /// Follows a log from a place on.
    pub fn new(log: Log, place: Place, filter: Filter, observer: Observer) -> Self {
        Self { log, cursor: Cursor::new(place, filter), observer }
    }

    /// Another one at the same place.
    pub fn fork(&self) -> Self {
        Self { log: self.log.again(), cursor: self.cursor.clone(), observer: self.observer.clone() }
    }

    /// What it reads of which log.
    pub fn reads(&self) -> (LogName, Filter) {
        (self.log.name(), self.cursor.filter().clone())
    }

    /// Whether it waits for what is new, as others do.
    pub fn is_live(&self) -> bool {
        self.cursor.is_live()
    }

    /// Whether its log has other followers here.
    pub fn has_company(&self) -> bool {
        self.log.has_company()
    }

    /// The id with which a client may come back.
    pub fn id(&self) -> EventId {
        self.cursor.id()
    }

    pub fn place(&self) -> Place {
        self.cursor.place()
    }

    /// What is there now, without waiting.
    pub fn advance(&mut self) -> Next {
        let next = loop {
            let read = self.log.newest(self.cursor.place(), BATCH);
            if let Some(next) = self.cursor.on_newest(read) {
                break next;
            }
        };
        match next {
            Next::CaughtUp => self.observer.record(Observation::CacheRead { hit: true }),
            Next::FellBehind => self.observer.record(Observation::FellBehind),
            _ => {}
        }
        next
    }

    /// Reads the next page from the database, however long that is away. Nothing passed does not mean that there is no
    /// more.
    pub async fn read_page(&mut self) -> Next {
        let mut back_off = BackOff::new(FOLLOWERS, self.observer.clone());
        loop {
            self.observer.record(Observation::CacheRead { hit: false });
            let Self { log, cursor, .. } = self;
            match log.page(cursor.place(), cursor.page_limit(), cursor.filter()).await {
                Ok(read) => {
                    back_off.worked();
                    return cursor.on_page(read);
                }
                Err(error) => {
                    let pause = back_off.failed(&error);
                    if !error.may_pass() {
                        return Next::Failed(error);
                    }
                    cursor.on_failed_page();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        self.log.changed().await;
    }
}
