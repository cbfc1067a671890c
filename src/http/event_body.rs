//! An event stream as the body of an answer, which hyper takes: over TLS, over HTTP/2, and after other requests.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::event_groups::{Departure, GroupMembership, Groups, Outlet, Told};
use super::event_stream::{EventStream, Unwritten, Writer};
use crate::service::auth::Caller;
use crate::service::event_streams::Admission;
use crate::service::open_streams::OpenStream;

/// So many events may wait for hyper to take them; a connection that has not taken the first of them goes on by itself.
/// The frames are not copied for each connection.
const EVENTS_WAITING_MAX: usize = 8;

/// A body that writes an event stream, unless it is taken before.
pub fn of(unwritten: Unwritten) -> Body {
    let body = stream::unfold(Err(unwritten), |begun: Result<EventBody, Unwritten>| async move {
        let mut body = match begun {
            Ok(body) => body,
            Err(unwritten) => EventBody::of(unwritten.take()?),
        };
        body.open().taken();
        let frames = body.next().await?;
        // Until more is asked for, the client has not taken it.
        body.open().stalled();
        Some((Ok::<_, Infallible>(frames), Ok(body)))
    });
    Body::from_stream(body)
}

struct EventBody {
    admission: Admission,
    groups: Groups,
    writing: Writing,
}

/// Who makes the frames.
enum Writing {
    /// The body itself. Once it has written an event by itself, it may join a group.
    Alone { writer: Box<Writer>, may_join: bool },
    /// The task of a group.
    InGroup { told: mpsc::Receiver<Told>, membership: GroupMembership, caller: Option<Caller> },
    /// Nobody: that was the end.
    Ended,
}

impl EventBody {
    fn of(EventStream { admission, writer, groups }: EventStream) -> Self {
        Self { admission, groups, writing: Writing::Alone { writer, may_join: false } }
    }

    fn open(&self) -> &Arc<OpenStream> {
        self.admission.stream()
    }

    /// What is to be written next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match std::mem::replace(&mut self.writing, Writing::Ended) {
                Writing::Alone { mut writer, may_join: true } if writer.audience().is_some() => {
                    let chunk = writer.try_next_chunk();
                    match (chunk, writer.audience()) {
                        (Some(chunk), _) => {
                            self.writing = Writing::Alone { writer, may_join: true };
                            return Some(chunk.bytes());
                        }
                        (None, Some(audience)) => {
                            // A group is nobody's: each of its connections ends by itself.
                            let caller = writer.events.share();
                            let (outlet, told) = mpsc::channel(EVENTS_WAITING_MAX);
                            let membership = self.groups.join(audience, writer, Outlet::Body(outlet), caller.as_ref());
                            self.writing = Writing::InGroup { told, membership, caller };
                        }
                        (None, None) => self.writing = Writing::Alone { writer, may_join: false },
                    }
                }
                Writing::Alone { mut writer, .. } => {
                    let chunk = writer.next_chunk().await?;
                    self.writing = Writing::Alone { writer, may_join: true };
                    return Some(chunk.bytes());
                }
                Writing::InGroup { mut told, mut membership, caller } => {
                    if let Some(Told { frames, up_to }) = membership.next(&mut told, caller.as_ref()).await {
                        up_to.into_iter().for_each(|position| self.open().told_up_to(position));
                        self.writing = Writing::InGroup { told, membership, caller };
                        return Some(frames);
                    }
                    let Departure { rest, mut writer } = membership.ended(None).await?;
                    writer.events.go_on_for(caller, self.open());
                    self.writing = Writing::Alone { writer, may_join: false };
                    if !rest.is_empty() {
                        return Some(rest);
                    }
                }
                Writing::Ended => return None,
            }
        }
    }
}
