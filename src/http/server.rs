//! The listening socket: HTTP/1.1 and HTTP/2, with TLS or without.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::event_connection::EventStreamAcceptor;
use super::problem_bodies::ExplainedAcceptor;

/// The size of headers at which hyper refuses by itself (see `problem_bodies`): more than the service's own limits.
const HYPER_HEADER_BYTES_MAX: usize = 512 << 10;
/// Up to this many header lines hyper allocates nothing for them; a higher limit has to be set.
const HYPER_HEADERS_DEFAULT: usize = 100;
/// The most event streams on one HTTP/2 connection: a browser opens one connection for all its tabs.
const HTTP2_STREAMS_MAX: u32 = 1_000;
/// How often a quiet HTTP/2 connection is asked whether its client is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// So is a quiet connection of any kind, by TCP: one that only waits for its client, as an append session does, would
/// never hear that there is none.
const KEEP_ALIVE: socket2::TcpKeepalive =
    socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));

/// A certificate and its key.
pub struct Tls<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
}

/// A socket that is bound and not yet served.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<RustlsConfig>,
}

impl Listening {
    pub async fn bind(address: SocketAddr, tls: Option<Tls<'_>>) -> io::Result<Self> {
        let tls = match tls {
            Some(tls) => Some(RustlsConfig::from_pem_file(tls.certificate, tls.key).await?),
            None => None,
        };
        let listener = TcpListener::bind(address)?;
        // The connections that it accepts have it from here.
        socket2::SockRef::from(&listener).set_tcp_keepalive(&KEEP_ALIVE)?;
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
        draining: CancellationToken,
        drain_timeout: Duration,
    ) -> io::Result<()> {
        let handle = Handle::new();
        let on_drain = handle.clone();
        let watcher = tokio::spawn(async move {
            draining.cancelled().await;
            on_drain.graceful_shutdown(Some(drain_timeout));
        });
        let events = router.clone();
        let service = router.into_make_service();
        let result = match self.tls {
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).acceptor(NoDelayAcceptor::new());
                let acceptor = ExplainedAcceptor { acceptor, limits: limits.clone() };
                let mut server = axum_server::from_tcp(self.listener)?.acceptor(acceptor).handle(handle);
                tune(server.http_builder(), &limits);
                server.serve(service).await
            }
            None => {
                let acceptor = EventStreamAcceptor::new(events, limits.request_timeout);
                let acceptor = ExplainedAcceptor { acceptor, limits: limits.clone() };
                let mut server = axum_server::from_tcp(self.listener)?.acceptor(acceptor).handle(handle);
                tune(server.http_builder(), &limits);
                server.serve(service).await
            }
        };
        watcher.abort();
        result
    }
}

fn tune(builder: &mut Builder<TokioExecutor>, limits: &Limits) {
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(limits.request_timeout).max_buf_size(HYPER_HEADER_BYTES_MAX);
    if limits.headers_max != HYPER_HEADERS_DEFAULT {
        http1.max_headers(limits.headers_max);
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HYPER_HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
}
