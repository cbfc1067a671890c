//! Open event streams: how many there may be, and what each connection is told, from one thing to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::auth::Caller;
use super::credential_limits::{CredentialLimits, FollowerPlace};
use super::follow::Followed;
use super::log::follower::Follower;
use super::log::{Entry, LogName, Trimmed};
use super::subscriptions::{Change, Connection, Delivery};
use super::tail::Tail;
use super::tail::heartbeat::{Beat, Heartbeats};
use crate::domain::closing::ClosingReason;
use crate::domain::event_id::EventId;
use crate::domain::filter::Filter;
use crate::domain::observation::Observation;
use crate::telemetry::Observer;

/// What an event stream says.
#[derive(Debug)]
pub enum Event {
    /// Messages of a log, in order; never empty.
    Messages(Vec<Entry>),
    /// The newest messages of streams, in order; never empty. They have no ids.
    Latest(Vec<Entry>),
    /// Messages were trimmed before these, and before the cursor.
    Trimmed { trimmed: Trimmed, entries: Vec<Entry>, cursor: EventId },
    /// What has changed in what a consumer of a subscription holds, and messages for it.
    Delivered { changes: Vec<Change>, trimmed: Option<Trimmed>, deliveries: Vec<Delivery> },
    /// The filter let nothing pass for a while; the cursor has moved on.
    Moved(EventId),
    /// History is done; from here on messages come as they are settled.
    CaughtUp { position: i64 },
    /// Messages are read from the database again.
    FellBehind { position: i64 },
    /// Nothing else has come for a while.
    Heartbeat { head: i64, settled: i64 },
    /// Nothing comes after this.
    Closing(ClosingReason),
}

/// Why no event stream can be opened.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum AdmissionError {
    #[error("the service is shutting down")]
    Draining,
    #[error("the limit of {max} open event streams is reached")]
    TooMany { max: usize },
    #[error("the limit of {max} open event streams of one credential is reached")]
    TooManyOfCredential { max: usize },
}

/// All open event streams, and what each of them needs beside its source. Cheap to clone.
#[derive(Clone)]
pub struct EventStreams(Arc<Shared>);

struct Shared {
    open: AtomicUsize,
    max: usize,
    credential_limits: CredentialLimits,
    heartbeats: Heartbeats,
    tail: Tail,
    draining: CancellationToken,
    observer: Observer,
}

/// A connection's place among the open event streams; given back when it goes.
pub struct Admission {
    streams: EventStreams,
    /// Among those of the caller's credential.
    _place: FollowerPlace,
}

impl EventStreams {
    pub fn new(
        max: usize,
        credential_limits: CredentialLimits,
        tail: Tail,
        draining: CancellationToken,
        observer: Observer,
    ) -> Self {
        let (open, heartbeats) = (AtomicUsize::new(0), Heartbeats::default());
        Self(Arc::new(Shared { open, max, credential_limits, heartbeats, tail, draining, observer }))
    }

    pub fn heartbeats(&self) -> Heartbeats {
        self.0.heartbeats.clone()
    }

    /// A place, unless all are taken, or all of the caller's credential.
    pub fn admit(&self, caller: &Caller) -> Result<Admission, AdmissionError> {
        let shared = &self.0;
        if shared.draining.is_cancelled() {
            return Err(AdmissionError::Draining);
        }
        let place = shared.credential_limits.take_follower(caller);
        let _place = place.map_err(|max| AdmissionError::TooManyOfCredential { max })?;
        let place = Admission { streams: self.clone(), _place };
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
        let shared = &self.streams.0;
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

/// What event streams have in common that are told the same, byte for byte, from the same place on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Audience {
    log: LogName,
    filter: Filter,
    heartbeat: Duration,
}

/// The events of one connection, made when the connection asks for them: nothing is queued for it. Connections that
/// are told the same may share one.
pub struct Events {
    streams: EventStreams,
    /// They end when the caller's credential does.
    caller: Option<Caller>,
    /// `None` after the last event: what it holds is given back at once.
    source: Option<Source>,
    /// What is still to be said where the source is gone.
    closing: Option<ClosingReason>,
    cursor: Option<EventId>,
    /// The cursor to begin with, where that lies beyond the end: a client that is cut before anything has come does
    /// better to come back with the `from` it came with, as an id from the future is refused.
    not_an_id: Option<EventId>,
    heartbeat: Duration,
    beat: Option<Beat>,
    told_at: Instant,
}

/// Waits for the end of the caller's credential.
async fn ended(caller: Option<&Caller>) {
    match caller {
        Some(caller) => caller.ended().await,
        None => std::future::pending().await,
    }
}

impl Events {
    pub(super) fn new(admission: &Admission, source: Source, heartbeat: Duration) -> Self {
        let (streams, cursor, told_at) = (admission.streams.clone(), source.cursor(), Instant::now());
        let source = Some(source);
        Self { streams, caller: None, source, closing: None, cursor, not_an_id: None, heartbeat, beat: None, told_at }
    }

    /// Whose they are; `None`: they do not end with a credential.
    pub fn belong_to(&mut self, caller: Option<Caller>) {
        self.caller = caller;
    }

    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// The place where it begins is beyond the end of the log, so it is no id that a client could come back with.
    pub(super) fn keep_first_cursor(&mut self) {
        self.not_an_id = self.cursor;
    }

    /// The cursor after the last event, as far as a client can come back with it.
    pub fn id(&self) -> Option<EventId> {
        self.cursor.filter(|_| self.cursor != self.not_an_id)
    }

    /// Whether all that was there has been told, and one log is waited for.
    pub fn is_live(&self) -> bool {
        self.live().is_some()
    }

    /// With whom it may be shared, if there may be anybody.
    pub fn audience(&self) -> Option<Audience> {
        // One from beyond the end leaves out what comes before its place.
        let follower = self.live().filter(|_| self.id().is_some())?;
        let (log, filter) = follower.has_company().then(|| follower.reads())?;
        Some(Audience { log, filter, heartbeat: self.heartbeat })
    }

    /// Whether two of one audience, both of which have nothing more to tell, are at the same place. One that has seen
    /// positions that are not known here yet (another instance told of them), or that will be given again (the newest
    /// messages of its stream were deleted), is not where the others are.
    pub fn is_level_with(&self, other: &Self) -> bool {
        let place = |events: &Self| {
            let place = events.live()?.place();
            Some((place.history, place.after, place.stream_after))
        };
        place(self).is_some() && place(self) == place(other)
    }

    /// The same events from here on, for one of those that shared them, and nobody's yet. `closing`: nothing but their end.
    pub fn fork(&self, closing: Option<ClosingReason>) -> Option<Self> {
        let source = match (&self.source, closing) {
            (_, Some(_)) => None,
            (Some(Source::Log(followed)), None) => Some(Source::Log(followed.fork()?)),
            (Some(Source::Subscription(_)) | None, None) => return None,
        };
        let Self { streams, cursor, not_an_id, heartbeat, told_at, .. } = self;
        let (streams, cursor, not_an_id) = (streams.clone(), *cursor, *not_an_id);
        let (heartbeat, told_at) = (*heartbeat, *told_at);
        Some(Self { streams, caller: None, source, closing, cursor, not_an_id, heartbeat, beat: None, told_at })
    }

    /// What comes next, however long that takes; `None` at the end. May be given up at any point without a loss.
    pub async fn next(&mut self) -> Option<Event> {
        let Some(source) = self.source.as_mut() else { return self.closing.take().map(Event::Closing) };
        let shared = &self.streams.0;
        let event = loop {
            if shared.draining.is_cancelled() {
                break Some(Event::Closing(ClosingReason::Draining));
            }
            if self.caller.as_ref().is_some_and(Caller::has_ended) {
                break Some(Event::Closing(ClosingReason::Expired));
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
                () = ended(self.caller.as_ref()) => {}
            }
        };
        self.took(event.as_ref());
        event.map(|event| self.without_erased(event))
    }

    /// Messages may have been erased since they were read: a page waits for a slow client, a source for the others.
    fn without_erased(&self, mut event: Event) -> Event {
        let tail = &self.streams.0.tail;
        match &mut event {
            Event::Messages(entries) | Event::Latest(entries) | Event::Trimmed { entries, .. } => {
                entries.iter_mut().for_each(|entry| tail.redact(&mut entry.message));
            }
            Event::Delivered { deliveries, .. } => deliveries.iter_mut().for_each(|one| tail.redact(&mut one.message)),
            _ => {}
        }
        event
    }

    /// What there is already; `None`: nothing that need not be waited for.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = match self.source.as_mut()? {
            Source::Log(followed) => followed.try_next()?,
            Source::Subscription(_) => return None,
        };
        self.took(Some(&event));
        Some(self.without_erased(event))
    }

    /// So many connections are about to be told this.
    pub fn tells(&self, event: &Event, connections: usize) {
        let observer = &self.streams.0.observer;
        match event {
            Event::Messages(entries) | Event::Latest(entries) | Event::Trimmed { entries, .. } => {
                observer.record(Observation::Delivered { messages: entries.len() * connections });
            }
            // Of the first, its log has said so.
            Event::FellBehind { .. } => (1..connections).for_each(|_| observer.record(Observation::FellBehind)),
            _ => {}
        }
    }

    fn took(&mut self, event: Option<&Event>) {
        self.told_at = Instant::now();
        self.cursor = self.source.as_ref().and_then(Source::cursor).or(self.cursor);
        if matches!(event, None | Some(Event::Closing(_))) {
            self.source = None;
        }
    }

    fn live(&self) -> Option<&Follower> {
        match &self.source {
            Some(Source::Log(followed)) => followed.live(),
            Some(Source::Subscription(_)) | None => None,
        }
    }
}
