//! The one writer of event streams: each connection's events become frames in one buffer when the connection asks.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};

use super::events::{CaughtUpEvent, ClosingEvent, ClosingReason, FellBehindEvent, HeartbeatEvent};
use super::frames::Frames;
use super::subscriptions::{AssignedEvent, RevokedEvent};
use crate::domain::time::Timestamp;
use crate::service::event_streams::{Closing, Event, Events};
use crate::service::subscriptions::Change;

/// A client that lost its connection comes back after this long, with up to as much again on top, so that not all come
/// at once.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The same when the service ends the stream, for many clients at once.
const CLOSING_RETRY_SPREAD: Duration = Duration::from_secs(5);

/// An event stream as the answer to its request.
pub fn respond(events: Events, frames: Frames) -> Response {
    let writer = Writer { events, frames, is_begun: false };
    let body = futures_util::stream::unfold(writer, |mut writer| async move {
        let chunk = writer.next_chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), writer))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(frames.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Writes the events of one connection.
struct Writer {
    events: Events,
    frames: Frames,
    is_begun: bool,
}

impl Writer {
    /// What is to be written next; `None` at the end.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            self.frames.retry(&mut out, jittered(RETRY_MIN));
        }
        while out.is_empty() {
            let event = self.events.next().await?;
            self.write(&mut out, event);
        }
        Some(out.freeze())
    }

    fn write(&self, out: &mut BytesMut, event: Event) {
        let (frames, id) = (self.frames, self.events.id());
        match event {
            Event::Messages(entries) => entries.iter().for_each(|entry| frames.entry(out, entry)),
            Event::Delivered { changes, deliveries } => {
                for change in changes {
                    match change {
                        Change::Assigned { partition, epoch, position } => {
                            frames.event(out, "assigned", id, &AssignedEvent { partition, epoch, position });
                        }
                        Change::Revoked { partition, reason } => {
                            let reason = reason.into();
                            frames.event(out, "revoked", id, &RevokedEvent { partition, reason });
                        }
                    }
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
            Event::Closing(closing) => {
                frames.retry(out, jittered(CLOSING_RETRY_SPREAD));
                frames.event(out, "closing", id, &ClosingEvent { reason: closing.into() });
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

impl From<Closing> for ClosingReason {
    fn from(closing: Closing) -> Self {
        match closing {
            Closing::Draining => Self::Draining,
            Closing::Deleted => Self::Deleted,
            Closing::Removed => Self::Removed,
            Closing::Replaced => Self::Replaced,
            Closing::HistoryChanged => Self::HistoryChanged,
            Closing::Failed => Self::InternalError,
        }
    }
}
