//! Whether a request's body was read to its end. Over HTTP/1 hyper closes the connection after the answer if it was not, and
//! does not say so.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::Version;
use http_body::{Frame, SizeHint};

/// Tells of a body whether it was read to its end.
pub struct BodyWatch {
    is_read: Arc<AtomicBool>,
}

impl BodyWatch {
    /// The request with a body that is watched; `None` where it has none, or where the connection goes on without it.
    pub fn of(request: Request) -> (Request, Option<Self>) {
        if request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
            return (request, None);
        }
        let is_read = Arc::<AtomicBool>::default();
        let watch = Self { is_read: is_read.clone() };
        (request.map(|body| Body::new(WatchedBody { body, is_read })), Some(watch))
    }

    pub fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }
}

struct WatchedBody {
    body: Body,
    is_read: Arc<AtomicBool>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(context));
        // One of a length that is told has its end with its last frame, after which nobody need ask.
        let is_end = match &polled {
            None => true,
            Some(frame) => frame.is_ok() && self.body.is_end_stream(),
        };
        if is_end {
            self.is_read.store(true, Ordering::Relaxed);
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
