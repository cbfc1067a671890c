//! Group commit: requests that wait at the same moment share one transaction.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::tail::Tail;
use crate::domain::append::{AppendError, AppendRequest, Appended};
use crate::domain::observation::Observation;
use crate::store::Database;
use crate::store::append::{Answer, AppendLink, Backend, BatchAnswer, BatchError};
use crate::telemetry::Observer;

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
    /// Categories whose locks other transactions hold, for which requests may wait at the same time.
    pub locked_categories_max: usize,
    /// How long a request waits for its category's lock.
    pub lock_timeout: Duration,
    /// How long a commit may take before its outcome is looked up.
    pub commit_timeout: Duration,
    /// How long an outcome in doubt is looked for before it is answered as unknown.
    pub resolve_timeout: Duration,
}

/// A batch that another transaction's doing rolled back is sent again this often.
const SEND_AGAIN_MAX: usize = 5;
/// After a failed connection, this long every request is told at once that the database is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts to find out what became of a commit.
const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

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
        let shared = Shared { database, tail, observer, settings: Arc::new(settings) };
        (append, Committer { requests, shared, lanes: Lanes::default() })
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
        let mut link = Link::new(self.shared.clone());
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
            if messages < settings.batch_messages_max && bytes < settings.batch_bytes_max {
                next = deferred.pop_front().or_else(|| self.requests.try_recv().ok());
            }
        }
        put_off.append(deferred);
        *deferred = put_off;
        batch
    }
}

/// Requests whose category is locked by another transaction wait in a lane of their own, so that a writer that idles
/// in its transaction holds up nobody else.
#[derive(Clone, Default)]
struct Lanes {
    open: Arc<Mutex<HashMap<String, Vec<Waiting>>>>,
    tasks: tokio_util::task::TaskTracker,
    places: Arc<std::sync::OnceLock<Arc<Semaphore>>>,
}

impl Lanes {
    /// Requests for a category that has a lane follow those that wait there.
    async fn divert(&self, batch: Vec<Waiting>, shared: &Shared) -> Vec<Waiting> {
        let mut open = self.open.lock().await;
        if open.is_empty() {
            return batch;
        }
        let mut rest = Vec::with_capacity(batch.len());
        for waiting in batch {
            match open.get_mut(waiting.request.stream_name.category()) {
                Some(lane) if lane.len() < shared.settings.queue_max => lane.push(waiting),
                Some(_) => answer(waiting, Err(AppendError::Overloaded)),
                None => rest.push(waiting),
            }
        }
        rest
    }

    async fn take(&self, locked: Vec<Waiting>, shared: &Shared) {
        if locked.is_empty() {
            return;
        }
        let places =
            self.places.get_or_init(|| Arc::new(Semaphore::new(shared.settings.locked_categories_max))).clone();
        let mut open = self.open.lock().await;
        for waiting in locked {
            let category = waiting.request.stream_name.category().to_owned();
            if let Some(lane) = open.get_mut(&category) {
                lane.push(waiting);
                continue;
            }
            let Ok(place) = places.clone().try_acquire_owned() else {
                answer(waiting, Err(AppendError::Overloaded));
                continue;
            };
            open.insert(category.clone(), vec![waiting]);
            let (lanes, shared) = (self.clone(), shared.clone());
            self.tasks.spawn(async move {
                lanes.serve(category, shared).await;
                drop(place);
            });
        }
    }

    /// Writes a lane's requests, waiting for the lock, until there are none.
    async fn serve(&self, category: String, shared: Shared) {
        let mut link = Link::new(shared);
        loop {
            let batch = {
                let mut open = self.open.lock().await;
                match open.get_mut(&category) {
                    Some(lane) if !lane.is_empty() => next_of_lane(lane, &link.shared.settings),
                    _ => {
                        open.remove(&category);
                        return;
                    }
                }
            };
            link.write(batch, true).await;
        }
    }

    async fn wait_until_empty(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The next batch of a lane: up to the limits, and no id twice.
fn next_of_lane(lane: &mut Vec<Waiting>, settings: &AppendSettings) -> Vec<Waiting> {
    let mut ids: HashSet<Uuid> = HashSet::new();
    let mut messages = 0;
    let fits = |waiting: &Waiting| {
        messages += waiting.request.messages.len();
        (messages <= settings.batch_messages_max || ids.is_empty())
            && waiting.request.messages.iter().all(|message| ids.insert(message.id))
    };
    let count = lane.iter().map(fits).take_while(|fit| *fit).count();
    lane.drain(..count.max(1)).collect()
}

/// One connection for appends, made again when it is lost.
struct Link {
    shared: Shared,
    open: Option<AppendLink>,
    retry_at: Option<Instant>,
}

impl Link {
    fn new(shared: Shared) -> Self {
        Self { shared, open: None, retry_at: None }
    }

    /// Writes a batch and answers everyone in it, except for those it gives back: their category is locked.
    async fn write(&mut self, batch: Vec<Waiting>, wait_for_locks: bool) -> Vec<Waiting> {
        let mut open: VecDeque<Vec<Waiting>> = VecDeque::from([batch]);
        let mut locked = Vec::new();
        let mut sent_again = 0;
        while let Some(batch) = open.pop_front() {
            let requests: Vec<&AppendRequest> = batch.iter().map(|waiting| &waiting.request).collect();
            let wanted = self.shared.tail.wants(&requests);
            match self.send(&requests, wanted.messages(), wait_for_locks).await {
                Ok(answer) => {
                    // First the tail, then the callers: who reads after the answer finds the message on its way.
                    self.shared.tail.committed(&requests, &answer, &wanted);
                    locked.extend(self.answer_all(batch, answer));
                }
                Err(BatchError::SendAgain(_)) if sent_again < SEND_AGAIN_MAX => {
                    sent_again += 1;
                    open.push_front(batch);
                }
                // One of them spoils the batch: each is sent by itself, so that only that one fails.
                Err(BatchError::Refused(_) | BatchError::SendAgain(_)) if batch.len() > 1 => {
                    sent_again = 0;
                    open = batch.into_iter().map(|waiting| vec![waiting]).chain(open).collect();
                }
                Err(BatchError::Refused(message)) => {
                    answer_each(batch, || AppendError::Refused { message: message.clone() })
                }
                Err(BatchError::SendAgain(_) | BatchError::LockTimeout) => {
                    answer_each(batch, || AppendError::Overloaded)
                }
                Err(BatchError::NotWritten(error)) => {
                    self.lost(error);
                    answer_each(batch, || AppendError::DatabaseUnavailable);
                }
                Err(BatchError::InDoubt(error)) => {
                    let backend = self.open.as_ref().map(AppendLink::backend);
                    self.lost(error);
                    resolve_in_background(self.shared.clone(), batch, backend);
                }
            }
        }
        locked
    }

    async fn send(
        &mut self,
        requests: &[&AppendRequest],
        wanted: Option<&[bool]>,
        wait_for_locks: bool,
    ) -> Result<BatchAnswer, BatchError> {
        let limit = self.shared.settings.commit_timeout + self.shared.settings.lock_timeout;
        let link = self.connected().await?;
        let begun = Instant::now();
        let writing = link.append_batch(requests, wanted, wait_for_locks);
        let result = match tokio::time::timeout(limit, writing).await {
            Ok(result) => result,
            Err(_) => Err(BatchError::InDoubt("the commit took too long".into())),
        };
        match &result {
            Ok(answer) => {
                let messages = written(answer).map(|appended| appended.messages.len()).sum();
                self.shared.observer.record(Observation::BatchCommitted {
                    requests: requests.len(),
                    messages,
                    took: begun.elapsed(),
                });
            }
            Err(error) => self
                .shared
                .observer
                .record(Observation::BatchFailed { requests: requests.len(), error: error.to_string() }),
        }
        result
    }

    async fn connected(&mut self) -> Result<&AppendLink, BatchError> {
        if self.open.as_ref().is_some_and(AppendLink::is_closed) {
            self.open = None;
        }
        if self.open.is_none() {
            if self.retry_at.is_some_and(|at| Instant::now() < at) {
                return Err(BatchError::NotWritten("it was away a moment ago".into()));
            }
            match AppendLink::open(&self.shared.database, self.shared.settings.lock_timeout).await {
                Ok(link) => {
                    if self.retry_at.take().is_some() {
                        self.shared.observer.record(Observation::DatabaseFound { by: "append" });
                    }
                    self.open = Some(link);
                }
                Err(error) => return Err(BatchError::NotWritten(error.to_string())),
            }
        }
        self.open.as_ref().ok_or_else(|| BatchError::NotWritten("no connection".into()))
    }

    fn lost(&mut self, error: String) {
        if self.retry_at.is_none() {
            self.shared.observer.record(Observation::DatabaseLost { by: "append", error });
            self.shared.database.forget_connections();
        }
        self.open = None;
        // A request that only hears of the pause must not make it longer: under load there would be no end to it.
        let now = Instant::now();
        if self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = Some(now + RECONNECT_PAUSE);
        }
    }

    fn answer_all(&self, batch: Vec<Waiting>, answer: BatchAnswer) -> Vec<Waiting> {
        let (mut appended, mut duplicates, mut conflicts) = (0, 0, 0);
        let mut locked = Vec::new();
        for (waiting, outcome) in batch.into_iter().zip(answer.answers) {
            match outcome {
                Answer::Done(result) => {
                    match &result {
                        Ok(done) if done.duplicate => duplicates += 1,
                        Ok(_) => appended += 1,
                        Err(_) => conflicts += 1,
                    }
                    self::answer(waiting, result);
                }
                Answer::Locked => locked.push(waiting),
            }
        }
        self.shared.observer.record(Observation::AppendsAnswered { appended, duplicates, conflicts });
        locked
    }
}

/// A commit whose answer was lost is looked up by its message ids; nobody waits for it but those it concerns.
fn resolve_in_background(shared: Shared, batch: Vec<Waiting>, backend: Option<Backend>) {
    tokio::spawn(async move {
        let Some(backend) = backend else {
            answer_each(batch, || AppendError::DatabaseUnavailable);
            return;
        };
        let requests: Vec<&AppendRequest> = batch.iter().map(|waiting| &waiting.request).collect();
        let looking = async {
            loop {
                match shared.database.resolve_commit(&backend, &requests).await {
                    Ok(found) => return found,
                    Err(_) => tokio::time::sleep(RESOLVE_PAUSE).await,
                }
            }
        };
        match tokio::time::timeout(shared.settings.resolve_timeout, looking).await {
            Ok(found) => {
                let written = found.iter().flatten().count();
                let not_written = found.len() - written;
                shared.observer.record(Observation::CommitResolved { written, not_written });
                shared.tail.hint();
                for (waiting, appended) in batch.into_iter().zip(found) {
                    answer(waiting, appended.ok_or(AppendError::DatabaseUnavailable));
                }
            }
            Err(_) => answer_each(batch, || AppendError::OutcomeUnknown),
        }
    });
}

fn written(answer: &BatchAnswer) -> impl Iterator<Item = &Appended> {
    answer.answers.iter().filter_map(|answer| match answer {
        Answer::Done(Ok(appended)) if !appended.duplicate => Some(appended),
        _ => None,
    })
}

fn answer(waiting: Waiting, result: Result<Appended, AppendError>) {
    // The caller may have gone; the messages stand all the same.
    let _ = waiting.reply.send(result);
}

fn answer_each(batch: Vec<Waiting>, error: impl Fn() -> AppendError) {
    for waiting in batch {
        answer(waiting, Err(error()));
    }
}
