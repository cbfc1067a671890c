//! What one connection of an event stream is to write next, asked for by the connection: nothing is queued for it.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio_util::task::AbortOnDropHandle;

use super::App;
use super::events::{CaughtUpEvent, ClosingEvent, ClosingReason, FellBehindEvent, HeartbeatEvent};
use super::frames::Frames;
use crate::domain::cursor::Cursor;
use crate::domain::observation::Observation;
use crate::domain::time::Timestamp;
use crate::service::FollowerPlace;
use crate::service::log::cursor::Next;
use crate::service::log::following::Following;
use crate::service::tail::heartbeat::Beat;

/// A client that lost its connection comes back after this long, with up to as much again on top, so that not all come
/// at once.
pub(super) const RETRY_MIN: Duration = Duration::from_secs(1);
/// The same when the service stops, for many clients at once.
pub(super) const CLOSING_RETRY_SPREAD: Duration = Duration::from_secs(5);

/// A page that is being read, and the follower that waits for it.
///
/// A task of its own, because the connection asks for nothing while its client does not read: the page would hold its
/// place among those who read from the database until then.
type Reading = AbortOnDropHandle<(Following, Next)>;

/// One connection's events, made when the connection asks for them: nothing is queued for it.
pub struct EventStream {
    app: App,
    /// Absent while a page is being read for it.
    follower: Option<Following>,
    reading: Option<Reading>,
    cursor: Cursor,
    /// The cursor to begin with, where that lies beyond the end: a client that is cut before anything has come does
    /// better to come back with the `from` it came with, as an id from the future is refused.
    not_an_id: Option<Cursor>,
    frames: Frames,
    heartbeat: Duration,
    beat: Option<Beat>,
    sent_at: Instant,
    is_begun: bool,
    is_closed: bool,
    _place: FollowerPlace,
}

impl EventStream {
    pub fn new(app: App, follower: Following, frames: Frames, heartbeat: Duration, place: FollowerPlace) -> Self {
        let cursor = follower.cursor();
        Self {
            app,
            follower: Some(follower),
            reading: None,
            cursor,
            not_an_id: None,
            frames,
            heartbeat,
            beat: None,
            sent_at: Instant::now(),
            is_begun: false,
            is_closed: false,
            _place: place,
        }
    }

    /// The place where it begins is beyond the end of the log, so it is no id that a client could come back with.
    pub fn keep_first_cursor(&mut self) {
        self.not_an_id = Some(self.cursor);
    }

    /// What is to be written next; `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            self.frames.retry(&mut out, jittered(RETRY_MIN, RETRY_MIN));
        }
        while out.is_empty() {
            if self.is_closed {
                return None;
            }
            self.step(&mut out).await;
        }
        self.sent_at = Instant::now();
        Some(out.freeze())
    }

    /// Takes one step; writes nothing where there is nothing to say.
    async fn step(&mut self, out: &mut BytesMut) {
        let draining = self.app.lifecycle.draining().clone();
        if draining.is_cancelled() {
            return self.close(out, ClosingReason::Draining);
        }
        let Some(follower) = &mut self.follower else {
            return self.wait_for_page(out).await;
        };
        let next = follower.advance();
        match next {
            Next::NeedsPage => {
                if let Some(mut follower) = self.follower.take() {
                    self.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                        let next = follower.read_page().await;
                        (follower, next)
                    })));
                }
            }
            Next::Idle => {
                let beat = self.beat.get_or_insert_with(|| self.app.heartbeats.after(self.heartbeat));
                // Only waking is awaited here, so whichever comes first, nothing of the others is lost.
                tokio::select! {
                    () = follower.changed() => {}
                    () = beat => self.on_beat(out),
                    () = draining.cancelled() => {}
                }
            }
            next => self.write(next, out),
        }
    }

    async fn wait_for_page(&mut self, out: &mut BytesMut) {
        let draining = self.app.lifecycle.draining().clone();
        let Some(reading) = &mut self.reading else { return };
        let beat = self.beat.get_or_insert_with(|| self.app.heartbeats.after(self.heartbeat));
        tokio::select! {
            read = reading => {
                self.reading = None;
                match read {
                    Ok((follower, next)) => {
                        self.follower = Some(follower);
                        self.write(next, out);
                    }
                    // It panicked, which is logged; the client comes back by itself.
                    Err(_) => self.is_closed = true,
                }
            }
            () = beat => self.on_beat(out),
            () = draining.cancelled() => {}
        }
    }

    fn write(&mut self, next: Next, out: &mut BytesMut) {
        if let Some(follower) = &self.follower {
            self.cursor = follower.cursor();
        }
        match next {
            Next::Messages(entries) => {
                entries.iter().for_each(|entry| self.frames.entry(out, entry));
                self.app.observer.record(Observation::Delivered { messages: entries.len() });
            }
            Next::Moved => self.frames.progress(out, self.cursor),
            Next::CaughtUp => {
                let data = CaughtUpEvent { position: self.cursor.position, time: Timestamp::now().to_rfc3339() };
                self.frames.event(out, "caught-up", self.id(), &data);
            }
            Next::FellBehind => {
                let data = FellBehindEvent { position: self.cursor.position, time: Timestamp::now().to_rfc3339() };
                self.frames.event(out, "fell-behind", self.id(), &data);
            }
            Next::Deleted => self.close(out, ClosingReason::Deleted),
            Next::Failed(_) => self.close(out, ClosingReason::InternalError),
            Next::HistoryChanged => self.close(out, ClosingReason::HistoryChanged),
            Next::NeedsPage | Next::Idle => {}
        }
    }

    /// The cursor, as far as a client can come back with it.
    fn id(&self) -> Option<Cursor> {
        (self.not_an_id != Some(self.cursor)).then_some(self.cursor)
    }

    /// The timer is only asked for again when it has come, so a busy connection does not touch it.
    fn on_beat(&mut self, out: &mut BytesMut) {
        let quiet = self.sent_at.elapsed();
        if quiet < self.heartbeat {
            self.beat = Some(self.app.heartbeats.after(self.heartbeat - quiet));
            return;
        }
        self.beat = None;
        let (head, settled) = (self.app.tail.head(), self.app.tail.settled());
        let data = HeartbeatEvent { head, settled, lag: (head - settled).max(0) };
        if let Some(follower) = &self.follower {
            self.cursor = follower.cursor();
        }
        self.frames.event(out, "heartbeat", self.id(), &data);
    }

    fn close(&mut self, out: &mut BytesMut, reason: ClosingReason) {
        self.frames.retry(out, jittered(RETRY_MIN, CLOSING_RETRY_SPREAD));
        self.frames.event(out, "closing", self.id(), &ClosingEvent { reason });
        self.is_closed = true;
        self.follower = None;
        self.reading = None;
    }
}

pub(super) fn jittered(min: Duration, spread: Duration) -> Duration {
    min + Duration::from_millis(fastrand::u64(0..=spread.as_millis() as u64))
}
