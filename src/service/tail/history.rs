//! Noticing that the log went back, and beginning again: nothing is fed from positions of a log that is gone.

use std::sync::atomic::Ordering;

use super::Tail;
use super::reader::Reader;
use crate::domain::event_id::Check;
use crate::domain::history::{HistoryChange, Known, Landmark, Seen};
use crate::domain::observation::Observation;
use crate::domain::time::Timestamp;
use crate::store::{Session, StoreError};

/// The last time that the log went back, as this instance saw it.
#[derive(Debug, Clone, Copy)]
pub struct HistoryChanged {
    pub at: Timestamp,
    pub change: HistoryChange,
    /// Up to where the log had been settled, and where it ended when that was noticed.
    pub settled: i64,
    pub head: i64,
}

/// What the reader remembers of the log that it reads.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub known: Known,
    /// Of the server that the present connection leads to.
    pub server: Option<String>,
}

impl Tail {
    /// Counts the logs that have stood here, since this instance runs.
    pub fn history(&self) -> u64 {
        *self.inner.history.borrow()
    }

    /// The number by which the database knows the log that this instance reads. What is read with another one is of a log
    /// that this instance has not found yet.
    pub fn history_number(&self) -> i64 {
        self.inner.history_number.load(Ordering::SeqCst)
    }

    /// [`history`](Self::history) and [`history_number`](Self::history_number) of one log.
    pub fn log_numbers(&self) -> (u64, i64) {
        // Both change under this lock.
        let _cache = self.cache();
        (self.history(), self.history_number())
    }

    /// Changes when the log went back.
    pub fn histories(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.history.subscribe()
    }

    /// The last time that the log went back, since this instance runs.
    pub fn history_changed(&self) -> Option<HistoryChanged> {
        *self.inner.history_changed.lock()
    }

    /// The log that is there now is read from a position on; what was kept of another one is forgotten.
    pub(super) fn begin_at(&self, settled: i64, head: i64, number: i64, is_first: bool) {
        let inner = &self.inner;
        let mut cache = self.cache();
        inner.head.store(head, Ordering::Relaxed);
        *inner.inbox.lock() = Default::default();
        *inner.held_back.lock() = None;
        cache.begin_at(settled);
        inner.history_number.store(number, Ordering::SeqCst);
        if !is_first {
            self.doubt_generation();
            inner.shared_pages.forget();
            // Under the cache's lock, so that nobody reads the new log as the old one.
            inner.history.send_modify(|number| *number += 1);
        }
    }

    /// By what the message at a settled position is recognised, where that is the last one.
    pub fn check_at(&self, position: i64) -> Option<Check> {
        self.cache().check_at(position)
    }
}

impl Reader {
    /// Looks at what the log is recognised by.
    pub(super) async fn look_at_history(&self, session: &Session) -> Result<Seen, StoreError> {
        session.look_at_history(&self.memory.known, self.settled(), self.memory.server.as_deref()).await
    }

    /// Judges what was seen. `true`: it is another log, and this reader has begun again.
    pub(super) async fn is_another_log(&mut self, session: &Session, seen: &Seen) -> Result<bool, StoreError> {
        let Some(change) = self.memory.known.judge(self.settled(), seen) else {
            self.memory.known.take_in(seen);
            if let Some(newest) = seen.newest {
                self.recognise(newest);
            }
            return Ok(false);
        };
        let settled = self.settled();
        session.begin_history(self.memory.known.number, change.is_anew).await?;
        let head = self.begin(session).await?;
        let changed = HistoryChanged { at: Timestamp::now(), change, settled, head };
        *self.tail.inner.history_changed.lock() = Some(changed);
        let (reason, is_anew) = (change.reason.name(), change.is_anew);
        self.tail.inner.observer.record(Observation::HistoryChanged { reason, is_anew, settled, head });
        Ok(true)
    }

    /// Looks by what the log is recognised at a place that is about to be settled: nobody is to read up to there before.
    /// `false`: it is another log.
    pub(super) async fn is_known_at(&mut self, session: &Session, position: i64) -> Result<bool, StoreError> {
        let seen = session.look_at_history(&self.memory.known, position, self.memory.server.as_deref()).await?;
        Ok(!self.is_another_log(session, &seen).await?)
    }

    /// The first and the last message that were just settled.
    pub(super) fn has_settled(&mut self, ends: Option<(Landmark, Landmark)>) {
        let Some((first, last)) = ends else { return };
        self.memory.known.settled(first, last);
        self.recognise(last);
    }

    /// The message at the settled position is known: cursors at that position name it.
    pub(super) fn recognise(&self, newest: Landmark) {
        if newest.position == self.settled() {
            self.tail.cache().recognise(newest.position, Check::of(newest.id));
        }
    }
}
