//! Open event streams: how many there may be, and what each connection is told, from one thing to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::auth::Caller;
use super::credential_limits::{CredentialLimits, CredentialPlace};
use super::event_source::EventSource;
use super::log::follower::Follower;
use super::log::{Entry, LogName, Trimmed};
use super::open_streams::{BehindReport, Listed, OpenStream, OpenStreams};
use super::subscriptions::{AssignmentChange, Delivery};
use super::tail::Tail;
use super::tail::heartbeat::{Beat, Heartbeats};
use crate::domain::closing::ClosingReason;
use crate::domain::event_id::EventId;
use crate::domain::filter::Filter;
use crate::domain::observation::Observation;
use crate::domain::trace::Span;
use crate::telemetry::Observer;

/// When the service stops, event streams are closed in so many steps, so that not all clients come back at once.
const CLOSING_STEPS: usize = 64;
/// The time that each event stream adds to these steps.
const CLOSING_TIME: Duration = Duration::from_millis(1);

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
    Delivered { changes: Vec<AssignmentChange>, trimmed: Option<Trimmed>, deliveries: Vec<Delivery> },
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
    listed: OpenStreams,
    max: usize,
    credential_limits: CredentialLimits,
    heartbeats: Heartbeats,
    tail: Tail,
    draining: CancellationToken,
    /// Cancelled one after another once the service drains.
    closing: [CancellationToken; CLOSING_STEPS],
    observer: Observer,
}

/// A connection's place among the open event streams; given back when it goes.
pub struct Admission {
    streams: EventStreams,
    /// Among those of the caller's credential.
    _place: CredentialPlace,
    listed: Listed,
}

impl EventStreams {
    pub fn new(
        max: usize,
        credential_limits: CredentialLimits,
        tail: Tail,
        draining: CancellationToken,
        observer: Observer,
    ) -> Self {
        let (open, listed, heartbeats) = (AtomicUsize::new(0), OpenStreams::default(), Heartbeats::default());
        let closing = std::array::from_fn(|_| CancellationToken::new());
        let shared = Shared { open, listed, max, credential_limits, heartbeats, tail, draining, closing, observer };
        Self(Arc::new(shared))
    }

    /// Closes event streams once the service drains: the more there are, the longer that takes, up to a limit.
    pub async fn close_in_steps(self, time_max: Duration, stopping: CancellationToken) {
        let shared = &self.0;
        shared.draining.cancelled().await;
        let open = u32::try_from(shared.open.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        let pause = CLOSING_TIME.saturating_mul(open).min(time_max) / CLOSING_STEPS as u32;
        for step in &shared.closing {
            step.cancel();
            // Timers are no finer.
            if pause >= Duration::from_millis(1) {
                tokio::time::sleep(pause).await;
            }
        }
        stopping.cancelled().await;
    }

    pub fn heartbeats(&self) -> Heartbeats {
        self.0.heartbeats.clone()
    }

    /// The event streams of this instance that have been behind for so long, at most `limit` of them.
    pub fn behind(&self, behind_for: Duration, limit: usize) -> BehindReport {
        self.0.listed.behind(self.0.tail.settled(), behind_for, limit)
    }

    /// A place, unless all are taken, or all of the caller's credential.
    pub fn admit(&self, caller: &Caller) -> Result<Admission, AdmissionError> {
        let shared = &self.0;
        if shared.draining.is_cancelled() {
            return Err(AdmissionError::Draining);
        }
        let place = shared.credential_limits.take_follower(caller);
        let _place = place.map_err(|max| AdmissionError::TooManyOfCredential { max })?;
        let place = Admission { streams: self.clone(), _place, listed: shared.listed.enter() };
        let before = shared.open.fetch_add(1, Ordering::SeqCst);
        shared.observer.record(Observation::FollowerJoined);
        if before >= shared.max {
            shared.observer.record(Observation::FollowerRefused);
            return Err(AdmissionError::TooMany { max: shared.max });
        }
        Ok(place)
    }
}

impl Admission {
    /// What is known of it while it is open.
    pub fn stream(&self) -> &Arc<OpenStream> {
        self.listed.stream()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let shared = &self.streams.0;
        shared.open.fetch_sub(1, Ordering::SeqCst);
        shared.observer.record(Observation::FollowerLeft);
    }
}

impl Shared {
    /// What ends a source's events once the service drains.
    fn draining(&self, source: &EventSource, closing_step: u8) -> &CancellationToken {
        match source {
            EventSource::Log(_) => &self.closing[usize::from(closing_step)],
            // What it holds is for others to take over, at once.
            EventSource::Subscription(_) => &self.draining,
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
    /// The connection that is told; `None`: several, of which each has its own.
    open: Option<Arc<OpenStream>>,
    /// `None` after the last event: what it holds is given back at once.
    source: Option<EventSource>,
    /// What is still to be said where the source is gone.
    closing: Option<ClosingReason>,
    cursor: Option<EventId>,
    /// The cursor to begin with, where that lies beyond the end: a client that is cut before anything has come does
    /// better to come back with the `from` it came with, as an id from the future is refused.
    not_an_id: Option<EventId>,
    heartbeat: Duration,
    beat: Option<Beat>,
    told_at: Instant,
    /// The step in which it is closed when the service stops.
    closing_step: u8,
}

/// Waits for the end of the caller's credential.
async fn ended(caller: Option<&Caller>) {
    match caller {
        Some(caller) => caller.ended().await,
        None => std::future::pending().await,
    }
}

impl Events {
    pub(super) fn new(admission: &Admission, source: EventSource, heartbeat: Duration) -> Self {
        let (streams, cursor, told_at) = (admission.streams.clone(), source.cursor(), Instant::now());
        let open = admission.stream().clone();
        match &source {
            EventSource::Log(_) => source.told_up_to().into_iter().for_each(|position| open.told_up_to(position)),
            // How far a subscription is behind, its status says.
            EventSource::Subscription(_) => open.caught_up(),
        }
        let open = Some(open);
        let source = Some(source);
        let closing_step = fastrand::u8(0..CLOSING_STEPS as u8);
        let (caller, closing, not_an_id, beat) = (None, None, None, None);
        Self { streams, caller, open, source, closing, cursor, not_an_id, heartbeat, beat, told_at, closing_step }
    }

    /// Whose they are; `None`: they do not end with a credential.
    pub fn belong_to(&mut self, caller: Option<Caller>) {
        self.caller = caller;
    }

    /// From here on they are for several connections, and nobody's. Answers whose they were.
    pub fn share(&mut self) -> Option<Caller> {
        self.open = None;
        self.caller.take()
    }

    /// From here on they are for one connection again.
    pub fn go_on_for(&mut self, caller: Option<Caller>, open: &Arc<OpenStream>) {
        self.caller = caller;
        self.told_up_to().into_iter().for_each(|position| open.told_up_to(position));
        if !self.is_live() {
            open.fell_behind();
        }
        self.open = Some(open.clone());
    }

    /// The place where it begins is beyond the end of the log, so it is no id that a client could come back with.
    pub(super) fn keep_first_cursor(&mut self) {
        self.not_an_id = self.cursor;
    }

    /// The cursor after the last event, as far as a client can come back with it.
    pub fn id(&self) -> Option<EventId> {
        self.cursor.filter(|_| self.cursor != self.not_an_id)
    }

    /// Everything up to this global position was told, if that is known.
    pub fn told_up_to(&self) -> Option<i64> {
        self.source.as_ref().and_then(EventSource::told_up_to)
    }

    /// Whether all that was there has been told, and one log is waited for.
    pub fn is_live(&self) -> bool {
        self.live().is_some()
    }

    /// The connections that it may be shared with, if there may be any.
    pub fn audience(&self) -> Option<Audience> {
        // One from beyond the end leaves out what comes before its place; one that must end does not join others for that.
        let follower = self.live().filter(|_| self.id().is_some() && self.must_end().is_none())?;
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
            (Some(EventSource::Log(followed)), None) => Some(EventSource::Log(followed.fork()?)),
            (Some(EventSource::Subscription(_)) | None, None) => return None,
        };
        let Self { cursor, not_an_id, heartbeat, told_at, closing_step, .. } = *self;
        let (streams, caller, open, beat) = (self.streams.clone(), None, None, None);
        Some(Self { streams, caller, open, source, closing, cursor, not_an_id, heartbeat, beat, told_at, closing_step })
    }

    /// What comes next, however long that takes; `None` at the end. May be given up at any point without a loss.
    pub async fn next(&mut self) -> Option<Event> {
        let event = loop {
            if let Some(reason) = self.must_end() {
                break Some(Event::Closing(reason));
            }
            let Some(source) = self.source.as_mut() else { return self.closing.take().map(Event::Closing) };
            let shared = &self.streams.0;
            let draining = shared.draining(source, self.closing_step);
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
                () = draining.cancelled() => {}
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

    /// Why it ends although more may come. A client that is a little behind a busy log always has something to take.
    fn must_end(&self) -> Option<ClosingReason> {
        let source = self.source.as_ref()?;
        if self.streams.0.draining(source, self.closing_step).is_cancelled() {
            return Some(ClosingReason::Draining);
        }
        self.caller.as_ref().is_some_and(Caller::has_ended).then_some(ClosingReason::Expired)
    }

    /// What there is already; `None`: nothing that need not be waited for, or the end, which [`next`](Self::next) tells.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.must_end().is_some() {
            return None;
        }
        let event = match self.source.as_mut()? {
            EventSource::Log(followed) => followed.try_next()?,
            EventSource::Subscription(_) => return None,
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
                if observer.traces() {
                    let spans = entries.iter().filter_map(|entry| Span::of_message("frame", &entry.message));
                    spans.for_each(|mut span| {
                        span.facts.push(("headwater.connections", connections as i64));
                        observer.span(span);
                    });
                }
            }
            // Of the first, its log has said so.
            Event::FellBehind { .. } => (1..connections).for_each(|_| observer.record(Observation::FellBehind)),
            _ => {}
        }
    }

    fn took(&mut self, event: Option<&Event>) {
        // A browser does not see that a cursor moved: to it the stream is as quiet as before.
        if !matches!(event, Some(Event::Moved(_))) {
            self.told_at = Instant::now();
        }
        self.cursor = self.source.as_ref().and_then(EventSource::cursor).or(self.cursor);
        if let Some(open) = &self.open {
            self.told_up_to().into_iter().for_each(|position| open.told_up_to(position));
            match event {
                Some(Event::CaughtUp { .. }) => open.caught_up(),
                Some(Event::FellBehind { .. }) => open.fell_behind(),
                _ => {}
            }
        }
        if matches!(event, None | Some(Event::Closing(_))) {
            self.source = None;
        }
    }

    fn live(&self) -> Option<&Follower> {
        match &self.source {
            Some(EventSource::Log(followed)) => followed.live(),
            Some(EventSource::Subscription(_)) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::credential_limits::PerCredentialSettings;

    fn event_streams(open: usize) -> (EventStreams, Vec<Admission>) {
        let limits = CredentialLimits::new(PerCredentialSettings {
            followers_max: 0,
            append_sessions_max: 0,
            appends_per_second_max: 0,
        });
        let (tail, draining) = (Tail::without_reader(1 << 10), CancellationToken::new());
        let streams = EventStreams::new(open, limits, tail, draining, Observer::new());
        let places = (0..open).map(|_| streams.admit(&Caller::anybody()).ok().unwrap()).collect();
        (streams, places)
    }

    /// How many steps are done this long after the service began to drain.
    async fn closed_after(open: usize, time_max: Duration, time: Duration) -> usize {
        let (streams, _places) = event_streams(open);
        let closing = tokio::spawn(streams.clone().close_in_steps(time_max, CancellationToken::new()));
        streams.0.draining.cancel();
        tokio::time::sleep(time).await;
        closing.abort();
        streams.0.closing.iter().filter(|step| step.is_cancelled()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn many_event_streams_are_closed_over_time_and_few_at_once() {
        let second = Duration::from_secs(1);
        assert_eq!(closed_after(60, 5 * second, Duration::from_millis(1)).await, CLOSING_STEPS);
        // 2 s for 2,000, in steps of 31 ms.
        let half = closed_after(2_000, 5 * second, second).await;
        assert!((28..=34).contains(&half), "{half}");
        assert_eq!(closed_after(2_000, 5 * second, 3 * second).await, CLOSING_STEPS);
        // No more than the limit, however many there are.
        assert_eq!(closed_after(2_000, second, 2 * second).await, CLOSING_STEPS);
    }
}
