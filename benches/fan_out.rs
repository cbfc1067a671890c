//! Rows on one stream with a thousand followers: as much as goes, and at a steady rate at which nothing waits.
//!
//! At a steady rate every frame is a write of its own, so what counts is how many of them a second of the server's
//! processor pays for. A bare loop of `send` on as many sockets is the limit.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::crowd::Crowd;
use crate::follows::payload;
use crate::load::{Http, post};
use crate::peers::{Peer, Service, Stand, processor_time};
use crate::report::{Report, Times, rate, ratio};

const FOLLOWERS: usize = 1_000;
/// Messages that may be under way to the slowest follower: enough to saturate, few enough for a queue to stay short.
const WINDOW: u64 = 64;
const STEADY_RATES: [u64; 2] = [50, 150];
const PUBLISHERS: [usize; 2] = [1, 4];
const PATH: &str = "/v1/streams/news-1/events";
/// HTTP/2 connections that share the followers.
const HTTP2_CONNECTIONS: usize = 10;

/// What one load gave.
struct Measured {
    /// Each second.
    deliveries: f64,
    /// For each second of the server's processor.
    paid: f64,
    times: Times,
}

impl Measured {
    fn show(&mut self) -> String {
        format!("{} {}", rate(self.paid), self.times.show())
    }
}

/// Whom messages are published to, and how.
trait Publishes {
    fn address(&self) -> &str;
    fn path(&self) -> &'static str;
    fn request(&self, epoch: Instant) -> Vec<u8>;
    fn processor_time(&self) -> Duration;
}

impl Publishes for Service {
    fn address(&self) -> &str {
        &self.address
    }

    fn path(&self) -> &'static str {
        PATH
    }

    fn request(&self, epoch: Instant) -> Vec<u8> {
        let body = format!(r#"{{"messages":[{{"type":"Said","data":{}}}]}}"#, payload(epoch));
        post(&self.address, "/v1/streams/news-1/messages", &body)
    }

    fn processor_time(&self) -> Duration {
        processor_time(self.id())
    }
}

impl Publishes for Peer {
    fn address(&self) -> &str {
        &self.address
    }

    fn path(&self) -> &'static str {
        "/sub"
    }

    fn request(&self, epoch: Instant) -> Vec<u8> {
        post(&self.address, "/pub", &payload(epoch))
    }

    fn processor_time(&self) -> Duration {
        self.children().into_iter().map(processor_time).sum()
    }
}

pub async fn run(stand: &Stand, report: &mut Report, span: Duration) {
    for per_second in STEADY_RATES {
        let name = format!("fan-out, 1,000 followers, a steady {per_second}/s");
        if report.wants(&name) {
            steady_row(stand, report, span, &name, per_second).await;
        }
    }
    for publishers in PUBLISHERS {
        let name = format!("fan-out, 1,000 followers, saturated by {publishers}");
        if report.wants(&name) {
            saturated_row(stand, report, span, &name, publishers).await;
        }
    }
    for (name, is_http2) in [("fan-out over TLS, a steady 50/s", false), ("fan-out over HTTP/2, a steady 50/s", true)] {
        if report.wants(name) {
            other_transport(stand, report, span, name, is_http2).await;
        }
    }
}

async fn steady_row(stand: &Stand, report: &mut Report, span: Duration, name: &str, per_second: u64) {
    let mut own = steady(&stand.service("fan_out").await, span, per_second).await;
    let peer = match Peer::nchan(stand).await {
        Some(nchan) => Some(steady(&nchan, span, per_second).await),
        None => None,
    };
    let beside = ratio(own.paid, peer.as_ref().map(|peer| peer.paid), "Nchan");
    report.row(name, format!("{} of processor", rate(own.paid)), beside, "≥ 1.3 ×");
    // A server that answers late is published to less: its rate belongs to its times.
    let timed = |one: &mut Measured| format!("{} at {}", one.times.show(), rate(one.deliveries));
    let beside = peer.map_or("Nchan: skipped".into(), |mut peer| format!("Nchan {}", timed(&mut peer)));
    report.row("  its latency", timed(&mut own), beside, "no higher");
    let bare = bare_sends(span, per_second).await;
    report.row("  beside a bare loop of send", ratio(own.paid, Some(bare), "send"), String::new(), "the limit");
}

async fn saturated_row(stand: &Stand, report: &mut Report, span: Duration, name: &str, publishers: usize) {
    let mut own = saturate(&stand.service("fan_out").await, span, publishers).await;
    let peer = match Peer::nchan(stand).await {
        Some(nchan) => Some(saturate(&nchan, span, publishers).await),
        None => None,
    };
    let beside = ratio(own.deliveries, peer.as_ref().map(|peer| peer.deliveries), "Nchan");
    report.row(name, rate(own.deliveries), beside, if publishers == 1 { "≥ 1.5 ×" } else { "≥ 3 ×" });
    let beside = peer.map_or("Nchan: skipped".into(), |mut peer| format!("Nchan {}", peer.show()));
    report.row("  of processor; latency", own.show(), beside, "a lower p99");
}

/// Publishes at a steady rate, one message at a time.
async fn steady(server: &impl Publishes, span: Duration, per_second: u64) -> Measured {
    let epoch = Instant::now();
    let crowd = Crowd::open(server.address(), server.path(), FOLLOWERS, epoch).await;
    let (begun, before) = (Instant::now(), server.processor_time());
    publish_paced(server, span, per_second, epoch).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    measured(crowd, begun, server.processor_time() - before)
}

async fn publish_paced(server: &impl Publishes, span: Duration, per_second: u64, epoch: Instant) {
    let mut http = Http::connect(server.address()).await;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second as f64));
    let begun = Instant::now();
    while begun.elapsed() < span {
        ticks.tick().await;
        let (status, _) = http.send(&server.request(epoch)).await;
        assert!(status < 300, "an unexpected answer: {status}");
    }
}

/// Publishes as fast as the followers take it.
async fn saturate<S: Publishes>(server: &S, span: Duration, publishers: usize) -> Measured {
    let epoch = Instant::now();
    let crowd = Crowd::open(server.address(), server.path(), FOLLOWERS, epoch).await;
    let (begun, before) = (Instant::now(), server.processor_time());
    let published = Arc::new(AtomicU64::new(0));
    let publish = async || {
        let mut http = Http::connect(server.address()).await;
        while begun.elapsed() < span {
            let delivered = crowd.deliveries() / FOLLOWERS as u64;
            if published.load(Ordering::Relaxed) >= delivered + WINDOW {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            published.fetch_add(1, Ordering::Relaxed);
            let (status, _) = http.send(&server.request(epoch)).await;
            assert!(status < 300, "an unexpected answer: {status}");
        }
    };
    futures_util::future::join_all((0..publishers).map(|_| publish())).await;
    let taken = server.processor_time() - before;
    measured(crowd, begun, taken)
}

fn measured(crowd: Crowd, begun: Instant, taken: Duration) -> Measured {
    let (delivered, elapsed) = (crowd.deliveries() as f64, begun.elapsed());
    let times = crowd.close();
    Measured { deliveries: delivered / elapsed.as_secs_f64(), paid: delivered / taken.as_secs_f64().max(0.001), times }
}

/// A frame's bytes sent to as many sockets, one after another, as often: nothing that delivers does less.
async fn bare_sends(span: Duration, per_second: u64) -> f64 {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut ends, mut others) = (Vec::new(), Vec::new());
    for _ in 0..FOLLOWERS {
        others.push(TcpStream::connect(address).unwrap());
        let (end, _) = listener.accept().unwrap();
        end.set_nodelay(true).unwrap();
        end.set_nonblocking(true).unwrap();
        ends.push(end);
    }
    let epoch = Instant::now();
    let crowd = Crowd::of_sockets(others, epoch).await;
    let before = thread_time();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < span {
        let frame = format!("14a\r\nid: 1\nevent: message\ndata: {{\"data\":{}{:-<150}}}\n\n\r\n", payload(epoch), "");
        for end in &mut ends {
            end.write_all(frame.as_bytes()).expect("there is room for a frame");
        }
        sent += 1;
        let next = begun + Duration::from_secs_f64(sent as f64 / per_second as f64);
        // The benches' own task stays on one thread, which does nothing else meanwhile.
        tokio::time::sleep_until(next.into()).await;
    }
    let taken = thread_time() - before;
    crowd.close();
    (sent * FOLLOWERS) as f64 / taken.as_secs_f64()
}

/// The processor time of this thread.
fn thread_time() -> Duration {
    // SAFETY: the structure is filled by the call before it is read.
    let time = unsafe {
        let mut time = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The same followers over TLS (HTTP/1.1, each its own connection) or HTTP/2 without TLS (a hundred on a connection).
async fn other_transport(stand: &Stand, report: &mut Report, span: Duration, name: &str, is_http2: bool) {
    let url = stand.database("fan_out").await;
    let Some(certificate) = certificate(stand) else { return report.row(name, "no openssl".into(), String::new(), "") };
    let service = if is_http2 { Service::start(&url) } else { Service::start_with_tls(&url, &certificate) };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = || match is_http2 {
        true => reqwest::Client::builder().http2_prior_knowledge().build().unwrap(),
        false => {
            let root = reqwest::Certificate::from_pem(&std::fs::read(&certificate[0]).unwrap()).unwrap();
            reqwest::Client::builder().tls_certs_only([root]).http1_only().build().unwrap()
        }
    };
    let clients: Vec<_> = (0..HTTP2_CONNECTIONS).map(|_| client()).collect();
    let scheme = if is_http2 { "http" } else { "https" };
    let url = format!("{scheme}://{}{PATH}", service.address);
    let (deliveries, epoch) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut followers = Vec::new();
    for n in 0..FOLLOWERS {
        let mut answer = clients[n % HTTP2_CONNECTIONS].get(&url).send().await.unwrap();
        let deliveries = deliveries.clone();
        followers.push(tokio::spawn(async move {
            while let Ok(Some(bytes)) = answer.chunk().await {
                deliveries.fetch_add(memchr::memmem::find_iter(&bytes, b"\"sent\":").count() as u64, Ordering::Relaxed);
            }
        }));
    }
    let before = service.processor_time();
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let publish = format!("{scheme}://{}/v1/streams/news-1/messages", service.address);
    while begun.elapsed() < span {
        ticks.tick().await;
        let body = format!(r#"{{"messages":[{{"type":"Said","data":{}}}]}}"#, payload(epoch));
        let answer = clients[0].post(&publish).header("content-type", "application/json").body(body).send().await;
        assert_eq!(answer.unwrap().status(), 201);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let taken = (service.processor_time() - before).as_secs_f64();
    let paid = deliveries.load(Ordering::Relaxed) as f64 / taken;
    followers.iter().for_each(tokio::task::JoinHandle::abort);
    report.row(name, format!("{} of processor", rate(paid)), String::new(), "");
}

/// A certificate for 127.0.0.1 that nobody has signed, and its key; `None` where there is no `openssl`.
fn certificate(stand: &Stand) -> Option<[std::path::PathBuf; 2]> {
    let files = ["certificate.pem", "key.pem"].map(|name| stand.directory.path().join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args([std::ffi::OsStr::new("-keyout"), files[1].as_os_str(), "-out".as_ref(), files[0].as_os_str()])
        .output()
        .ok()?;
    made.status.success().then_some(files)
}
