//! Group commit: requests that wait at the same moment share one transaction.

mod lanes;
mod link;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::tail::Tail;
use crate::domain::append::{AppendError, AppendRequest, Appended};
use crate::domain::observation::Observation;
use crate::store::Database;
use crate::telemetry::Observer;
use lanes::Lanes;
use link::Link;

/// The bounds of group commit.
#[derive(Debug, Clone)]
pub struct AppendSettings {
    /// Requests that may wait; one more is refused as `overloaded`.
    pub queue_max: usize,
    /// Bytes that may wait.
    pub queue_bytes_max: usize,
    /// Messages in one transaction at most (one request alone may have more).
    pub batch_messages_max: usize,
    /// Bytes in one transaction at most (one request alone may have more).
    pub batch_bytes_max: usize,
    /// Categories whose locks other transactions hold, for which sessions may wait at the same time. Requests for
    /// others wait for their turn, as long as for a lock.
    pub locked_categories_max: usize,
    /// How long a request waits for its category's lock.
    pub lock_timeout: Duration,
    /// How long a commit may take before its outcome is looked up.
    pub commit_timeout: Duration,
    /// How long an outcome in doubt is looked for before it is answered as unknown.
    pub resolve_timeout: Duration,
}

/// The longest that a batch of many categories waits for a lock: of a message id that an open transaction writes too,
/// or of the whole table. After that its requests wait by category.
const SHARED_LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The door to group commit. Cheap to clone.
#[derive(Clone)]
pub struct Append {
    queue: mpsc::Sender<Waiting>,
    queued_bytes: Arc<AtomicUsize>,
    queue_bytes_max: usize,
    draining: CancellationToken,
    observer: Observer,
}

/// A request and whom to tell.
struct Waiting {
    request: AppendRequest,
    reply: oneshot::Sender<Result<Appended, AppendError>>,
    bytes: QueuedBytes,
}

/// Gives its bytes back to the queue when it goes.
struct QueuedBytes {
    bytes: usize,
    queued: Arc<AtomicUsize>,
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Append {
    /// The door, and the agent behind it.
    pub fn new(
        database: Database,
        tail: Tail,
        settings: AppendSettings,
        draining: CancellationToken,
        observer: Observer,
    ) -> (Self, Committer) {
        let (queue, requests) = mpsc::channel(settings.queue_max);
        let append = Self {
            queue,
            queued_bytes: Arc::default(),
            queue_bytes_max: settings.queue_bytes_max,
            draining,
            observer: observer.clone(),
        };
        let lanes = Lanes::new(settings.locked_categories_max);
        let shared = Shared { database, tail, observer, settings: Arc::new(settings) };
        (append, Committer { requests, shared, lanes })
    }

    /// Writes the request's messages, all or none, and answers once that is durable.
    pub async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        if self.draining.is_cancelled() {
            return Err(AppendError::Draining);
        }
        let bytes = request.bytes();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let bytes = QueuedBytes { bytes, queued: self.queued_bytes.clone() };
        let (reply, answer) = oneshot::channel();
        let fits = queued == 0 || queued + bytes.bytes <= self.queue_bytes_max;
        if !fits || self.queue.try_send(Waiting { request, reply, bytes }).is_err() {
            self.observer.record(Observation::AppendOverloaded);
            return Err(AppendError::Overloaded);
        }
        // The agent answers everything it has taken; it is gone only when the service stops.
        answer.await.unwrap_or(Err(AppendError::Draining))
    }

    /// Requests that wait to be written.
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

/// What every transaction needs.
#[derive(Clone)]
struct Shared {
    database: Database,
    tail: Tail,
    observer: Observer,
    settings: Arc<AppendSettings>,
}

/// The agent that takes what waits, and writes it.
pub struct Committer {
    requests: mpsc::Receiver<Waiting>,
    shared: Shared,
    lanes: Lanes,
}

impl Committer {
    /// Runs until the service stops; what waits then is still written.
    pub async fn run(mut self, stopping: CancellationToken) {
        let lock_timeout = self.shared.settings.lock_timeout.min(SHARED_LOCK_TIMEOUT);
        let mut link = Link::new(self.shared.clone(), lock_timeout);
        let mut deferred: VecDeque<Waiting> = VecDeque::new();
        loop {
            let first = match deferred.pop_front() {
                Some(waiting) => waiting,
                None => tokio::select! {
                    biased;
                    waiting = self.requests.recv() => match waiting {
                        Some(waiting) => waiting,
                        None => break,
                    },
                    () = stopping.cancelled() => {
                        // Nobody sends any more after this; the loop ends when the queue is empty.
                        self.requests.close();
                        continue;
                    }
                },
            };
            let batch = self.take_batch(first, &mut deferred);
            let batch = self.lanes.divert(batch, &self.shared).await;
            if batch.is_empty() {
                continue;
            }
            let locked = link.write(batch, false).await;
            self.lanes.take(locked, &self.shared).await;
        }
        self.lanes.wait_until_empty().await;
    }

    /// What is there now, up to the limits; never waits for more. A request whose ids are in the batch already waits
    /// for the next one, where they are looked up.
    fn take_batch(&mut self, first: Waiting, deferred: &mut VecDeque<Waiting>) -> Vec<Waiting> {
        let settings = &self.shared.settings;
        let mut ids: HashSet<Uuid> = HashSet::new();
        let mut messages = 0;
        let mut bytes = 0;
        let mut batch = Vec::new();
        let mut put_off = VecDeque::new();
        let mut next = Some(first);
        while let Some(waiting) = next.take() {
            let own: Vec<Uuid> = waiting.request.messages.iter().filter(|m| m.id_may_stand).map(|m| m.id).collect();
            if own.iter().any(|id| ids.contains(id)) {
                put_off.push_back(waiting);
            } else {
                ids.extend(own);
                messages += waiting.request.messages.len();
                bytes += waiting.bytes.bytes;
                batch.push(waiting);
            }
            // What is put off has left the queue, so it is bounded as the queue is.
            let has_room = put_off.len() + deferred.len() < settings.queue_max || !deferred.is_empty();
            if has_room && messages < settings.batch_messages_max && bytes < settings.batch_bytes_max {
                next = deferred.pop_front().or_else(|| self.requests.try_recv().ok());
            }
        }
        put_off.append(deferred);
        *deferred = put_off;
        batch
    }
}
