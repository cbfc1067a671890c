//! The pool: connections that are lent for a statement or a few. There are two kinds under one bound: of sqlx for plain
//! statements, and sessions for what is read row by row.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ends_session;
use super::plain::Plain;
use super::session::Session;
use super::{Database, StoreError};

/// The time limit of a statement that looks at another session, or ends a statement of it.
const CONTROL_LIMIT: (Duration, &str) = (Duration::from_secs(2), "a look at another session");

/// Idle connections, and places for those in use.
pub(super) struct Pool {
    idle: Mutex<Idle>,
    places: Arc<Semaphore>,
    max: usize,
    waiting: AtomicUsize,
    /// The session that ends statements on others, while any are to be ended.
    control: tokio::sync::Mutex<Weak<Session>>,
    /// Counts how often all connections were forgotten.
    forgotten: AtomicU64,
}

/// The one used last is lent first.
#[derive(Default)]
struct Idle {
    sessions: Vec<Arc<Session>>,
    /// Those that lead to a pooler.
    pooled: Vec<Arc<Session>>,
    plain: Vec<Plain>,
}

impl Idle {
    fn len(&self) -> usize {
        self.sessions.len() + self.pooled.len() + self.plain.len()
    }
}

/// How busy the pool is, in connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolUse {
    pub in_use: usize,
    pub open: usize,
    pub waiting: usize,
    pub max: usize,
}

/// The right to one connection.
struct PoolPlace {
    database: Database,
    forgotten: u64,
    _permit: OwnedSemaphorePermit,
}

impl PoolPlace {
    /// Runs `ending` and keeps the place until it is done, so that there are never more cancellations than connections, nor
    /// more connections than the pool may have.
    fn keep_while(self, ending: impl Future<Output = ()> + Send + 'static) {
        // Without a runtime nothing can be sent; the connection ends with the process.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            ending.await;
            drop(self);
        });
    }

    /// Ends the transaction of a session that leads to a pooler, before that is put back.
    fn end_transaction(self, session: Arc<Session>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let ended = tokio::time::timeout(CONTROL_LIMIT.0, session.end_transaction()).await;
            if matches!(ended, Ok(Ok(()))) {
                self.rest(|idle| idle.pooled.push(session));
            }
        });
    }

    /// Puts a connection back, unless all connections were forgotten since it was lent.
    fn rest(&self, put: impl FnOnce(&mut Idle)) {
        let pool = &self.database.pool;
        let mut idle = pool.idle.lock();
        // Looked at under the lock that forgetting takes.
        if pool.forgotten.load(Ordering::SeqCst) == self.forgotten {
            put(&mut idle);
        }
    }
}

/// A session that goes back to the pool idle, or not at all: a statement whose future was dropped is cancelled, and its
/// connection closed.
pub struct Lent {
    session: Arc<Session>,
    place: Option<PoolPlace>,
}

/// A connection of sqlx that is lent. It goes back when its user says that it is [done](Self::done).
pub(super) struct LentPlain {
    plain: Option<Plain>,
    place: Option<PoolPlace>,
}

impl Pool {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(max)),
            max,
            waiting: AtomicUsize::new(0),
            control: Default::default(),
            forgotten: AtomicU64::new(0),
        })
    }

    /// Forgets all connections; those in use are closed when they come back.
    pub fn forget(&self) {
        let mut idle = self.idle.lock();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        *idle = Idle::default();
    }

    pub fn close(&self) {
        self.places.close();
        self.forget();
    }

    pub fn usage(&self) -> PoolUse {
        let open = self.in_use() + self.idle.lock().len();
        PoolUse { in_use: self.in_use(), open, waiting: self.waiting.load(Ordering::Relaxed), max: self.max }
    }

    fn in_use(&self) -> usize {
        self.max.saturating_sub(self.places.available_permits())
    }

    /// Takes an idle connection. If there is none, an idle one of the other kind makes room for a new one.
    fn take<T>(&self, take: impl Fn(&mut Idle) -> Option<T>, make_room: impl Fn(&mut Idle)) -> Option<T> {
        let mut idle = self.idle.lock();
        let taken = take(&mut idle);
        if taken.is_none() && self.in_use() + idle.len() > self.max {
            make_room(&mut idle);
        }
        taken
    }
}

impl Database {
    /// A session, for reads row by row and for several statements on one connection.
    pub async fn client(&self) -> Result<Lent, StoreError> {
        let place = self.place().await?;
        let take = |idle: &mut Idle| std::iter::from_fn(|| idle.sessions.pop()).find(|session| !session.is_closed());
        let make_room = |idle: &mut Idle| drop((idle.plain.pop().is_none()).then(|| idle.pooled.pop()));
        let session = match self.pool.take(take, make_room) {
            Some(session) => session,
            None => Arc::new(Session::open(self, None).await?),
        };
        Ok(Lent { session, place: Some(place) })
    }

    /// A session for one statement that only reads, through the pooler if there is one.
    pub async fn reader(&self) -> Result<Lent, StoreError> {
        if self.pooler.is_none() {
            return self.client().await;
        }
        let place = self.place().await?;
        let take = |idle: &mut Idle| std::iter::from_fn(|| idle.pooled.pop()).find(|session| !session.is_closed());
        let make_room = |idle: &mut Idle| drop((idle.plain.pop().is_none()).then(|| idle.sessions.pop()));
        let session = match self.pool.take(take, make_room) {
            Some(session) => session,
            None => Arc::new(Session::open_pooled(self).await?),
        };
        Ok(Lent { session, place: Some(place) })
    }

    /// A connection for a plain statement. Its error is one of sqlx, to come through an executor of sqlx.
    pub(super) async fn lend_plain(&self) -> Result<LentPlain, sqlx::Error> {
        let lending = async {
            let place = self.place().await?;
            let plain = loop {
                let make_room = |idle: &mut Idle| drop(idle.sessions.pop().or_else(|| idle.pooled.pop()));
                match self.pool.take(|idle| idle.plain.pop(), make_room) {
                    None => break Plain::open(self).await?,
                    Some(mut plain) => {
                        if plain.is_alive(self.settings().connect_timeout).await {
                            break plain;
                        }
                    }
                }
            };
            Ok(LentPlain { plain: Some(plain), place: Some(place) })
        };
        lending.await.map_err(|error: StoreError| sqlx::Error::Configuration(error.into()))
    }

    /// The session that looks at other sessions and ends their statements. All users share it.
    pub(super) async fn control(&self) -> Result<Arc<Session>, StoreError> {
        let mut control = self.pool.control.lock().await;
        if let Some(session) = control.upgrade().filter(|session| !session.is_closed()) {
            return Ok(session);
        }
        let session = Arc::new(Session::open(self, Some(CONTROL_LIMIT)).await?);
        *control = Arc::downgrade(&session);
        Ok(session)
    }

    async fn place(&self) -> Result<PoolPlace, StoreError> {
        let places = self.pool.places.clone();
        let permit = match places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::new(&self.pool.waiting);
                match tokio::time::timeout(self.settings().connect_timeout, places.acquire_owned()).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return Err(StoreError::Unavailable("the connections were closed".into())),
                    Err(_) => return Err(StoreError::too_slow("waiting for a free connection")),
                }
            }
        };
        let forgotten = self.pool.forgotten.load(Ordering::SeqCst);
        Ok(PoolPlace { database: self.clone(), forgotten, _permit: permit })
    }
}

impl Deref for Lent {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let session = self.session.clone();
        if session.leads_to().is_doubted() {
            // The others led to the same server.
            place.database.pool.forget();
        }
        if session.is_closed() {
            return;
        }
        if session.is_busy() {
            return place.keep_while(async move { session.cancel().await });
        }
        if session.is_in_transaction() {
            return place.end_transaction(session);
        }
        if session.is_pooled() {
            return place.rest(|idle| idle.pooled.push(session));
        }
        place.rest(|idle| idle.sessions.push(session));
    }
}

impl LentPlain {
    pub fn plain(&mut self) -> Result<&mut Plain, sqlx::Error> {
        self.plain.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Ends the loan with the outcome of the statement. A connection that was lost does not go back.
    pub fn done<T>(mut self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        use sqlx::Error::{Configuration, Database, Io, Protocol, Tls, WorkerCrashed};
        let (is_over, is_no_primary) = match &outcome {
            Err(Database(answer)) => {
                let code = answer.code().unwrap_or_default();
                (is_of_no_primary(&code) || ends_session(&code), is_of_no_primary(&code))
            }
            Err(Io(_) | Protocol(_) | Tls(_) | WorkerCrashed | Configuration(_)) => (true, false),
            _ => (false, false),
        };
        let (Some(mut plain), Some(place)) = (self.plain.take(), &self.place) else { return outcome };
        if is_over {
            plain.leads_to().doubt();
        } else {
            plain.rests();
            place.rest(|idle| idle.plain.push(plain));
        }
        if is_no_primary {
            place.database.forget_connections();
        }
        outcome
    }
}

impl Drop for LentPlain {
    fn drop(&mut self) {
        let (Some(plain), Some(place)) = (self.plain.take(), self.place.take()) else { return };
        let database = place.database.clone();
        place.keep_while(async move { plain.cancel(&database).await });
    }
}

/// Whether an answer says that the server, or the session, was ended or takes no writes any more: other connections lead
/// to the same server.
fn is_of_no_primary(code: &str) -> bool {
    code == "25006" || code.starts_with("57P")
}

/// Counts a task that waits for a connection, for as long as this exists.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
