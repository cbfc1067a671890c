//! The event streams that are open on this instance, and which of them are behind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::domain::time::Timestamp;

/// So many lists, each with a lock of its own: streams come and go while one of them is read.
const SHARDS: usize = 64;
/// Neither a time nor a position.
const NONE: i64 = -1;

/// All open event streams. Cheap to clone.
#[derive(Clone)]
pub struct OpenStreams(Arc<Shared>);

struct Shared {
    shards: [Mutex<HashMap<u64, Arc<OpenStream>>>; SHARDS],
    opened: AtomicU64,
}

/// An open event stream, on the list for as long as this is held.
pub struct Listed {
    streams: OpenStreams,
    number: u64,
    stream: Arc<OpenStream>,
}

/// What is known of an open event stream. No delivery takes a lock: the most that one writes here is a number.
pub struct OpenStream {
    opened_at: Timestamp,
    asked: OnceLock<Asked>,
    /// The global position up to which it was told.
    told_up_to: AtomicI64,
    /// Since when it reads what is stored.
    history_since: AtomicI64,
    /// Since when its client takes nothing of what is written.
    stalled_since: AtomicI64,
}

/// What was asked for, and by which caller.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Path and query, without a ticket.
    pub path: Box<str>,
    pub credential: Option<Arc<str>>,
    pub address: Option<IpAddr>,
}

/// What an event stream that is behind waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// Pages of what is stored.
    Database,
    /// Its client, which takes nothing of what is written.
    Client,
}

/// An event stream that is behind.
#[derive(Debug, Clone)]
pub struct BehindStream {
    pub asked: Option<Asked>,
    pub opened_at: Timestamp,
    pub behind_since: Timestamp,
    pub waits_for: WaitsFor,
    /// `None`: nothing was told yet.
    pub told_up_to: Option<i64>,
}

/// The event streams that are behind.
#[derive(Debug)]
pub struct BehindReport {
    pub open: usize,
    pub behind: usize,
    /// Those that are furthest behind.
    pub streams: Vec<BehindStream>,
    pub settled: i64,
}

impl Default for OpenStreams {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(Shared { shards, opened: AtomicU64::new(0) }))
    }
}

impl OpenStreams {
    /// A stream that begins to read what is stored.
    pub fn enter(&self) -> Listed {
        let number = self.0.opened.fetch_add(1, Ordering::Relaxed);
        let opened_at = Timestamp::now();
        let stream = Arc::new(OpenStream {
            opened_at,
            asked: OnceLock::new(),
            told_up_to: AtomicI64::new(NONE),
            history_since: AtomicI64::new(opened_at.0),
            stalled_since: AtomicI64::new(NONE),
        });
        self.shard(number).insert(number, stream.clone());
        Listed { streams: self.clone(), number, stream }
    }

    /// Those that have been behind for so long, the furthest behind first, at most `limit` of them.
    pub fn behind(&self, settled: i64, behind_for: Duration, limit: usize) -> BehindReport {
        let until = Timestamp(Timestamp::now().0.saturating_sub_unsigned(behind_for.as_micros() as u64));
        let mut report = BehindReport { open: 0, behind: 0, streams: Vec::new(), settled };
        for shard in &self.0.shards {
            let streams = shard.lock();
            report.open += streams.len();
            let known = report.streams.len();
            report.streams.extend(streams.values().filter_map(|stream| stream.behind(until)));
            report.behind += report.streams.len() - known;
            drop(streams);
            report.streams.sort_unstable_by_key(|stream| (stream.told_up_to, stream.behind_since.0));
            report.streams.truncate(limit);
        }
        report
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<OpenStream>>> {
        self.0.shards[number as usize % SHARDS].lock()
    }
}

impl Listed {
    pub fn stream(&self) -> &Arc<OpenStream> {
        &self.stream
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.streams.shard(self.number).remove(&self.number);
    }
}

impl OpenStream {
    /// Its caller, and what was asked for. Said once.
    pub fn is_asked(&self, asked: Asked) {
        let _ = self.asked.set(asked);
    }

    /// It was told everything up to a global position.
    pub fn told_up_to(&self, position: i64) {
        self.told_up_to.store(position, Ordering::Relaxed);
    }

    /// It has come to the end, and is told what is new.
    pub fn caught_up(&self) {
        self.history_since.store(NONE, Ordering::Relaxed);
    }

    /// It reads what is stored.
    pub fn fell_behind(&self) {
        if self.history_since.load(Ordering::Relaxed) == NONE {
            self.history_since.store(Timestamp::now().0, Ordering::Relaxed);
        }
    }

    /// Something is written that the client has not taken.
    pub fn stalled(&self) {
        self.stalled_since.store(Timestamp::now().0, Ordering::Relaxed);
    }

    /// The client has taken what was written.
    pub fn taken(&self) {
        self.stalled_since.store(NONE, Ordering::Relaxed);
    }

    /// What is to be said of it if it has been behind since then, or longer.
    fn behind(&self, until: Timestamp) -> Option<BehindStream> {
        let since = |time: &AtomicI64| Some(time.load(Ordering::Relaxed)).filter(|&at| at != NONE && at <= until.0);
        let (history, stalled) = (since(&self.history_since), since(&self.stalled_since));
        let waits_for = if stalled.is_some() { WaitsFor::Client } else { WaitsFor::Database };
        Some(BehindStream {
            behind_since: Timestamp(history.into_iter().chain(stalled).min()?),
            asked: self.asked.get().cloned(),
            opened_at: self.opened_at,
            waits_for,
            told_up_to: Some(self.told_up_to.load(Ordering::Relaxed)).filter(|&position| position != NONE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(report: &BehindReport) -> Vec<Option<i64>> {
        report.streams.iter().map(|stream| stream.told_up_to).collect()
    }

    #[test]
    fn those_that_are_behind_are_named_the_furthest_first_and_no_more_than_asked_for() {
        let streams = OpenStreams::default();
        let all: Vec<Listed> = (0..200).map(|_| streams.enter()).collect();
        for (at, listed) in all.iter().enumerate() {
            listed.stream().told_up_to(1_000 - at as i64);
        }
        all[7].stream().caught_up();
        all[199].stream().caught_up();
        let report = streams.behind(2_000, Duration::ZERO, 3);
        assert_eq!((report.open, report.behind), (200, 198));
        assert_eq!(positions(&report), [Some(802), Some(803), Some(804)]);
        assert!(report.streams.iter().all(|stream| stream.waits_for == WaitsFor::Database));
        assert_eq!(streams.behind(2_000, Duration::from_secs(3_600), 3).behind, 0, "not for so long");
        drop(all);
        assert_eq!(streams.behind(2_000, Duration::ZERO, 3).open, 0);
    }

    #[test]
    fn one_that_is_told_what_is_new_is_behind_while_its_client_takes_nothing() {
        let streams = OpenStreams::default();
        let listed = streams.enter();
        let stream = listed.stream();
        stream.caught_up();
        stream.told_up_to(5);
        assert_eq!(streams.behind(9, Duration::ZERO, 1).behind, 0);
        stream.stalled();
        let report = streams.behind(9, Duration::ZERO, 1);
        assert_eq!((report.streams[0].waits_for, report.streams[0].told_up_to), (WaitsFor::Client, Some(5)));
        stream.taken();
        stream.fell_behind();
        assert_eq!(streams.behind(9, Duration::ZERO, 1).streams[0].waits_for, WaitsFor::Database);
    }
}
