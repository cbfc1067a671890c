//! The one writer of event streams: each connection's events become frames in one buffer when the connection asks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;

use super::event_body;
use super::event_groups::Groups;
use super::events::{CaughtUpEvent, ClosingEvent, FellBehindEvent, HeartbeatEvent, TrimmedEvent};
use super::frames::Frames;
use super::subscriptions::{AssignedEvent, RevokedEvent};
use crate::domain::closing::ClosingReason;
use crate::domain::time::Timestamp;
use crate::service::auth::Caller;
use crate::service::event_streams::{self, Admission, Event, Events};
use crate::service::log::Trimmed;
use crate::service::open_streams::Asked;
use crate::service::subscriptions::AssignmentChange;

/// A client that lost its connection comes back after this long, with up to as much again on top, so that not all come
/// at once.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The same when the service ends the stream, for many clients at once.
const CLOSING_RETRY_SPREAD: Duration = Duration::from_secs(5);

/// So much of a path and its query is kept while the event stream is open.
const PATH_BYTES_MAX: usize = 300;

/// What an HTTP/1.1 chunk begins with, at its longest.
const CHUNK_HEAD_BYTES: usize = "ffffffff\r\n".len();
/// Most frames fit, head and all.
const CHUNK_BYTES: usize = 512;

/// An event stream as the answer to its request.
pub fn respond(groups: &Groups, (admission, events): (Admission, Events), frames: Frames) -> Response {
    let writer = Box::new(Writer { events, frames, is_begun: false });
    let stream = EventStream { admission, writer, groups: groups.clone() };
    let unwritten = Unwritten(Arc::new(Mutex::new(Some(stream))));
    let mut response = Response::new(event_body::of(unwritten.clone()));
    response.extensions_mut().insert(unwritten);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(frames.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The event stream of a response. Its body writes it, unless it is taken out before: by a connection that writes it
/// by itself.
#[derive(Clone)]
pub struct Unwritten(Arc<Mutex<Option<EventStream>>>);

impl Unwritten {
    pub fn take(&self) -> Option<EventStream> {
        self.0.lock().take()
    }

    /// From here on it ends with the caller's credential. `path` and `address`: what was asked for, and from where.
    pub fn belong_to(&self, caller: &Caller, path: &str, address: Option<IpAddr>) {
        if let Some(stream) = &mut *self.0.lock() {
            let path = path[..path.floor_char_boundary(PATH_BYTES_MAX)].into();
            stream.admission.stream().is_asked(Asked { path, credential: caller.credential().cloned(), address });
            stream.writer.events.belong_to(Some(caller.clone()).filter(|caller| caller.credential().is_some()));
        }
    }
}

/// An event stream that was admitted.
pub struct EventStream {
    pub admission: Admission,
    pub writer: Box<Writer>,
    pub groups: Groups,
}

/// Writes events.
pub struct Writer {
    pub events: Events,
    frames: Frames,
    is_begun: bool,
}

/// Writers of one audience that are at the same place write the same bytes from there on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Audience {
    events: event_streams::Audience,
    frames: Frames,
}

/// Frames that are written at once, with room before them for the head of a chunk.
pub struct Chunk(BytesMut);

impl Chunk {
    fn new() -> Self {
        let mut out = BytesMut::with_capacity(CHUNK_BYTES);
        out.extend_from_slice(&[0; CHUNK_HEAD_BYTES]);
        Self(out)
    }

    fn is_empty(&self) -> bool {
        self.0.len() == CHUNK_HEAD_BYTES
    }

    /// The frames.
    pub fn bytes(self) -> Bytes {
        let mut bytes = self.0.freeze();
        bytes.advance(CHUNK_HEAD_BYTES);
        bytes
    }

    /// The frames as HTTP/1.1 has them in a chunked body.
    pub fn framed(self) -> Bytes {
        self.both().1
    }

    /// The frames, and the same as HTTP/1.1 has them in a chunked body.
    pub fn both(mut self) -> (Bytes, Bytes) {
        let end = self.0.len();
        let head = format!("{:x}\r\n", end - CHUNK_HEAD_BYTES);
        let from = CHUNK_HEAD_BYTES - head.len();
        self.0[from..CHUNK_HEAD_BYTES].copy_from_slice(head.as_bytes());
        self.0.extend_from_slice(b"\r\n");
        let bytes = self.0.freeze();
        (bytes.slice(CHUNK_HEAD_BYTES..end), bytes.slice(from..))
    }
}

impl Writer {
    /// The connections that it may be shared with, if there may be any.
    pub fn audience(&self) -> Option<Audience> {
        Some(Audience { events: self.events.audience()?, frames: self.frames })
    }

    /// The same from here on, for one of those that shared it. `closing`: nothing but the end.
    pub fn fork(&self, closing: Option<ClosingReason>) -> Option<Box<Self>> {
        Some(Box::new(Self { events: self.events.fork(closing)?, frames: self.frames, is_begun: true }))
    }

    /// What is to be written next; `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Chunk> {
        let mut out = Chunk::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            self.frames.retry(&mut out.0, jittered(RETRY_MIN));
        }
        while out.is_empty() {
            let event = self.events.next().await?;
            self.events.tells(&event, 1);
            self.write(&mut out.0, event);
        }
        Some(out)
    }

    /// What there is to be written already; `None`: nothing that need not be waited for.
    pub fn try_next_chunk(&mut self) -> Option<Chunk> {
        let event = self.events.try_next()?;
        Some(self.chunk(event, 1))
    }

    /// What is written of an event to so many connections.
    pub fn chunk(&self, event: Event, connections: usize) -> Chunk {
        let mut out = Chunk::new();
        self.events.tells(&event, connections);
        self.write(&mut out.0, event);
        out
    }

    fn write(&self, out: &mut BytesMut, event: Event) {
        let (frames, id) = (self.frames, self.events.id());
        match event {
            Event::Messages(entries) => entries.iter().for_each(|entry| frames.entry(out, entry)),
            Event::Latest(entries) => entries.iter().for_each(|entry| frames.latest(out, entry)),
            Event::Trimmed { trimmed: Trimmed { count, first_position }, entries, cursor } => {
                // The cursor is behind the messages that follow here.
                let id = entries.is_empty().then_some(cursor);
                frames.event(out, "trimmed", id, &TrimmedEvent { count, first_position });
                entries.iter().for_each(|entry| frames.entry(out, entry));
            }
            Event::Delivered { changes, trimmed, deliveries } => {
                for change in changes {
                    match change {
                        AssignmentChange::Assigned { partition, epoch, position } => {
                            frames.event(out, "assigned", id, &AssignedEvent { partition, epoch, position });
                        }
                        AssignmentChange::Revoked { partition, reason } => {
                            frames.event(out, "revoked", id, &RevokedEvent { partition, reason });
                        }
                    }
                }
                if let Some(Trimmed { count, first_position }) = trimmed {
                    frames.event(out, "trimmed", id, &TrimmedEvent { count, first_position });
                }
                deliveries.iter().for_each(|delivery| frames.delivery(out, delivery));
            }
            Event::Moved(cursor) => frames.progress(out, cursor),
            Event::CaughtUp { position } => {
                frames.event(out, "caught-up", id, &CaughtUpEvent { position, time: now() });
            }
            Event::FellBehind { position } => {
                frames.event(out, "fell-behind", id, &FellBehindEvent { position, time: now() });
            }
            Event::Heartbeat { head, settled } => {
                let lag = (head - settled).max(0);
                frames.event(out, "heartbeat", id, &HeartbeatEvent { head, settled, lag });
            }
            Event::Closing(reason) => {
                frames.retry(out, jittered(CLOSING_RETRY_SPREAD));
                frames.event(out, "closing", id, &ClosingEvent { reason });
            }
        }
    }
}

fn jittered(spread: Duration) -> Duration {
    RETRY_MIN + Duration::from_millis(fastrand::u64(0..=spread.as_millis() as u64))
}

fn now() -> String {
    Timestamp::now().to_rfc3339()
}
