//! The listening socket: HTTP/1.1 and HTTP/2, with TLS or without.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::RustlsAcceptor;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::certificate::Certificate;
pub use super::certificate::TlsFiles;
use super::connections::Connections;
use super::event_connection::{EventStreamAcceptor, UntilDraining};
use super::guarded::GuardedAcceptor;
use super::problem_bodies::ExplainedAcceptor;
use crate::telemetry::Observer;

/// Connections that the kernel keeps until they are accepted, as far as its own limit allows.
const BACKLOG: i32 = 4_096;
/// Up to this many header lines hyper allocates nothing for them; a higher limit has to be set.
const HYPER_HEADERS_DEFAULT: usize = 100;
/// The most event streams on one HTTP/2 connection: a browser opens one connection for all its tabs.
const HTTP2_STREAMS_MAX: u32 = 1_000;
/// Streams that were opened and reset again before they were looked at, and streams that broke a rule: with more of them the
/// connection ends.
const HTTP2_RESETS_PENDING_MAX: usize = 20;
const HTTP2_ERRORS_MAX: usize = 1_024;
/// What a client may send before it is read: of all streams of a connection, and of one.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What may wait to be written to one stream.
const HTTP2_SEND_BYTES: usize = 400 << 10;
/// How often a quiet HTTP/2 connection is asked whether its client is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// So is a quiet connection of any kind, by TCP: one that only waits for its client, as an append session does, would
/// never hear that there is none.
const KEEP_ALIVE: socket2::TcpKeepalive =
    socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));

/// Whether a certificate and its key can be used.
pub async fn check_tls_files(files: TlsFiles) -> io::Result<()> {
    Certificate::read(files).await.map(drop)
}

/// A socket that is bound and not yet served.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Certificate>,
}

impl Listening {
    pub async fn bind(address: SocketAddr, tls: Option<TlsFiles>) -> io::Result<Self> {
        let tls = match tls {
            Some(files) => Some(Certificate::read(files).await?),
            None => None,
        };
        let listener = TcpListener::bind(address)?;
        let socket = socket2::SockRef::from(&listener);
        // The connections that it accepts have it from here.
        socket.set_tcp_keepalive(&KEEP_ALIVE)?;
        socket.listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, tls })
    }

    /// Where it listens, with the port that was taken.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `draining`, then lets open requests and streams end, for as long as `drain_timeout`.
    pub async fn serve(
        self,
        router: Router,
        limits: Arc<Limits>,
        observer: Observer,
        draining: CancellationToken,
        drain_timeout: Duration,
    ) -> io::Result<()> {
        let handle = Handle::new();
        let on_drain = handle.clone();
        let begins_to_drain = draining.clone();
        let watcher = tokio::spawn(async move {
            begins_to_drain.cancelled().await;
            on_drain.graceful_shutdown(Some(drain_timeout));
        });
        let events = router.clone();
        let service = router.into_make_service();
        let result = match self.tls {
            Some(certificate) => {
                let acceptor = RustlsAcceptor::new(certificate.config())
                    .handshake_timeout(limits.request_timeout)
                    .acceptor(NoDelayAcceptor::new());
                let acceptor = UntilDraining { acceptor, draining };
                let acceptor = guarded(acceptor, false, &limits, observer);
                let mut server = axum_server::from_tcp(self.listener)?.acceptor(acceptor).handle(handle);
                tune(server.http_builder(), &limits);
                tokio::select! {
                    result = server.serve(service) => result,
                    never = certificate.keep_up() => never,
                }
            }
            None => {
                let acceptor = EventStreamAcceptor::new(events, limits.request_timeout, draining);
                let acceptor = guarded(acceptor, true, &limits, observer);
                let mut server = axum_server::from_tcp(self.listener)?.acceptor(acceptor).handle(handle);
                tune(server.http_builder(), &limits);
                server.serve(service).await
            }
        };
        watcher.abort();
        result
    }
}

/// What every connection goes through, from the outside in: guard, explanation of hyper's bare errors, then `acceptor`.
fn guarded<A>(
    acceptor: A,
    tells_refused: bool,
    limits: &Arc<Limits>,
    observer: Observer,
) -> GuardedAcceptor<ExplainedAcceptor<A>> {
    let connections = Connections::new(limits.connections_max, limits.connections_per_address_max, observer.clone());
    let write_timeout = limits.write_timeout;
    let acceptor = ExplainedAcceptor { acceptor, limits: limits.clone() };
    GuardedAcceptor { acceptor, connections, write_timeout, tells_refused, observer }
}

/// The size of headers at which hyper refuses by itself (see `problem_bodies`): more than the service's own limits, which
/// say more. As much may wait to be written to one connection.
fn buffer_bytes(limits: &Limits) -> usize {
    2 * (limits.header_bytes_max + limits.url_bytes_max) + (64 << 10)
}

fn tune(builder: &mut Builder<TokioExecutor>, limits: &Limits) {
    let buffer_bytes = buffer_bytes(limits);
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(limits.request_timeout).max_buf_size(buffer_bytes);
    if limits.headers_max != HYPER_HEADERS_DEFAULT {
        http1.max_headers(limits.headers_max);
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(buffer_bytes as u32)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(HTTP2_ERRORS_MAX)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
}
