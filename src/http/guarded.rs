//! Connections under guard: counted, ended when their client takes nothing of what is written for it, and ended when it asks
//! again and again for what it then does not want.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::middleware::AddExtension;
use axum::response::Response;
use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tower::Layer;

use super::connections::{Connections, Permit};
use super::event_stream::Unwritten;
use super::wire::LINGER_TIME_MAX;
use crate::domain::observation::{Observation, Stalled};
use crate::telemetry::Observer;

/// Requests of one connection that may be given up before they are answered; each one that is answered makes up for one.
/// Over HTTP/2 a client can ask and give up thousands of times a second, at no cost of its own.
pub const GIVEN_UP_MAX: usize = 200;

/// Guards the connections that another acceptor accepts.
#[derive(Clone)]
pub struct GuardedAcceptor<A> {
    pub acceptor: A,
    pub connections: Connections,
    pub write_timeout: Duration,
    /// Whether a refused connection can be told why: it speaks plain HTTP.
    pub tells_refused: bool,
    pub observer: Observer,
}

impl<A, S> Accept<TcpStream, S> for GuardedAcceptor<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
{
    type Stream = Guarded<A::Stream>;
    type Service = AddExtension<A::Service, Arc<Conduct>>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let address = stream.peer_addr().map(|address| address.ip());
        let permit = address.as_ref().map(|&address| self.connections.enter(address));
        match permit {
            Ok(Ok(permit)) => {
                let accepting = self.acceptor.accept(stream, service);
                let (patience, observer, address) = (self.write_timeout, self.observer.clone(), address.ok());
                Box::pin(async move {
                    let (stream, service) = accepting.await?;
                    let conduct = Arc::new(Conduct { address, ..Conduct::default() });
                    let service = Extension(conduct.clone()).layer(service);
                    Ok((Guarded { stream, conduct, patience, stalled: None, observer, _permit: permit }, service))
                })
            }
            Ok(Err(full)) => {
                let connections = self.tells_refused.then(|| self.connections.clone());
                Box::pin(async move {
                    if let Some(connections) = connections {
                        connections.refuse(stream, full).await;
                    }
                    Err(io::ErrorKind::ConnectionRefused.into())
                })
            }
            // It has gone already.
            Err(_) => Box::pin(async { Err(io::ErrorKind::NotConnected.into()) }),
        }
    }
}

/// What the client of one connection does. An extension of its requests.
#[derive(Default)]
pub struct Conduct {
    address: Option<IpAddr>,
    /// Event streams that are open: their clients may read as slowly as they like.
    event_streams: AtomicUsize,
    given_up: AtomicUsize,
    /// Whether the connection is to be closed.
    is_over: AtomicBool,
}

/// Where a connection comes from that has no [`Conduct`]. An extension of its request.
#[derive(Clone, Copy)]
pub struct RemoteAddress(pub IpAddr);

impl Conduct {
    /// Where the connection comes from.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// A request that is not answered yet.
    pub fn unanswered(self: &Arc<Self>) -> Unanswered {
        Unanswered { conduct: self.clone(), is_answered: false }
    }

    /// An answer on its way out.
    pub fn answered(self: &Arc<Self>, response: Response) -> Response {
        if response.extensions().get::<Unwritten>().is_none() {
            return response;
        }
        self.event_streams.fetch_add(1, Ordering::Relaxed);
        let open = OpenEventStream(self.clone());
        response.map(|body| Body::new(EventStreamBody { body, _open: open }))
    }
}

/// Dropped before its answer: the client gave the request up.
pub struct Unanswered {
    conduct: Arc<Conduct>,
    is_answered: bool,
}

impl Unanswered {
    pub fn done(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let given_up = &self.conduct.given_up;
        if self.is_answered {
            let _ = given_up.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        } else if given_up.fetch_add(1, Ordering::Relaxed) >= GIVEN_UP_MAX {
            self.conduct.is_over.store(true, Ordering::Relaxed);
        }
    }
}

struct OpenEventStream(Arc<Conduct>);

impl Drop for OpenEventStream {
    fn drop(&mut self) {
        self.0.event_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an event stream.
struct EventStreamBody {
    body: Body,
    _open: OpenEventStream,
}

impl HttpBody for EventStreamBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
}

/// A connection whose client has to take what is written for it.
pub struct Guarded<S> {
    stream: S,
    conduct: Arc<Conduct>,
    /// How long nothing of what is written may be taken.
    patience: Duration,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    observer: Observer,
    _permit: Permit,
}

impl<S> Guarded<S> {
    /// The outcome of a write; an error if it has waited too long.
    fn judged<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
        patience: Duration,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.conduct.event_streams.load(Ordering::Relaxed) > 0 {
            self.stalled = None;
            return outcome;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        if stalled.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.observer.record(Observation::ClientStalled { what: Stalled::Connection });
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether the connection was condemned meanwhile.
    fn check(&self) -> io::Result<()> {
        if self.conduct.is_over.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        let patience = self.patience;
        self.judged(context, outcome, patience)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        let patience = self.patience;
        self.judged(context, outcome, patience)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        let patience = self.patience;
        self.judged(context, outcome, patience)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        // A refused client is read on for a while.
        let patience = self.patience + LINGER_TIME_MAX;
        self.judged(context, outcome, patience)
    }
}
