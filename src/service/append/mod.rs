//! Group commit: requests that wait at the same moment share one transaction.

mod appends;
mod batch;
mod batch_writer;
mod conditions;
mod locked_categories;
pub mod session;
#[cfg(test)]
mod simulation;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tail::Tail;
use crate::domain::append::{AppendError, AppendRequest, Appended};
use crate::domain::observation::Observation;
use crate::domain::scope::Rights;
use crate::domain::trace::Span;
use crate::telemetry::{Observer, OpenSpan};
use appends::Appends;
use batch::BatchSize;
use batch_writer::BatchWriter;
use conditions::Conditions;
use locked_categories::LockedCategories;

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
    /// Messages that are looked at for the conditions of one request.
    pub condition_messages_max: usize,
    pub sessions: SessionSettings,
    /// How long a request waits for its category's lock.
    pub lock_timeout: Duration,
    /// How long a commit may take before its outcome is looked up.
    pub commit_timeout: Duration,
    /// How long an outcome in doubt is looked for before it is answered as unknown.
    pub resolve_timeout: Duration,
}

/// The bounds of append sessions.
#[derive(Debug, Clone, Copy)]
pub struct SessionSettings {
    /// Open sessions in all.
    pub max: usize,
    /// Messages of a session in one commit at most. As many again are read meanwhile.
    pub messages_max: usize,
    /// The same in bytes; one message may have more.
    pub bytes_max: usize,
}

/// Batches under way at the same time, one after the other on one connection.
const BATCHES_IN_FLIGHT_MAX: usize = 2;
/// Requests that have to wait before a second batch is begun.
const BATCH_READY_MIN: usize = 32;
/// How often the messages that conditions are about are looked at before the request is given up.
const LOOKS_MAX: usize = 6;
/// So many of these looks are taken without a lock, and what has come since is judged with the batch. After them what has
/// come since is looked at while the locks are held.
const FREE_LOOKS_MAX: usize = 3;
/// The longest that a batch of many categories waits for a lock: of a message id that an open transaction writes too,
/// or of the whole table. After that its requests wait by category.
const SHARED_LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The door to group commit. Cheap to clone.
#[derive(Clone)]
pub struct Append {
    queue: mpsc::Sender<PendingAppend>,
    /// Called when so many wait that a second batch is worth its while.
    batch_ready: Arc<Notify>,
    room: Arc<Room>,
    queue_bytes_max: usize,
    sessions: Arc<Semaphore>,
    session_settings: SessionSettings,
    draining: CancellationToken,
    conditions: Conditions,
    observer: Observer,
}

/// A request, and where its answer goes.
struct PendingAppend {
    request: Arc<AppendRequest>,
    /// Taken by the answer.
    reply: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    /// It is with the database, and what becomes of it is not known.
    is_sent: AtomicBool,
    bytes: QueuedBytes,
    /// Since when it has waited for locks.
    locked_since: Option<Instant>,
    /// From here to the answer, if the caller records the trace and spans are exported.
    span: Option<OpenSpan>,
}

/// A request that cannot be written before another transaction lets go of a lock.
struct Locked {
    category: String,
    waiting: PendingAppend,
}

impl Locked {
    /// Which lock it is, is not known.
    fn by_any(waiting: PendingAppend) -> Self {
        Self { category: waiting.request.category().to_owned(), waiting }
    }
}

impl PendingAppend {
    /// Whether it has waited for locks for as long as this.
    fn has_waited(&self, limit: Duration) -> bool {
        self.locked_since.is_some_and(|since| since.elapsed() >= limit)
    }

    fn outcome_unknown(&self) -> AppendError {
        AppendError::OutcomeUnknown { message_ids: self.request.messages().map(|message| message.id).collect() }
    }
}

/// An agent that ends in the middle of its work (the process stops, or it panics) leaves requests without an answer.
/// They are told what is true then.
impl Drop for PendingAppend {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ =
                reply.send(Err(if *self.is_sent.get_mut() { self.outcome_unknown() } else { AppendError::Draining }));
        }
    }
}

/// What has been taken and not answered.
#[derive(Default)]
struct Room {
    bytes: AtomicUsize,
    /// Called whenever a request has been answered.
    freed: Notify,
}

/// Gives its bytes back to the queue when it goes.
struct QueuedBytes {
    bytes: usize,
    room: Arc<Room>,
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.room.freed.notify_waiters();
    }
}

impl Append {
    /// The door, and the agent behind it.
    pub fn new(
        database: impl Appends + 'static,
        tail: Tail,
        settings: AppendSettings,
        draining: CancellationToken,
        observer: Observer,
    ) -> (Self, Committer) {
        let (queue, requests) = mpsc::channel(settings.queue_max);
        let database: Arc<dyn Appends> = Arc::new(database);
        let append = Self {
            queue,
            batch_ready: Arc::default(),
            room: Arc::default(),
            queue_bytes_max: settings.queue_bytes_max,
            sessions: Arc::new(Semaphore::new(settings.sessions.max)),
            session_settings: settings.sessions,
            draining,
            conditions: Conditions { database: database.clone(), messages_max: settings.condition_messages_max },
            observer: observer.clone(),
        };
        let locked_categories = LockedCategories::new(settings.locked_categories_max);
        let lock_timeout = settings.lock_timeout.min(SHARED_LOCK_TIMEOUT);
        let shared = Shared { database, tail, observer, settings: Arc::new(settings) };
        let writer = Arc::new(BatchWriter::new(shared.clone(), lock_timeout));
        let batch_ready = append.batch_ready.clone();
        (append, Committer { requests, batch_ready, writer, shared, locked_categories })
    }

    /// Writes the request's messages, all or none, and answers once that is durable. By `rights`, aggregated streams of its
    /// conditions are found.
    pub async fn append(&self, mut request: AppendRequest, rights: &Rights) -> Result<Appended, AppendError> {
        self.conditions.find_keys(&mut request, rights).await?;
        let mut request = Arc::new(request);
        let mut looks = 0;
        loop {
            match self.append_once(request.clone()).await {
                Err(AppendError::ConditionContended) if looks < LOOKS_MAX => {
                    looks += 1;
                    let mut looked = self.conditions.look(&request).await?;
                    looked.holds_locks = looks > FREE_LOOKS_MAX;
                    request = Arc::new(looked);
                }
                answer => return answer,
            }
        }
    }

    async fn append_once(&self, request: Arc<AppendRequest>) -> Result<Appended, AppendError> {
        match self.enqueue(request) {
            Ok(answer) => answered(answer).await,
            Err(error) => {
                if error == AppendError::Overloaded {
                    self.observer.record(Observation::AppendOverloaded);
                }
                Err(error)
            }
        }
    }

    /// The same, but while the queue is full it waits for room.
    async fn append_in_turn(&self, request: Arc<AppendRequest>) -> Result<Appended, AppendError> {
        loop {
            let mut freed = pin!(self.room.freed.notified());
            // From here on, so that no room is given back unheard.
            freed.as_mut().enable();
            match self.enqueue(request.clone()) {
                Ok(answer) => return answered(answer).await,
                Err(AppendError::Overloaded) => freed.await,
                Err(error) => return Err(error),
            }
        }
    }

    fn enqueue(
        &self,
        request: Arc<AppendRequest>,
    ) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        if self.draining.is_cancelled() {
            return Err(AppendError::Draining);
        }
        // Nothing is dropped on a refusal: that would call requests that wait for room, and there is none.
        let Ok(place) = self.queue.try_reserve() else { return Err(AppendError::Overloaded) };
        let bytes = request.bytes();
        let queued = self.room.bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued != 0 && queued + bytes > self.queue_bytes_max {
            self.room.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(AppendError::Overloaded);
        }
        let bytes = QueuedBytes { bytes, room: self.room.clone() };
        let (reply, answer) = oneshot::channel();
        let span = request.trace.and_then(|of| self.observer.open(|| Span::in_request("append", of)));
        place.send(PendingAppend {
            request,
            reply: Some(reply),
            is_sent: AtomicBool::default(),
            bytes,
            locked_since: None,
            span,
        });
        if self.queued() >= BATCH_READY_MIN {
            self.batch_ready.notify_one();
        }
        Ok(answer)
    }

    /// Requests that wait to be written.
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

/// Everything that was taken is answered, at the latest when it is dropped.
async fn answered(answer: oneshot::Receiver<Result<Appended, AppendError>>) -> Result<Appended, AppendError> {
    answer.await.unwrap_or(Err(AppendError::Draining))
}

/// What every transaction needs.
#[derive(Clone)]
struct Shared {
    database: Arc<dyn Appends>,
    tail: Tail,
    observer: Observer,
    settings: Arc<AppendSettings>,
}

/// A batch that is being written; gives back the requests that have to wait for a lock.
type Writing = Pin<Box<dyn Future<Output = Vec<Locked>> + Send>>;

/// Waits for a batch to be written, and drives the connection in the same task. Waits for ever if there is none.
async fn next_written(in_flight: &mut Vec<Writing>, writer: &BatchWriter) -> Vec<Locked> {
    let at = poll_fn(|context| {
        writer.poll_drive(context);
        for (at, writing) in in_flight.iter_mut().enumerate() {
            if let Poll::Ready(locked) = writing.as_mut().poll(context) {
                return Poll::Ready((at, locked));
            }
        }
        // What they have just sent goes out now.
        writer.poll_drive(context);
        Poll::Pending
    });
    let (at, locked) = at.await;
    drop(in_flight.remove(at));
    locked
}

/// The agent that takes what waits, and writes it.
pub struct Committer {
    requests: mpsc::Receiver<PendingAppend>,
    batch_ready: Arc<Notify>,
    writer: Arc<BatchWriter>,
    shared: Shared,
    locked_categories: LockedCategories,
}

impl Committer {
    /// Runs until the service stops; what waits then is still written.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut deferred: VecDeque<PendingAppend> = VecDeque::new();
        let mut in_flight: Vec<Writing> = Vec::with_capacity(BATCHES_IN_FLIGHT_MAX);
        let mut is_closing = false;
        loop {
            while self.may_begin(in_flight.len(), deferred.len())
                && let Some(first) = deferred.pop_front().or_else(|| self.requests.try_recv().ok())
            {
                let batch = self.take_batch(first, &mut deferred);
                let batch = self.locked_categories.divert(batch, &self.shared).await;
                if !batch.is_empty() {
                    let writer = self.writer.clone();
                    in_flight.push(Box::pin(async move { writer.write(batch, &[]).await.locked }));
                }
            }
            tokio::select! {
                biased;
                locked = next_written(&mut in_flight, &self.writer) => self.locked_categories.take(locked, &self.shared).await,
                waiting = self.requests.recv(), if in_flight.is_empty() => match waiting {
                    Some(waiting) => deferred.push_back(waiting),
                    None => break,
                },
                () = self.batch_ready.notified(), if in_flight.len() == 1 => {}
                () = stopping.cancelled(), if !is_closing => {
                    // Nobody sends any more after this; the loop ends when the queue is empty.
                    is_closing = true;
                    self.requests.close();
                }
            }
        }
        self.locked_categories.wait_until_empty().await;
    }

    /// The first batch begins with whatever is there. A second one follows it to the server while it is under way, if
    /// there are enough for it: the server need not wait for them then, and small batches cost as much as large ones.
    fn may_begin(&self, in_flight: usize, deferred: usize) -> bool {
        in_flight == 0 || (in_flight < BATCHES_IN_FLIGHT_MAX && deferred + self.requests.len() >= BATCH_READY_MIN)
    }

    /// What is there now, up to the limits; never waits for more. A request whose ids are in the batch already waits
    /// for the next one, where they are looked up.
    fn take_batch(&mut self, first: PendingAppend, deferred: &mut VecDeque<PendingAppend>) -> Vec<PendingAppend> {
        let settings = &self.shared.settings;
        let mut size = BatchSize::default();
        let mut batch = Vec::new();
        let mut put_off = VecDeque::new();
        let mut next = Some(first);
        while let Some(waiting) = next.take() {
            if size.add(&waiting) {
                batch.push(waiting);
            } else {
                put_off.push_back(waiting);
            }
            // What is put off has left the queue, so it is bounded as the queue is.
            let has_room = put_off.len() + deferred.len() < settings.queue_max || !deferred.is_empty();
            if has_room && !size.is_full(settings) {
                next = deferred.pop_front().or_else(|| self.requests.try_recv().ok());
            }
        }
        put_off.append(deferred);
        *deferred = put_off;
        batch
    }
}
