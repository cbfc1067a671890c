//! Open event streams: how many there may be, and what each connection is told, from one thing to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::follow::Followed;
use super::log::Entry;
use super::subscriptions::{Change, Connection, Delivery};
use super::tail::Tail;
use super::tail::heartbeat::{Beat, Heartbeats};
use crate::domain::event_id::EventId;
use crate::domain::observation::Observation;
use crate::telemetry::Observer;

/// What an event stream says.
#[derive(Debug)]
pub enum Event {
    /// Messages of a log, in order; never empty.
    Messages(Vec<Entry>),
    /// What has changed in what a consumer of a subscription holds, and messages for it.
    Delivered { changes: Vec<Change>, deliveries: Vec<Delivery> },
    /// The filter let nothing pass for a while; the cursor has moved on.
    Moved(EventId),
    /// History is done; from here on messages come as they are settled.
    CaughtUp { position: i64 },
    /// Messages are read from the database again.
    FellBehind { position: i64 },
    /// Nothing else has come for a while.
    Heartbeat { head: i64, settled: i64 },
    /// Nothing comes after this.
    Closing(Closing),
}

/// Why an event stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    Draining,
    /// What was followed has been deleted.
    Deleted,
    /// The consumer was removed, or its lease ran out.
    Removed,
    /// Another connection has come with the consumer's name.
    Replaced,
    /// The log went back: what was followed is a log that is gone.
    HistoryChanged,
    /// The database refuses to give what follows, or it cannot be read.
    Failed,
}

/// Why no event stream can be opened.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum AdmissionError {
    #[error("the service is shutting down")]
    Draining,
    #[error("the limit of {max} open event streams is reached")]
    TooMany { max: usize },
}

/// All open event streams, and what each of them needs beside its source. Cheap to clone.
#[derive(Clone)]
pub struct EventStreams(Arc<Shared>);

struct Shared {
    open: AtomicUsize,
    max: usize,
    heartbeats: Heartbeats,
    tail: Tail,
    draining: CancellationToken,
    observer: Observer,
}

/// A connection's place among the open event streams; given back when it goes.
pub struct Admission(EventStreams);

impl EventStreams {
    pub fn new(max: usize, tail: Tail, draining: CancellationToken, observer: Observer) -> Self {
        let (open, heartbeats) = (AtomicUsize::new(0), Heartbeats::default());
        Self(Arc::new(Shared { open, max, heartbeats, tail, draining, observer }))
    }

    pub fn heartbeats(&self) -> Heartbeats {
        self.0.heartbeats.clone()
    }

    /// A place, unless all are taken.
    pub fn admit(&self) -> Result<Admission, AdmissionError> {
        let shared = &self.0;
        if shared.draining.is_cancelled() {
            return Err(AdmissionError::Draining);
        }
        let place = Admission(self.clone());
        let before = shared.open.fetch_add(1, Ordering::SeqCst);
        shared.observer.record(Observation::FollowerJoined);
        if before >= shared.max {
            shared.observer.record(Observation::FollowerRefused);
            return Err(AdmissionError::TooMany { max: shared.max });
        }
        Ok(place)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.open.fetch_sub(1, Ordering::SeqCst);
        shared.observer.record(Observation::FollowerLeft);
    }
}

/// What the events of one connection are made from.
#[allow(clippy::large_enum_variant)] // nearly all connections have the large one
pub(super) enum Source {
    Log(Followed),
    Subscription(Connection),
}

impl Source {
    async fn next(&mut self) -> Option<Event> {
        match self {
            Source::Log(followed) => followed.next().await,
            Source::Subscription(connection) => connection.next().await,
        }
    }

    /// `None` where the service keeps the cursor, or while a page is being read.
    fn cursor(&self) -> Option<EventId> {
        match self {
            Source::Log(followed) => followed.cursor(),
            Source::Subscription(_) => None,
        }
    }
}

/// The events of one connection, made when the connection asks for them: nothing is queued for it.
pub struct Events {
    admission: Admission,
    /// `None` after the last event: what it holds is given back at once.
    source: Option<Source>,
    cursor: Option<EventId>,
    /// The cursor to begin with, where that lies beyond the end: a client that is cut before anything has come does
    /// better to come back with the `from` it came with, as an id from the future is refused.
    not_an_id: Option<EventId>,
    heartbeat: Duration,
    beat: Option<Beat>,
    told_at: Instant,
}

impl Events {
    pub(super) fn new(admission: Admission, source: Source, heartbeat: Duration) -> Self {
        let (cursor, told_at) = (source.cursor(), Instant::now());
        Self { admission, source: Some(source), cursor, not_an_id: None, heartbeat, beat: None, told_at }
    }

    /// The place where it begins is beyond the end of the log, so it is no id that a client could come back with.
    pub(super) fn keep_first_cursor(&mut self) {
        self.not_an_id = self.cursor;
    }

    /// The cursor after the last event, as far as a client can come back with it.
    pub fn id(&self) -> Option<EventId> {
        self.cursor.filter(|_| self.cursor != self.not_an_id)
    }

    /// What comes next, however long that takes; `None` at the end. May be given up at any point without a loss.
    pub async fn next(&mut self) -> Option<Event> {
        let source = self.source.as_mut()?;
        let shared = &self.admission.0.0;
        let event = loop {
            if shared.draining.is_cancelled() {
                break Some(Event::Closing(Closing::Draining));
            }
            // The timer is only asked for again when it has come, so a busy connection does not touch it.
            let beat = self.beat.get_or_insert_with(|| shared.heartbeats.after(self.heartbeat));
            tokio::select! {
                biased;
                event = source.next() => break event,
                () = beat => {
                    let left = self.heartbeat.saturating_sub(self.told_at.elapsed());
                    self.beat = (!left.is_zero()).then(|| shared.heartbeats.after(left));
                    if left.is_zero() {
                        break Some(Event::Heartbeat { head: shared.tail.head(), settled: shared.tail.settled() });
                    }
                }
                () = shared.draining.cancelled() => {}
            }
        };
        self.told_at = Instant::now();
        self.cursor = source.cursor().or(self.cursor);
        match &event {
            Some(Event::Messages(entries)) => {
                shared.observer.record(Observation::Delivered { messages: entries.len() });
            }
            None | Some(Event::Closing(_)) => self.source = None,
            Some(_) => {}
        }
        event
    }
}
