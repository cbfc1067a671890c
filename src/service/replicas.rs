//! Replicas, from which history is read as far as each of them has replayed it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::tail::Tail;
use crate::domain::filter::Filter;
use crate::domain::observation::Observation;
use crate::domain::replica::{ReplayMark, ReplicaProgress, Use};
use crate::store::read::PageLimit;
use crate::store::replica::{ReplicaPage, ReplicaQuery};
use crate::store::{Database, StoreError, in_time};
use crate::telemetry::Observer;

/// A look at a replica that takes longer has failed.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A page that a replica has not given by then is read from the primary.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// A replica as it is configured.
pub struct ReplicaDatabase {
    /// As metrics and log lines name it.
    pub name: String,
    pub database: Database,
}

/// A page that is to be read.
pub struct ReplicaRead<'a> {
    pub wanted: ReplicaQuery<'a>,
    /// Only a replica that goes beyond this position is asked.
    pub after: i64,
    /// The log, as [`Tail::history`] counts.
    pub history: u64,
    /// The page goes up to here at most.
    pub settled: i64,
    pub limit: PageLimit,
    pub filter: &'a Filter,
}

/// The replicas of this instance. Cheap to clone.
#[derive(Clone)]
pub struct Replicas {
    inner: Arc<Inner>,
}

struct Inner {
    replicas: Vec<Replica>,
    /// They are read in turns.
    next: AtomicUsize,
    observer: Observer,
}

struct Replica {
    name: String,
    database: Database,
    progress: Mutex<ReplicaProgress>,
    /// As it was last reported.
    reported: Mutex<Option<Use>>,
}

impl Replicas {
    pub fn new(replicas: Vec<ReplicaDatabase>, observer: Observer) -> Self {
        let replica = |ReplicaDatabase { name, database }| Replica {
            name,
            database,
            progress: Mutex::default(),
            reported: Mutex::default(),
        };
        let replicas = replicas.into_iter().map(replica).collect();
        Self { inner: Arc::new(Inner { replicas, next: AtomicUsize::new(0), observer }) }
    }

    /// Everything is read from the primary.
    pub fn none() -> Self {
        Self::new(Vec::new(), Observer::new())
    }

    /// Looks how far each has replayed, until the service stops.
    pub async fn run(self, primary: Database, tail: Tail, interval: Duration, stopping: CancellationToken) {
        let looking = async {
            while !self.inner.replicas.is_empty() {
                self.look(&primary, &tail).await;
                tokio::time::sleep(interval).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stopping.cancelled() => self.inner.replicas.iter().for_each(|replica| replica.database.close()),
            () = looking => {}
        }
    }

    async fn look(&self, primary: &Database, tail: &Tail) {
        // In this order: the end of the log is noted after the position was settled.
        let (history, settled) = (tail.history(), tail.settled());
        let end = in_time(LOOK_TIMEOUT, "it", primary.log_end()).await;
        // Without the primary nothing new is known; a page of a replica needs a word of the primary anyhow.
        let Ok((end, Some(primary))) = end else { return };
        let mark = ReplayMark { settled, end, primary, history };
        join_all(self.inner.replicas.iter().map(|replica| self.look_at(replica, mark.clone()))).await;
    }

    async fn look_at(&self, replica: &Replica, mark: ReplayMark) {
        let history = mark.history;
        let seen = in_time(LOOK_TIMEOUT, "it", replica.database.seen_as_replica()).await;
        let used = match &seen {
            Ok(seen) => replica.progress.lock().on_look(mark, seen),
            Err(error) => {
                replica.progress.lock().on_failure();
                if error.is_unavailable() {
                    replica.database.forget_connections();
                }
                Use::Failed
            }
        };
        let up_to = replica.progress.lock().readable(history).map_or(0, |(up_to, _)| up_to);
        self.report(replica, used, up_to, seen.err());
    }

    fn report(&self, replica: &Replica, used: Use, up_to: i64, error: Option<StoreError>) {
        let is_news = replica.reported.lock().replace(used) != Some(used);
        self.inner.observer.record(Observation::ReplicaSeen {
            name: replica.name.clone(),
            used: used.is_used(),
            reason: error.map_or_else(|| used.reason().to_owned(), |error| error.to_string()),
            up_to,
            is_news,
        });
    }

    /// A page of a replica that has replayed beyond its place, and up to where that page goes. `None`: no replica can give
    /// it.
    pub async fn page(&self, primary: &Database, reading: ReplicaRead<'_>) -> Option<(ReplicaPage, i64)> {
        let ReplicaRead { wanted, after, history, settled, limit, filter } = reading;
        let (replica, up_to, started) = self.choose(after, history)?;
        let up_to = up_to.min(settled);
        // On the heap: it is large, and in the future of every read of a page.
        let read = Box::pin(replica.database.replica_page(&started, wanted, up_to, limit, filter));
        let page = match in_time(READ_TIMEOUT, "it", read).await {
            Ok(page) => Some(page),
            Err(error) => {
                replica.progress.lock().on_failure();
                self.report(replica, Use::Failed, 0, Some(error));
                None
            }
        };
        // After the page was read: a reader that was told before that a message is erased does not get it from here.
        let is_whole = match &page {
            Some(page) => primary.erasure_count().await.is_ok_and(|count| count == page.erasures),
            None => false,
        };
        self.inner.observer.record(Observation::ReplicaRead { name: replica.name.clone(), is_used: is_whole });
        page.filter(|_| is_whole).map(|page| (page, up_to))
    }

    /// The next replica in turn that can be read beyond a place.
    fn choose(&self, after: i64, history: u64) -> Option<(&Replica, i64, String)> {
        let replicas = &self.inner.replicas;
        let first = self.inner.next.fetch_add(1, Ordering::Relaxed);
        (0..replicas.len()).find_map(|at| {
            let replica = &replicas[first.wrapping_add(at) % replicas.len()];
            let progress = replica.progress.lock();
            let (up_to, started) = progress.readable(history)?;
            (up_to > after).then(|| (replica, up_to, started.to_owned()))
        })
    }
}
