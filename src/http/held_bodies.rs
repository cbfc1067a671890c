//! The bodies of requests and answers that are in memory, of all connections together. Where there is no room for one more,
//! those go first whose clients stalled; and an answer that is not taken is let go of in any case.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Buf;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::problem::{Problem, ProblemKind};
use crate::domain::observation::{Observation, Stalled};
use crate::telemetry::Observer;

/// Smaller bodies are not counted.
const SMALL_BYTES: usize = 2 << 10;
/// An answer is handed on in slices, so that it is known how much of it is left. What was handed on is not counted any more:
/// over HTTP/2 one slice may wait for each stream's client.
const SLICE_BYTES: usize = 16 << 10;
/// A body that has not moved for this long is let go of if its room is needed.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// For each of these an answer gets the time to write once more.
const BYTES_PER_WRITE_TIMEOUT: usize = 1 << 20;

/// The bodies of one service. Cheap to clone.
#[derive(Clone)]
pub struct HeldBodies(Arc<Shared>);

struct Shared {
    bytes_max: usize,
    write_timeout: Duration,
    observer: Observer,
    held: Mutex<BodyTable>,
}

#[derive(Default)]
struct BodyTable {
    bytes: usize,
    number: u64,
    bodies: HashMap<u64, Entry>,
}

struct Entry {
    bytes: usize,
    moved_at: Instant,
    what: Stalled,
    let_go: CancellationToken,
}

/// A body that takes its room until this is dropped.
struct HeldBody {
    bodies: HeldBodies,
    number: u64,
    let_go: CancellationToken,
}

impl HeldBodies {
    pub fn new(bytes_max: usize, write_timeout: Duration, observer: Observer) -> Self {
        Self(Arc::new(Shared { bytes_max, write_timeout, observer, held: Mutex::default() }))
    }

    /// Room for a body; `None`: there is none. A body that is alone has room, whatever its size.
    fn enter(&self, bytes: usize, what: Stalled) -> Option<HeldBody> {
        self.enter_with(bytes, what, CancellationToken::new())
    }

    fn enter_with(&self, bytes: usize, what: Stalled, let_go: CancellationToken) -> Option<HeldBody> {
        let mut held = self.0.held.lock();
        if !self.make_room(&mut held, 0, bytes) {
            drop(held);
            self.0.observer.record(Observation::BodyRefused);
            return None;
        }
        held.number += 1;
        held.bytes += bytes;
        let number = held.number;
        held.bodies.insert(number, Entry { bytes, moved_at: Instant::now(), what, let_go: let_go.clone() });
        Some(HeldBody { bodies: self.clone(), number, let_go })
    }

    /// Lets go of stalled bodies, those that moved last first, as far as is needed. `own`: what the body has already that
    /// wants more; if that is all there is, it is alone.
    fn make_room(&self, held: &mut BodyTable, own: usize, wanted: usize) -> bool {
        let fits = |held: &BodyTable| held.bytes == own || held.bytes.saturating_add(wanted) <= self.0.bytes_max;
        if fits(held) {
            return true;
        }
        let mut stalled: Vec<_> = held
            .bodies
            .iter()
            .filter(|(_, entry)| entry.moved_at.elapsed() >= STALLED_AFTER)
            .map(|(number, entry)| (entry.moved_at, *number))
            .collect();
        stalled.sort_unstable();
        for (_, number) in stalled {
            let Some(entry) = held.bodies.remove(&number) else { continue };
            held.bytes -= entry.bytes;
            entry.let_go.cancel();
            self.0.observer.record(Observation::ClientStalled { what: entry.what });
            if fits(held) {
                return true;
            }
        }
        false
    }

    /// An answer that is bounded: in the memory that it holds, and in how long.
    pub async fn bound(&self, response: Response) -> Response {
        // Answers without a length are written as they are made.
        let Some(bytes) = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()) else {
            return response;
        };
        if bytes <= SMALL_BYTES {
            return response;
        }
        let (parts, body) = response.into_parts();
        let Some(room) = self.enter(bytes, Stalled::Answer) else { return no_room().into_response() };
        match axum::body::to_bytes(body, bytes).await {
            Ok(text) => Response::from_parts(parts, Body::new(Answer::new(text, room, self.0.write_timeout))),
            Err(_) => Problem::new(ProblemKind::InternalError, "The answer could not be made.").into_response(),
        }
    }
}

/// There is no memory for a body.
pub fn no_room() -> Problem {
    let detail = "The bodies of other requests and answers take all the memory that --bodies-bytes-max allows.";
    Problem::new(ProblemKind::Overloaded, detail).with("setting", "--bodies-bytes-max")
}

impl HeldBody {
    /// The body has moved and takes so many bytes now. False: there is no room for it, or it was let go of.
    fn resize(&self, bytes: usize) -> bool {
        let mut held = self.bodies.0.held.lock();
        let before = held.bodies.get(&self.number).map(|entry| entry.bytes);
        let Some(before) = before else { return false };
        // Its own room is no stalled one.
        if let Some(entry) = held.bodies.get_mut(&self.number) {
            entry.moved_at = Instant::now();
        }
        if bytes > before && !self.bodies.make_room(&mut held, before, bytes - before) {
            drop(held);
            self.bodies.0.observer.record(Observation::BodyRefused);
            return false;
        }
        held.bytes = held.bytes - before + bytes;
        if let Some(entry) = held.bodies.get_mut(&self.number) {
            entry.bytes = bytes;
        }
        true
    }

    /// Cancelled when it has to be let go of.
    fn let_go(&self) -> CancellationToken {
        self.let_go.clone()
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        let mut held = self.bodies.0.held.lock();
        if let Some(entry) = held.bodies.remove(&self.number) {
            held.bytes -= entry.bytes;
        }
    }
}

/// An answer in slices. hyper asks for the next one when the client has taken most of those before.
struct Answer {
    rest: Arc<Mutex<Option<Rest>>>,
    left: usize,
    watch: tokio::task::JoinHandle<()>,
}

struct Rest {
    text: Bytes,
    room: HeldBody,
}

impl Answer {
    fn new(text: Bytes, room: HeldBody, write_timeout: Duration) -> Self {
        let left = text.len();
        let let_go = room.let_go();
        let rest = Arc::new(Mutex::new(Some(Rest { text, room })));
        // hyper does not ask while the client takes nothing, so nobody else would notice.
        let watch = tokio::spawn(watch(rest.clone(), left, let_go, write_timeout));
        Self { rest, left, watch }
    }
}

/// Takes the rest of an answer away from a client that takes nothing of it, or too little.
async fn watch(rest: Arc<Mutex<Option<Rest>>>, length: usize, let_go: CancellationToken, write_timeout: Duration) {
    let mut left = length;
    for _ in 0..=length / BYTES_PER_WRITE_TIMEOUT {
        tokio::select! {
            () = let_go.cancelled() => break,
            () = tokio::time::sleep(write_timeout) => {}
        }
        let now_left = rest.lock().as_ref().map_or(left, |rest| rest.text.len());
        if now_left == std::mem::replace(&mut left, now_left) {
            break;
        }
    }
    let taken = rest.lock().take();
    if let Some(Rest { room, .. }) = taken
        && !let_go.is_cancelled()
    {
        room.bodies.0.observer.record(Observation::ClientStalled { what: Stalled::Answer });
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let slice = match &mut *self.rest.lock() {
            Some(Rest { text, room }) => {
                let slice = slice_of(text);
                room.resize(text.len());
                slice
            }
            None => {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            }
        };
        self.left -= slice.len();
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.watch.abort();
        self.rest.lock().take();
    }
}

/// The next slice. A copy, unless it is the whole answer: it would keep the memory of all of it.
fn slice_of(text: &mut Bytes) -> Bytes {
    if text.len() <= SLICE_BYTES && text.is_unique() {
        return std::mem::take(text);
    }
    let count = text.len().min(SLICE_BYTES);
    let slice = Bytes::copy_from_slice(&text[..count]);
    text.advance(count);
    slice
}

/// A request's body, counted while it comes.
pub struct Incoming {
    body: Body,
    bodies: HeldBodies,
    bytes: usize,
    /// As soon as it is no small one.
    room: Option<HeldBody>,
    /// Cancelled when the body has to be given up.
    refused: CancellationToken,
}

impl Incoming {
    /// The body, and a token that is cancelled when it has to be given up: there is no room for it, or its client has
    /// stalled and the room is needed.
    pub fn new(body: Body, bodies: HeldBodies) -> (Self, CancellationToken) {
        let refused = CancellationToken::new();
        (Self { body, bodies, bytes: 0, room: None, refused: refused.clone() }, refused)
    }

    /// Counts what came. False: it has to be given up.
    fn count(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        match &self.room {
            None if self.bytes <= SMALL_BYTES => true,
            None => {
                self.room = self.bodies.enter_with(self.bytes, Stalled::Request, self.refused.clone());
                self.room.is_some()
            }
            Some(room) => room.resize(self.bytes),
        }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(context));
        let bytes = polled.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        if !self.count(bytes) {
            self.refused.cancel();
            let error = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Poll::Ready(Some(Err(axum::Error::new(error))));
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn bodies(bytes_max: usize) -> HeldBodies {
        HeldBodies::new(bytes_max, PATIENCE, Observer::new())
    }

    fn held(bodies: &HeldBodies) -> usize {
        bodies.0.held.lock().bytes
    }

    fn of(bytes: usize) -> Response {
        Response::new(Body::from(vec![b'x'; bytes]))
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_gives_its_room_back() {
        let bodies = bodies(1 << 20);
        for bytes in [0, 1, SMALL_BYTES, SMALL_BYTES + 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES + 7] {
            let answer = bodies.bound(of(bytes)).await;
            assert_eq!(answer.body().size_hint().exact(), Some(bytes as u64));
            assert_eq!(held(&bodies), if bytes > SMALL_BYTES { bytes } else { 0 });
            assert_eq!(to_bytes(answer.into_body(), usize::MAX).await.unwrap(), vec![b'x'; bytes]);
            assert_eq!(held(&bodies), 0);
        }
        drop(bodies.bound(of(SLICE_BYTES)).await);
        assert_eq!(held(&bodies), 0);
    }

    #[tokio::test]
    async fn what_has_no_room_is_overloaded_unless_it_is_alone() {
        let bodies = bodies(100_000);
        let first = bodies.bound(of(200_000)).await;
        assert_eq!(first.status(), 200);
        assert_eq!(bodies.bound(of(SMALL_BYTES)).await.status(), 200);
        assert_eq!(bodies.bound(of(10_000)).await.status(), 503);
        drop(first);
        assert_eq!(bodies.bound(of(10_000)).await.status(), 200);
    }

    #[tokio::test]
    async fn the_stalled_go_first_and_those_that_move_stay() {
        let bodies = bodies(100_000);
        let stalled = bodies.bound(of(50_000)).await;
        let moves = bodies.enter(50_000, Stalled::Request).unwrap();
        std::thread::park_timeout(STALLED_AFTER + Duration::from_millis(100));
        assert!(moves.resize(50_000));
        let next = bodies.bound(of(50_000)).await;
        assert_eq!(next.status(), 200);
        assert_eq!(held(&bodies), 100_000);
        assert!(!moves.let_go().is_cancelled() && moves.resize(50_000));
        assert_eq!(bodies.bound(of(50_000)).await.status(), 503);
        // Whose client comes back has only a broken answer to read.
        tokio::task::yield_now().await;
        assert!(to_bytes(stalled.into_body(), usize::MAX).await.is_err());
        drop((moves, next));
        assert_eq!(held(&bodies), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_let_go_of() {
        let bodies = bodies(1 << 20);
        let answer = bodies.bound(of(SLICE_BYTES * 2)).await;
        tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
        assert_eq!(held(&bodies), SLICE_BYTES * 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(held(&bodies), 0);
        assert!(to_bytes(answer.into_body(), usize::MAX).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_too_slowly_is_let_go_of_too() {
        let bodies = bodies(10 << 20);
        let mut answer = bodies.bound(of(BYTES_PER_WRITE_TIMEOUT + 1)).await.into_body();
        for slices in 0.. {
            let frame = std::future::poll_fn(|context| Pin::new(&mut answer).poll_frame(context)).await.unwrap();
            if frame.is_err() {
                assert_eq!((slices, held(&bodies)), (3, 0));
                return;
            }
            tokio::time::sleep(PATIENCE * 4 / 5).await;
        }
    }

    #[tokio::test]
    async fn a_request_is_counted_while_it_comes() {
        let bodies = bodies(100_000);
        let chunks = [1_000, 1_000, 98_000].map(|bytes| Ok::<_, axum::Error>(Bytes::from(vec![b'x'; bytes])));
        let (incoming, refused) = Incoming::new(Body::from_stream(futures_util::stream::iter(chunks)), bodies.clone());
        assert!(to_bytes(Body::new(incoming), usize::MAX).await.is_ok() && !refused.is_cancelled());
        assert_eq!(held(&bodies), 0);
        // Alone it may be larger than all of them together.
        let chunks = [60_000, 60_000].map(|bytes| Ok::<_, axum::Error>(Bytes::from(vec![b'x'; bytes])));
        let (incoming, refused) = Incoming::new(Body::from_stream(futures_util::stream::iter(chunks)), bodies.clone());
        let received = to_bytes(Body::new(incoming), usize::MAX).await;
        assert_eq!((received.map(|body| body.len()).ok(), refused.is_cancelled()), (Some(120_000), false));
        assert_eq!(held(&bodies), 0);
        let _other = bodies.enter(50_000, Stalled::Request).unwrap();
        let (incoming, refused) = Incoming::new(Body::from(vec![b'x'; 50_001]), bodies.clone());
        assert!(to_bytes(Body::new(incoming), usize::MAX).await.is_err() && refused.is_cancelled());
    }

    #[tokio::test]
    async fn a_body_that_is_alone_once_the_stalled_have_gone_is_admitted() {
        let bodies = bodies(100_000);
        let stalled = bodies.enter(50_000, Stalled::Request).unwrap();
        let grows = bodies.enter(50_000, Stalled::Request).unwrap();
        std::thread::park_timeout(STALLED_AFTER + Duration::from_millis(100));
        assert!(grows.resize(150_000) && stalled.let_go().is_cancelled());
        assert_eq!(held(&bodies), 150_000);
        assert!(bodies.enter(10_000, Stalled::Request).is_none() && grows.resize(200_000));
    }
}
