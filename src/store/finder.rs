//! Finds the primary among the servers that a URL names. Both drivers connect to the one that was found, and leave it
//! together when another one is found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::target::{Target, Way};
use super::{StoreError, source_text};
use crate::domain::primary::{Answer, Choice, Identity, InUse, choose};

/// Once a server has said that it is the primary, the others are waited for this long: one of them may say so too.
const OTHERS_WAIT: Duration = Duration::from_millis(250);

/// The pause before one that is no primary is asked again, while another one is silent.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// In recovery every transaction is read-only.
const STATE: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')";
/// Which server it is, of a primary. Where the role may not know, nothing is compared.
const IDENTITY: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint, \
    extract(epoch FROM pg_postmaster_start_time())";

/// A server that is in use, until it is left for another one.
pub struct Server {
    pub name: String,
    pub(super) way: Way,
    identity: Option<Identity>,
    /// Cancelled when another server has taken its place.
    left: CancellationToken,
    /// Something has failed on it, so that the next to connect looks for the primary again.
    is_doubted: AtomicBool,
}

/// When a search began, and what it found.
type Search = (Instant, Result<Arc<Server>, StoreError>);

/// Says which server is the primary.
pub(super) struct Finder {
    target: Target,
    connect_timeout: Duration,
    in_use: watch::Sender<Option<Arc<Server>>>,
    /// One search at a time; its outcome is that of all who asked before it began.
    search: tokio::sync::Mutex<Option<Search>>,
    newest: Mutex<Option<Identity>>,
    turns: AtomicU64,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The server in use.
    pub name: String,
    /// Another server takes writes too.
    pub other: Option<String>,
}

impl Server {
    pub fn is_left(&self) -> bool {
        self.left.is_cancelled()
    }

    /// Ends when another server has taken its place.
    pub(super) async fn left(&self) {
        self.left.cancelled().await;
    }

    /// The next to connect looks for the primary again.
    pub fn doubt(&self) {
        self.is_doubted.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.is_doubted.load(Ordering::SeqCst)
    }

    /// The error of statements on a server that was left.
    pub(super) fn left_error() -> StoreError {
        StoreError::Unavailable("another server has become the primary".into())
    }
}

impl Finder {
    pub fn new(target: Target, connect_timeout: Duration) -> Self {
        let in_use = watch::Sender::new(None);
        Self {
            target,
            connect_timeout,
            in_use,
            search: Default::default(),
            newest: Mutex::default(),
            turns: Default::default(),
        }
    }

    pub fn tls(&self) -> MakeRustlsConnect {
        self.target.tls.clone()
    }

    pub fn in_use(&self) -> Option<Arc<Server>> {
        self.in_use.borrow().clone()
    }

    /// Changes when another server is in use.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Server>>> {
        self.in_use.subscribe()
    }

    /// How often what connections lead to may have become another server. What was learned on a connection holds for others
    /// only as long as this stays the same.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    pub fn doubt(&self) {
        self.in_use().inspect(|server| server.doubt());
    }

    /// The primary. It is looked for if none was found yet, or if something has failed on it.
    pub async fn server(&self) -> Result<Arc<Server>, StoreError> {
        if let Some(server) = self.in_use().filter(|server| !server.is_doubted()) {
            return Ok(server);
        }
        let asked = Instant::now();
        let mut last = self.search.lock().await;
        if let Some((_, outcome)) = last.as_ref().filter(|(began, _)| *began >= asked) {
            return outcome.clone();
        }
        let began = Instant::now();
        let outcome = self.find().await.map(|(server, _)| server);
        *last = Some((began, outcome.clone()));
        outcome
    }

    /// Looks whether the primary is another one by now. If none is found, the one in use stays.
    pub async fn look(&self) -> Result<Found, StoreError> {
        let mut last = self.search.lock().await;
        let began = Instant::now();
        let (server, found) = self.find().await?;
        *last = Some((began, Ok(server)));
        Ok(found)
    }

    async fn find(&self) -> Result<(Arc<Server>, Found), StoreError> {
        let before = self.in_use();
        let is_doubted = before.as_ref().is_some_and(|server| server.is_doubted());
        let (way, identity, found) = self.search_among(before.as_deref(), is_doubted).await?;
        let same = before.as_ref().filter(|server| server.name == way.name && server.identity == identity);
        let server = match same {
            Some(server) => {
                if is_doubted && identity.is_none() {
                    // The address may lead to another server by now. Counted before anybody connects again.
                    self.turns.fetch_add(1, Ordering::SeqCst);
                }
                server.is_doubted.store(false, Ordering::SeqCst);
                server.clone()
            }
            None => {
                let name = way.name.clone();
                let server = Server { name, way, identity, left: Default::default(), is_doubted: Default::default() };
                self.take(Arc::new(server), before)
            }
        };
        Ok((server, found))
    }

    /// Puts a server in the place of the one that is left.
    fn take(&self, server: Arc<Server>, before: Option<Arc<Server>>) -> Arc<Server> {
        if server.identity.is_some() {
            *self.newest.lock() = server.identity.clone();
        }
        if let Some(before) = before {
            before.left.cancel();
            // Counted before anybody connects to the next one.
            self.turns.fetch_add(1, Ordering::SeqCst);
        }
        self.in_use.send_replace(Some(server.clone()));
        server
    }

    async fn search_among(
        &self,
        before: Option<&Server>,
        is_doubted: bool,
    ) -> Result<(Way, Option<Identity>, Found), StoreError> {
        let mut ways = self.target.ways(self.connect_timeout).await;
        if ways.len() == 1 {
            // There is nothing to choose; what it is shows when it is used.
            let way = ways.remove(0);
            let found = Found { name: way.name.clone(), other: None };
            return Ok((way, None, found));
        }
        let answers = self.ask_all(&ways).await;
        let newest = self.newest.lock().clone();
        let in_use = before.and_then(|server| {
            let at = ways.iter().position(|way| way.name == server.name)?;
            Some(InUse { at, identity: server.identity.as_ref(), is_doubted })
        });
        let Choice { at, other } = choose(&answers, in_use, newest.as_ref())
            .map_err(|reasons| StoreError::Unavailable(format!("no server takes writes: {reasons}")))?;
        let identity = match &answers[at].1 {
            Answer::Primary(identity) => identity.clone(),
            // It was kept, although it did not answer in time.
            Answer::ReadOnly(_) | Answer::Silent(_) => before.and_then(|server| server.identity.clone()),
        };
        let other = other.map(|other| ways[other].name.clone());
        let found = Found { name: ways[at].name.clone(), other };
        Ok((ways.swap_remove(at), identity, found))
    }

    /// Asks all at once: one that does not answer delays nobody by more than [`OTHERS_WAIT`], unless none is found. Those
    /// that are none are asked again while others are waited for: one of them may be promoted meanwhile.
    async fn ask_all(&self, ways: &[Way]) -> Vec<(String, Answer)> {
        let mut answers: Vec<_> =
            ways.iter().map(|way| (way.name.clone(), Answer::Silent("time-out".into()))).collect();
        let asking = ways.iter().enumerate().map(|(at, way)| self.ask_after(Duration::ZERO, at, way));
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut unheard = vec![true; ways.len()];
        let mut until = tokio::time::Instant::now() + self.connect_timeout;
        while unheard.contains(&true)
            && let Ok(Some((at, answer))) = tokio::time::timeout_at(until, asking.next()).await
        {
            unheard[at] = false;
            if matches!(answer, Answer::Primary(_)) {
                until = until.min(tokio::time::Instant::now() + OTHERS_WAIT);
            } else {
                asking.push(self.ask_after(ASK_AGAIN, at, &ways[at]));
            }
            answers[at].1 = answer;
        }
        answers
    }

    async fn ask_after(&self, pause: Duration, at: usize, way: &Way) -> (usize, Answer) {
        tokio::time::sleep(pause).await;
        (at, self.ask(way).await)
    }

    async fn ask(&self, way: &Way) -> Answer {
        match self.question(way).await {
            Ok(answer) => answer,
            Err(error) => Answer::Silent(source_text(&error)),
        }
    }

    async fn question(&self, way: &Way) -> Result<Answer, tokio_postgres::Error> {
        let (client, connection) = way.config.connect(self.target.tls.clone()).await?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let state = row(client.simple_query(STATE).await?, 2);
        match [state[0].as_deref(), state[1].as_deref()] {
            [Some("t"), _] => return Ok(Answer::ReadOnly("is a replica")),
            [_, Some("on")] => return Ok(Answer::ReadOnly("is read-only")),
            _ => {}
        }
        let Ok(rows) = client.simple_query(IDENTITY).await else { return Ok(Answer::Primary(None)) };
        let mut identity = row(rows, 3).into_iter();
        let identity = match (identity.next().flatten(), identity.next().flatten(), identity.next().flatten()) {
            (Some(system), Some(timeline), Some(started)) => {
                timeline.parse().ok().map(|timeline| Identity { system, timeline, started })
            }
            _ => None,
        };
        Ok(Answer::Primary(identity))
    }
}

/// The first row's values; without a row, as many that are NULL.
fn row(messages: Vec<SimpleQueryMessage>, columns: usize) -> Vec<Option<String>> {
    let found = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    (0..columns).map(|at| found.as_ref().and_then(|row| row.try_get(at).ok().flatten()).map(str::to_owned)).collect()
}
