//! A TCP proxy before PostgreSQL that cuts, silences, delays, slows or refuses connections.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// Stands between a service and the test's PostgreSQL.
pub struct FaultProxy {
    /// The database's URL through the proxy.
    pub url: String,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// The server's socket.
    target: Mutex<PathBuf>,
    links: Mutex<Vec<Arc<Link>>>,
    refuses: AtomicBool,
    /// Nothing passes in either direction, on new connections too, and nobody is told.
    is_black_hole: AtomicBool,
    /// How long each piece of what is said is kept back, in milliseconds.
    delay_ms: AtomicUsize,
    silenced_by: Mutex<Option<String>>,
    /// What clients say in place of what, of the same length.
    rewritten: Mutex<Option<(String, String)>>,
    /// Bytes a second from the server, for all connections together; 0: as fast as it goes.
    bytes_per_second: AtomicUsize,
    /// Taken by whoever's bytes are on the line.
    line: tokio::sync::Mutex<()>,
    /// A text of statements whose answers are lost, and of how many.
    lost_of: Mutex<Option<(String, usize)>>,
    lost: AtomicUsize,
    /// What comes in place of a lost answer: the SQLSTATE and the text of an error.
    instead_of_lost: Mutex<Option<(String, String)>>,
    accepted: AtomicUsize,
}

/// One connection through the proxy.
#[derive(Default)]
pub struct Link {
    /// What the client has sent, as text (lossy), to tell connections apart by their statements.
    sent: Mutex<String>,
    is_silent: AtomicBool,
    answers_are_lost: AtomicBool,
    /// The answer that comes next is lost, and the connection with it.
    next_is_lost: AtomicBool,
    cut: CancellationToken,
}

impl Link {
    /// Whether the client has sent this text.
    pub fn has_sent(&self, text: &str) -> bool {
        self.sent.lock().contains(text)
    }

    pub fn sent_bytes(&self) -> usize {
        self.sent.lock().len()
    }

    /// Ends the connection on both sides.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// From now on what the client says arrives, and what the server answers is lost.
    pub fn lose_answers(&self) {
        self.answers_are_lost.store(true, Ordering::SeqCst);
    }

    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    /// From now on nothing passes, and nobody is told: as if the cable were pulled.
    pub fn silence(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }
}

impl FaultProxy {
    /// Before the server of a URL as [`TestDatabase`](super::database::TestDatabase) gives it.
    pub async fn before(database_url: &str) -> Self {
        let config: tokio_postgres::Config = database_url.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let user = config.get_user().unwrap_or("headwater");
        let url = format!("postgresql://{user}@{address}/{}?sslmode=disable", config.get_dbname().unwrap());
        let shared = Arc::new(Shared { target: Mutex::new(socket_of(&config)), ..Shared::default() });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if shared.refuses.load(Ordering::SeqCst) {
                        continue;
                    }
                    let target = shared.target.lock().clone();
                    let Ok(server) = UnixStream::connect(&target).await else { continue };
                    client.set_nodelay(true).unwrap();
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    let link = Arc::new(Link::default());
                    shared.links.lock().push(link.clone());
                    // Whoever took the database away or led elsewhere meanwhile has not seen this one.
                    if shared.refuses.load(Ordering::SeqCst) || *shared.target.lock() != target {
                        link.cut();
                    }
                    let (client_read, client_write) = client.into_split();
                    let (server_read, server_write) = server.into_split();
                    tokio::spawn(pass(client_read, server_write, link.clone(), shared.clone(), Side::client()));
                    tokio::spawn(pass(server_read, client_write, link, shared.clone(), Side::server()));
                }
            }
        });
        Self { url, shared, accepting }
    }

    /// From now on the proxy leads to another server: open connections are cut, and new ones get there.
    pub fn lead_to(&self, database_url: &str) {
        *self.shared.target.lock() = socket_of(&database_url.parse().unwrap());
        self.cut_all();
    }

    /// The connections that were ever made and are not cut.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.shared.links.lock().iter().filter(|link| !link.cut.is_cancelled()).cloned().collect()
    }

    /// The open connections whose client has sent a text.
    pub fn links_that_sent(&self, text: &str) -> Vec<Arc<Link>> {
        self.links().into_iter().filter(|link| link.has_sent(text)).collect()
    }

    /// New connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// The database is away: everything is cut, and nothing new gets through, until `restore`.
    pub fn take_away(&self) {
        self.refuse(true);
        self.cut_all();
    }

    pub fn restore(&self) {
        self.refuse(false);
    }

    /// From now on a connection whose client sends this text falls silent: neither it nor anything after it arrives.
    pub fn silence_when_sent(&self, text: Option<&str>) {
        *self.shared.silenced_by.lock() = text.map(str::to_owned);
    }

    /// From now on the server hears `to` where a client says `from`, which is as long.
    pub fn rewrite(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        *self.shared.rewritten.lock() = Some((from.to_owned(), to.to_owned()));
    }

    /// From now on the server's answers share a line that carries so many bytes a second.
    pub fn slow_down(&self, bytes_per_second: usize) {
        self.shared.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// From now on everything that is said, in both directions, arrives so much later.
    pub fn delay(&self, by: Duration) {
        self.shared.delay_ms.store(by.as_millis() as usize, Ordering::SeqCst);
    }

    /// From now on nothing passes, and nobody is told, not even who connects; until it is ended, which cuts what was open.
    pub fn black_hole(&self, is_one: bool) {
        self.shared.is_black_hole.store(is_one, Ordering::SeqCst);
        if !is_one {
            self.cut_all();
        }
    }

    /// The next so many statements with this text are carried out; their answers are lost, and their connections cut.
    pub fn lose_answers_of(&self, text: &str, count: usize) {
        *self.shared.instead_of_lost.lock() = None;
        *self.shared.lost_of.lock() = Some((text.to_owned(), count));
    }

    /// The same, but before its connection is cut the client is told so, as PgBouncer tells it.
    pub fn report_lost_answers_of(&self, text: &str, count: usize) {
        self.lose_answers_of(text, count);
        *self.shared.instead_of_lost.lock() = Some(("08P01".into(), "server conn crashed?".into()));
    }

    /// Answers of such statements that are still to be lost.
    pub fn answers_to_lose(&self) -> usize {
        self.shared.lost_of.lock().as_ref().map_or(0, |(_, count)| *count)
    }

    /// Answers of such statements that were lost.
    pub fn lost_answers(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }

    pub fn cut_all(&self) {
        for link in self.links() {
            link.cut();
        }
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

fn socket_of(config: &tokio_postgres::Config) -> PathBuf {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Unix(directory) => directory.join(format!(".s.PGSQL.{port}")),
        tokio_postgres::config::Host::Tcp(_) => panic!("the proxy stands before a unix socket"),
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

impl Shared {
    /// Whether the answer of a statement is to be lost.
    fn loses(&self, statement: &str) -> bool {
        match &mut *self.lost_of.lock() {
            Some((text, count)) if *count > 0 && statement.contains(text.as_str()) => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Reads the messages of PostgreSQL's protocol as they pass by.
struct Side {
    is_client: bool,
    /// The client's first message has no kind.
    has_started: bool,
    /// What has come of a message so far.
    rest: Vec<u8>,
    /// The statements that the client has prepared, by name.
    statements: HashMap<Vec<u8>, String>,
}

impl Side {
    fn client() -> Self {
        Self { is_client: true, has_started: false, rest: Vec::new(), statements: HashMap::new() }
    }

    fn server() -> Self {
        Self { is_client: false, has_started: true, ..Self::client() }
    }

    /// The messages that are whole by now: kind and body.
    fn take_in(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.rest.extend_from_slice(bytes);
        let mut messages = Vec::new();
        loop {
            let kind = usize::from(self.has_started);
            let Some(length) = self.rest.get(kind..kind + 4) else { return messages };
            let end = kind + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.rest.len() < end {
                return messages;
            }
            let message: Vec<u8> = self.rest.drain(..end).collect();
            if self.has_started {
                messages.push((message[0], message[5..].to_vec()));
            }
            self.has_started = true;
        }
    }

    /// The text of the statement that a message of the client carries out.
    fn carried_out(&mut self, kind: u8, body: &[u8]) -> Option<String> {
        let mut parts = body.split(|byte| *byte == 0);
        let (first, second) = (parts.next()?.to_vec(), parts.next().unwrap_or_default().to_vec());
        match kind {
            b'P' => {
                self.statements.insert(first, String::from_utf8_lossy(&second).into_owned());
                None
            }
            b'B' => self.statements.get(&second).cloned(),
            b'Q' => Some(String::from_utf8_lossy(&first).into_owned()),
            _ => None,
        }
    }

    /// Answers whether these bytes pass. Of an answer that is to be lost the whole is waited for: then it is committed.
    fn passes(&mut self, bytes: &[u8], link: &Link, shared: &Shared) -> bool {
        let is_lost = !self.is_client && link.next_is_lost.load(Ordering::SeqCst);
        for (kind, body) in self.take_in(bytes) {
            match self.is_client {
                true => {
                    if self.carried_out(kind, &body).is_some_and(|statement| shared.loses(&statement)) {
                        link.next_is_lost.store(true, Ordering::SeqCst);
                    }
                }
                false if is_lost && kind == b'Z' => {
                    shared.lost.fetch_add(1, Ordering::SeqCst);
                    link.cut();
                }
                false => {}
            }
        }
        !is_lost
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Arc<Link>,
    shared: Arc<Shared>,
    mut side: Side,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            () = link.cut.cancelled() => return,
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else {
            let _ = to.shutdown().await;
            return;
        };
        if side.is_client {
            shared.rewrite(&mut buffer[..count]);
        }
        let delay = shared.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay as u64)).await;
        }
        let passes = side.passes(&buffer[..count], &link, &shared);
        if side.is_client {
            let text = String::from_utf8_lossy(&buffer[..count]);
            link.sent.lock().push_str(&text);
            if shared.silenced_by.lock().as_ref().is_some_and(|silencing| text.contains(silencing)) {
                link.silence();
            }
        }
        if !side.is_client
            && link.cut.is_cancelled()
            && let Some(error) = shared.error_for_lost()
        {
            let _ = to.write_all(&error).await;
            let _ = to.shutdown().await;
            return;
        }
        let is_lost = !passes || !side.is_client && link.answers_are_lost.load(Ordering::SeqCst);
        // What is lost in the hole leaves a connection of no use, which stays silent.
        if shared.is_black_hole.load(Ordering::SeqCst) {
            link.silence();
        }
        if is_lost || link.is_silent() {
            continue;
        }
        if !side.is_client {
            shared.carry(count).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

impl Shared {
    /// A fatal error as a message of the protocol.
    fn error_for_lost(&self) -> Option<Vec<u8>> {
        let (code, text) = self.instead_of_lost.lock().clone()?;
        let fields = format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0");
        let length = (fields.len() as u32 + 4).to_be_bytes();
        Some([&b"E"[..], &length, fields.as_bytes()].concat())
    }

    /// Statements come in one piece, as they are shorter than the buffer.
    fn rewrite(&self, bytes: &mut [u8]) {
        let rewritten = self.rewritten.lock();
        let Some((from, to)) = &*rewritten else { return };
        let found: Vec<usize> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, part)| *part == from.as_bytes())
            .map(|(at, _)| at)
            .collect();
        for at in found {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }

    /// Takes the time that so many bytes need on the line. Waiting connections are served in turn.
    async fn carry(&self, bytes: usize) {
        let bytes_per_second = self.bytes_per_second.load(Ordering::SeqCst);
        if bytes_per_second > 0 {
            let _line = self.line.lock().await;
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)).await;
        }
    }
}

/// The URL of a database with the hosts of two proxies, in this order.
pub fn both(one: &FaultProxy, other: &FaultProxy) -> String {
    let host = |proxy: &FaultProxy| {
        let (_, rest) = proxy.url.split_once('@').unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    };
    one.url.replace(&host(one), &format!("{},{}", host(one), host(other)))
}
