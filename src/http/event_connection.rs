//! Connections over plain HTTP/1.1 that carry one event stream and nothing else.
//!
//! hyper keeps 24 kB of buffers for every connection, which is most of what an open event stream costs, and it has no
//! setting for that. A connection whose first request is a plain `GET …/events` is therefore answered here: by the same
//! router, in the same form, without buffers while it is quiet. Every other connection goes on to hyper.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use axum_server::accept::Accept;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::event_socket;
use super::event_stream::{EventStream, Unwritten};
use super::guarded::RemoteAddress;

/// A request whose head is longer goes to hyper.
const HEAD_BYTES_MAX: usize = 4 << 10;
/// A request whose head has more lines goes to hyper.
const HEAD_LINES_MAX: usize = 64;
/// An answer that is no event stream (a problem) is at most this long.
const SHORT_ANSWER_BYTES_MAX: usize = 64 << 10;

/// Accepts connections, and keeps those that are event streams.
#[derive(Clone)]
pub struct EventStreamAcceptor {
    router: Router,
    header_timeout: Duration,
    draining: CancellationToken,
}

impl EventStreamAcceptor {
    /// `draining`: from then on no connection waits for its request.
    pub fn new(router: Router, header_timeout: Duration, draining: CancellationToken) -> Self {
        Self { router, header_timeout, draining }
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for EventStreamAcceptor {
    type Stream = PrefixedStream;
    type Service = S;
    type Future = Pin<Box<dyn Future<Output = io::Result<(PrefixedStream, S)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Self { router, header_timeout, draining } = self.clone();
        // Boxed by itself, as all that is done once, so that an open event stream keeps no memory for it.
        let beginning = Box::pin(begin(stream, header_timeout, router, draining));
        Box::pin(async move {
            match beginning.await? {
                ConnectionKind::Events { socket, head, stream } => {
                    event_socket::serve(socket, head, stream).await?;
                }
                ConnectionKind::Answered => {}
                ConnectionKind::Other(stream) => return Ok((stream, service)),
            }
            // The connection was served: nothing is left for hyper.
            Err(io::ErrorKind::ConnectionAborted.into())
        })
    }
}

/// What a connection turns out to be.
enum ConnectionKind {
    /// It carries an event stream: the head of the answer is still to be written.
    Events { socket: TcpStream, head: Bytes, stream: EventStream },
    /// It asked for one and was told why there is none.
    Answered,
    /// hyper's.
    Other(PrefixedStream),
}

async fn begin(
    mut stream: TcpStream,
    header_timeout: Duration,
    router: Router,
    draining: CancellationToken,
) -> io::Result<ConnectionKind> {
    stream.set_nodelay(true)?;
    let mut head = BytesMut::new();
    let reading = until_draining(&draining, read_head(&mut stream, &mut head));
    match tokio::time::timeout(header_timeout, reading).await {
        Ok(Ok(Some(mut request))) => {
            if let Ok(address) = stream.peer_addr() {
                request.extensions_mut().insert(RemoteAddress(address.ip()));
            }
            answer(stream, request, router).await
        }
        // hyper says what there is to say of it.
        Ok(Ok(None)) => Ok(ConnectionKind::Other(PrefixedStream { head: head.freeze(), stream })),
        Ok(Err(error)) => Err(error),
        // hyper would begin to count the time anew.
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a connection has to do before anything is asked on it. When the service stops there is nothing to wait for: the
/// connection ends, unless what is there already is enough.
async fn until_draining<T>(
    draining: &CancellationToken,
    beginning: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        biased;
        outcome = beginning => outcome,
        () = draining.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Accepts connections with another acceptor, which shakes hands, until the service stops.
#[derive(Clone)]
pub struct UntilDraining<A> {
    pub acceptor: A,
    pub draining: CancellationToken,
}

impl<A, I, S> Accept<I, S> for UntilDraining<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
    A::Stream: Send,
    A::Service: Send,
{
    type Stream = A::Stream;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let (accepting, draining) = (self.acceptor.accept(stream, service), self.draining.clone());
        Box::pin(async move { until_draining(&draining, accepting).await })
    }
}

/// Reads until it is clear whether this is a request for an event stream.
async fn read_head(stream: &mut TcpStream, head: &mut BytesMut) -> io::Result<Option<Request<Body>>> {
    loop {
        head.reserve(512);
        let count = stream.read_buf(head).await?;
        let begins_as_get = b"GET /".starts_with(&head[..head.len().min(5)]);
        if count == 0 || !begins_as_get || head.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
        // The parser tells the end of the head, not a blank line: lines may also end without a carriage return.
        let mut lines = [httparse::EMPTY_HEADER; HEAD_LINES_MAX];
        if !matches!(httparse::Request::new(&mut lines).parse(head), Ok(httparse::Status::Partial)) {
            return Ok(event_request(head));
        }
    }
}

/// The request, if it is one for an event stream and nothing else.
fn event_request(head: &[u8]) -> Option<Request<Body>> {
    let mut lines = [httparse::EMPTY_HEADER; HEAD_LINES_MAX];
    let mut parsed = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(length) = parsed.parse(head).ok()? else { return None };
    // With anything after the head, such as a second request, the connection goes to hyper.
    let alone = length == head.len();
    if !alone || parsed.method != Some("GET") || parsed.version != Some(1) {
        return None;
    }
    let uri: Uri = parsed.path?.parse().ok()?;
    if !is_event_stream(uri.path()) || uri.authority().is_some() {
        return None;
    }
    let mut request = Request::builder().method(Method::GET).uri(uri);
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        if ["content-length", "transfer-encoding", "upgrade", "expect"].contains(&name.as_str()) {
            return None;
        }
        request = request.header(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    request.body(Body::empty()).ok()
}

/// Whether a path is that of an event stream, and not of a stream or a subscription that is named `events`.
fn is_event_stream(path: &str) -> bool {
    let Some(of) = path.strip_prefix("/v1/").and_then(|path| path.strip_suffix("events")) else { return false };
    matches!(of, "" | "all/") || of.ends_with('/') && of.matches('/').count() >= 2
}

/// Has the request answered: with an event stream, or with what is no event stream, which is sent.
async fn answer(socket: TcpStream, request: Request<Body>, router: Router) -> io::Result<ConnectionKind> {
    let Ok(response) = router.oneshot(request).await;
    let Some(stream) = response.extensions().get().and_then(Unwritten::take) else {
        serve_short(socket, response).await?;
        return Ok(ConnectionKind::Answered);
    };
    let head = head_of(&response.into_parts().0, "transfer-encoding: chunked\r\n").into();
    Ok(ConnectionKind::Events { socket, head, stream })
}

/// Sends an answer that is no event stream, mostly a problem, and ends the connection.
async fn serve_short(mut stream: TcpStream, response: Response<Body>) -> io::Result<()> {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, SHORT_ANSWER_BYTES_MAX).await.map_err(io::Error::other)?;
    let length = match parts.headers.contains_key("content-length") {
        true => String::new(),
        false => format!("content-length: {}\r\n", body.len()),
    };
    stream.write_all(&head_of(&parts, &length)).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

fn head_of(parts: &axum::http::response::Parts, framing: &str) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let reason = parts.status.canonical_reason().unwrap_or("Unknown");
    head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).as_bytes());
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(framing.as_bytes());
    let now = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
    head.extend_from_slice(format!("connection: close\r\ndate: {now}\r\n\r\n").as_bytes());
    head
}

/// A connection whose first bytes were read already.
pub struct PrefixedStream {
    head: Bytes,
    stream: TcpStream,
}

impl AsyncRead for PrefixedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PrefixedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_event_request(head: &str) -> bool {
        event_request(head.as_bytes()).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_a_head_is_over_once_whatever_came_of_it() {
        for begun in ["", "G", "GET /livez HTTP/1.1\r\nHost: h\r\n"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(begun.as_bytes()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let kind = begin(accepted, Duration::from_secs(30), Router::new(), CancellationToken::new()).await;
            assert_eq!(kind.err().map(|error| error.kind()), Some(io::ErrorKind::TimedOut), "{begun:?}");
        }
    }

    #[test]
    fn only_a_plain_get_of_events_is_kept() {
        assert!(is_event_request("GET /v1/all/events?from=3 HTTP/1.1\r\nHost: h\r\nLast-Event-ID: 7\r\n\r\n"));
        for other in [
            "GET /v1/all/messages HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /events HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/all/events HTTP/1.0\r\n\r\n",
            "HEAD /v1/all/events HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/all/events HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "GET /v1/all/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /v1/all/events HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
            "GET http://h/v1/all/events HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/all/events HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET /v1/all/events HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            assert!(!is_event_request(other), "{other}");
        }
    }
}
