//! The pool: sessions that are lent for a statement or a few, up to a bound.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::Session;
use super::{Database, StoreError};

/// Sessions that nobody uses at the moment, and places for those in use.
pub(super) struct Pool {
    idle: Mutex<Vec<Arc<Session>>>,
    places: Arc<Semaphore>,
    max: usize,
    waiting: AtomicUsize,
    /// Counts how often all sessions were forgotten.
    forgotten: AtomicU64,
}

/// How busy the pool is, in connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolUse {
    pub in_use: usize,
    pub open: usize,
    pub waiting: usize,
    pub max: usize,
}

/// A session that goes back to the pool idle, or not at all.
///
/// A statement whose future was dropped is cancelled, and its connection closed. The place in the pool is kept until
/// then, so that there are never more cancellations than connections, nor more connections than the pool may have.
pub struct Lent {
    session: Arc<Session>,
    pool: Arc<Pool>,
    place: Option<OwnedSemaphorePermit>,
    forgotten: u64,
}

impl Pool {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(max)),
            max,
            waiting: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
        })
    }

    pub async fn lend(self: Arc<Self>, database: &Database) -> Result<Lent, StoreError> {
        let place = self.place(database).await?;
        let forgotten = self.forgotten.load(Ordering::SeqCst);
        let idle = std::iter::from_fn(|| self.idle().pop()).find(|session| !session.is_closed());
        let session = match idle {
            Some(session) => session,
            None => Arc::new(Session::open(database, None).await?),
        };
        Ok(Lent { session, pool: self, place: Some(place), forgotten })
    }

    async fn place(&self, database: &Database) -> Result<OwnedSemaphorePermit, StoreError> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::new(&self.waiting);
        let acquiring = self.places.clone().acquire_owned();
        match tokio::time::timeout(database.settings().connect_timeout, acquiring).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(StoreError::Unavailable("the connections were closed".into())),
            Err(_) => Err(StoreError::too_slow("waiting for a free connection")),
        }
    }

    /// Those in use go when they come back.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.idle().clear();
    }

    pub fn close(&self) {
        self.places.close();
        self.forget();
    }

    pub fn usage(&self) -> PoolUse {
        let in_use = self.max.saturating_sub(self.places.available_permits());
        let open = in_use + self.idle().len();
        PoolUse { in_use, open, waiting: self.waiting.load(Ordering::Relaxed), max: self.max }
    }

    /// Nothing in here is left half done by a panic, so a poisoned lock is as good as another.
    fn idle(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (session, place) = (self.session.clone(), self.place.take());
        if session.is_closed() {
            return;
        }
        if !session.is_busy() {
            let mut idle = self.pool.idle();
            // Looked at under the lock that forgetting takes.
            if self.pool.forgotten.load(Ordering::SeqCst) == self.forgotten {
                idle.push(session);
            }
            return;
        }
        // Without a runtime nothing can be sent; the connection ends with the process.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            session.cancel().await;
            drop((session, place));
        });
    }
}

/// Counted while it is there.
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
