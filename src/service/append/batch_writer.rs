//! One connection for appends: a batch is sent, judged, and everyone in it answered, whatever happens to the connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::appends::Session;
use super::{Locked, PendingAppend, Shared};
use crate::domain::append::{AppendError, AppendRequest, Appended, LockHolder};
use crate::domain::observation::Observation;
use crate::domain::trace::{Span, SpanRef};
use crate::service::back_off::BackOff;
use crate::store::StoreError;
use crate::store::append::{Answer, Backend, BatchAnswer, BatchError};
use crate::telemetry::OpenSpan;

/// A batch that another transaction's doing rolled back is sent again this often.
const SEND_AGAIN_MAX: usize = 5;
/// After a failed connection, this long at most every request is told at once that the database is away.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// The longest that one attempt to find out what became of a commit may take: its own connection may fall silent too.
const RESOLVE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that looking up the holders of a lock may take.
const HOLDERS_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection for appends, made again when it is lost. Several batches may be under way on it: the server takes
/// them one after the other, and finds the next one there when it is done with one.
pub struct BatchWriter {
    shared: Shared,
    lock_timeout: Duration,
    state: Mutex<State>,
    /// The driving side of the open session; see [`poll_drive`](Self::poll_drive).
    connection: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// Only one connects at a time.
    connecting: tokio::sync::Mutex<()>,
}

/// What a batch leaves to whoever has sent it.
#[derive(Default)]
pub struct Unwritten {
    /// They have to wait for a lock.
    pub locked: Vec<Locked>,
    /// They hold the awaited lock, which was waited for in vain. Everybody in the batch was told.
    pub holders: Vec<LockHolder>,
}

struct State {
    open: Option<Arc<dyn Session>>,
    /// Until when no attempt is made, and why.
    paused: Option<(Instant, StoreError)>,
    back_off: BackOff,
}

impl BatchWriter {
    pub fn new(shared: Shared, lock_timeout: Duration) -> Self {
        let back_off = BackOff::new("append", shared.observer.clone()).at_most(PAUSE_MAX);
        Self {
            shared,
            lock_timeout,
            state: Mutex::new(State { open: None, paused: None, back_off }),
            connection: Mutex::default(),
            connecting: Default::default(),
        }
    }

    /// Drives the connection, if there is one. To be polled by the task that waits for [`write`](Self::write).
    pub fn poll_drive(&self, context: &mut Context<'_>) {
        let mut connection = self.connection.lock();
        if connection.as_mut().is_some_and(|open| open.as_mut().poll(context).is_ready()) {
            *connection = None;
        }
    }

    /// [`write`](Self::write), driving the connection meanwhile.
    pub async fn write_alone(&self, batch: Vec<PendingAppend>, awaited: &[&str]) -> Unwritten {
        let mut writing = pin!(self.write(batch, awaited));
        poll_fn(|context| {
            if let Poll::Ready(unwritten) = writing.as_mut().poll(context) {
                return Poll::Ready(unwritten);
            }
            self.poll_drive(context);
            writing.as_mut().poll(context)
        })
        .await
    }

    /// Writes a batch and answers everyone in it, except for those it gives back: they have to wait for a lock. Only
    /// locks of the awaited categories are waited for.
    pub async fn write(&self, batch: Vec<PendingAppend>, awaited: &[&str]) -> Unwritten {
        let mut open: VecDeque<Vec<PendingAppend>> = VecDeque::from([batch]);
        let Unwritten { mut locked, mut holders } = Unwritten::default();
        let mut sent_again = 0;
        while let Some(mut batch) = open.pop_front() {
            let span = self.open_span(&mut batch);
            let requests: Vec<&AppendRequest> = batch.iter().map(|waiting| &*waiting.request).collect();
            let wanted = self.shared.tail.wants(&requests);
            let session = match self.connected().await {
                Ok(session) => session,
                Err(error) => {
                    let answer = not_written(&error);
                    self.pause(None, error);
                    answer_each(batch, |_| answer.clone());
                    continue;
                }
            };
            batch.iter().for_each(|waiting| waiting.is_sent.store(true, Ordering::Relaxed));
            let commit = span.as_ref().and_then(|batch| self.shared.observer.open(|| batch.span.child("commit")));
            let sent = self.send(&*session, &requests, wanted.messages(), awaited).await;
            drop(commit);
            if !matches!(sent, Ok(_) | Err(BatchError::InDoubt(_))) {
                // It was rolled back.
                batch.iter().for_each(|waiting| waiting.is_sent.store(false, Ordering::Relaxed));
            }
            match sent {
                Ok(BatchAnswer { answers, written }) => {
                    sent_again = 0;
                    self.state.lock().back_off.worked();
                    // First the tail, then the callers: a client that reads after the answer finds the message on its way.
                    self.shared.tail.committed(written, &wanted);
                    locked.extend(self.answer_all(batch, answers));
                }
                Err(BatchError::SendAgain(_)) if sent_again < SEND_AGAIN_MAX => {
                    sent_again += 1;
                    open.push_front(batch);
                }
                Err(BatchError::Refused(_) | BatchError::SendAgain(_)) if batch.len() > 1 => {
                    sent_again = 0;
                    open = each_alone(batch, open);
                }
                Err(BatchError::Refused(message)) => {
                    sent_again = 0;
                    answer_each(batch, |_| AppendError::Refused { message: message.clone() });
                }
                Err(BatchError::LockTimeout) if awaited.is_empty() => {
                    locked.extend(batch.into_iter().map(Locked::by_any));
                }
                Err(BatchError::SendAgain(reason)) => {
                    sent_again = 0;
                    answer_each(batch, |_| AppendError::Contended { reason: reason.clone() });
                }
                Err(BatchError::LockTimeout) => {
                    sent_again = 0;
                    holders = lock_holders(&self.shared, awaited[0], Some(&session.backend())).await;
                    if holders.is_empty() && batch.len() > 1 {
                        // It was not for the category that they waited, but for what one of them alone needs: a message
                        // id that an open transaction of another category has written.
                        open = each_alone(batch, open);
                    } else {
                        tell_locked(batch, awaited[0], &holders, &self.shared);
                    }
                }
                // A right may be missing for one of them only: row-level security decides by message.
                Err(BatchError::NotWritten(error)) if batch.len() > 1 && !error.may_pass() => {
                    open = each_alone(batch, open);
                }
                Err(BatchError::NotWritten(error)) => {
                    let answer = not_written(&error);
                    if error.is_unavailable() {
                        self.pause(Some(&session), error);
                    } else {
                        self.state.lock().back_off.failed(&error);
                    }
                    answer_each(batch, |_| answer.clone());
                }
                Err(BatchError::InDoubt(error)) => {
                    self.lost(Some(&session), &StoreError::Unavailable(error));
                    resolve_in_background(self.shared.clone(), batch, session.backend());
                }
            }
        }
        Unwritten { locked, holders }
    }

    /// The batch in a trace of its own, and the requests in it that are traced, linked with each other.
    fn open_span(&self, batch: &mut [PendingAppend]) -> Option<OpenSpan> {
        let traced: Vec<SpanRef> = batch.iter().filter_map(|waiting| Some(waiting.span.as_ref()?.span.own)).collect();
        if traced.is_empty() {
            return None;
        }
        let mut open = self.shared.observer.open(|| Span::root("batch"))?;
        open.span.links = traced;
        open.span.facts.push(("headwater.requests", batch.len() as i64));
        let messages: usize = batch.iter().map(|waiting| waiting.request.message_count()).sum();
        open.span.facts.push(("headwater.messages", messages as i64));
        for waiting in batch.iter_mut() {
            if let Some(request) = &mut waiting.span {
                request.span.links.push(open.span.own);
            }
        }
        Some(open)
    }

    async fn send(
        &self,
        session: &dyn Session,
        requests: &[&AppendRequest],
        wanted: Option<&[bool]>,
        awaited: &[&str],
    ) -> Result<BatchAnswer, BatchError> {
        let limit = self.shared.settings.commit_timeout + self.lock_timeout;
        let begun = Instant::now();
        let writing = session.append_batch(requests, wanted, awaited);
        let result = match tokio::time::timeout(limit, writing).await {
            Ok(result) => result,
            Err(_) => Err(BatchError::InDoubt("the commit took too long".into())),
        };
        match &result {
            Ok(answer) => {
                let messages = answer.written.positions.len();
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

    /// The open session, made if there is none.
    async fn connected(&self) -> Result<Arc<dyn Session>, StoreError> {
        let _turn = self.connecting.lock().await;
        // Its end may have come while nobody waited for anything.
        poll_fn(|context| {
            self.poll_drive(context);
            Poll::Ready(())
        })
        .await;
        {
            let mut state = self.state.lock();
            if let Some(session) = state.open.as_ref().filter(|session| !session.is_closed()) {
                return Ok(session.clone());
            }
            state.open = None;
            if let Some((until, reason)) = &state.paused
                && Instant::now() < *until
            {
                return Err(reason.clone());
            }
        }
        let (session, connection) = self.shared.database.open(self.lock_timeout).await?;
        *self.connection.lock() = Some(connection);
        let mut state = self.state.lock();
        state.paused = None;
        state.open = Some(session.clone());
        Ok(session)
    }

    /// A session was lost, or could not be made: gives the time to wait. `None`: another one was made since, and stays.
    fn lost(&self, session: Option<&Arc<dyn Session>>, error: &StoreError) -> Option<Duration> {
        let mut state = self.state.lock();
        if let (Some(lost), Some(open)) = (session, &state.open) {
            if !Arc::ptr_eq(lost, open) {
                return None;
            }
            state.open = None;
            *self.connection.lock() = None;
        }
        if !state.back_off.has_failed() {
            self.shared.database.forget_connections();
        }
        Some(state.back_off.failed(error))
    }

    /// The same where the database does not take writes now. That one connection was lost is no sign of that.
    fn pause(&self, session: Option<&Arc<dyn Session>>, error: StoreError) {
        {
            let state = self.state.lock();
            // A request refused during the pause does not prolong it, or under load it would never end.
            if state.paused.as_ref().is_some_and(|(until, _)| Instant::now() < *until) {
                return;
            }
        }
        if let Some(pause) = self.lost(session, &error) {
            self.state.lock().paused = Some((Instant::now() + pause, error));
        }
    }

    fn answer_all(&self, batch: Vec<PendingAppend>, answers: Vec<Answer>) -> Vec<Locked> {
        let (mut appended, mut duplicates, mut conflicts) = (0, 0, 0);
        let mut locked = Vec::new();
        for (waiting, outcome) in batch.into_iter().zip(answers) {
            match outcome {
                Answer::Done(result) => {
                    match &result {
                        Ok(done) if done.duplicate => duplicates += 1,
                        Ok(_) => appended += 1,
                        Err(_) => conflicts += 1,
                    }
                    self::answer(waiting, result);
                }
                Answer::Locked { category } => locked.push(Locked { category, waiting }),
                // The task that enqueued it looks.
                Answer::LookFirst => self::answer(waiting, Err(AppendError::ConditionContended)),
            }
        }
        self.shared.observer.record(Observation::AppendsAnswered { appended, duplicates, conflicts });
        locked
    }
}

/// A commit whose answer was lost is looked up by its message ids; nobody waits for it but those it concerns.
fn resolve_in_background(shared: Shared, batch: Vec<PendingAppend>, backend: Backend) {
    tokio::spawn(async move {
        let requests: Vec<&AppendRequest> = batch.iter().map(|waiting| &*waiting.request).collect();
        let mut back_off = BackOff::new("commits in doubt", shared.observer.clone()).at_most(PAUSE_MAX);
        let looking = async {
            loop {
                let attempt = shared.database.resolve_commit(&backend, &requests);
                match tokio::time::timeout(RESOLVE_ATTEMPT_TIMEOUT, attempt).await {
                    Ok(Ok(found)) => return found,
                    Ok(Err(error)) => tokio::time::sleep(back_off.failed(&error)).await,
                    Err(_) => shared.database.forget_connections(),
                }
            }
        };
        match tokio::time::timeout(shared.settings.resolve_timeout, looking).await {
            Ok(found) => {
                let written = found.iter().filter(|found| matches!(found, Some(Ok(_)))).count();
                let not_written = found.len() - written;
                shared.observer.record(Observation::CommitResolved { written, not_written });
                shared.tail.hint();
                for (waiting, found) in batch.into_iter().zip(found) {
                    answer(waiting, found.unwrap_or(Err(AppendError::DatabaseUnavailable)));
                }
            }
            Err(_) => answer_each(batch, PendingAppend::outcome_unknown),
        }
    });
}

/// What callers are told whose messages were not written, whatever they were.
fn not_written(error: &StoreError) -> AppendError {
    if error.may_pass() { AppendError::DatabaseUnavailable } else { AppendError::WriteRefused }
}

pub fn answer(mut waiting: PendingAppend, result: Result<Appended, AppendError>) {
    if let Some(reply) = waiting.reply.take() {
        // The caller may have gone; the messages are written all the same.
        let _ = reply.send(result);
    }
}

pub fn answer_each(batch: Vec<PendingAppend>, error: impl Fn(&PendingAppend) -> AppendError) {
    for waiting in batch {
        let error = error(&waiting);
        answer(waiting, Err(error));
    }
}

/// Answers requests that have waited for a category's lock as long as they may.
pub async fn answer_locked(batch: Vec<PendingAppend>, category: &str, shared: &Shared) {
    if !batch.is_empty() {
        let holders = lock_holders(shared, category, None).await;
        tell_locked(batch, category, &holders, shared);
    }
}

/// The same where those that hold the lock are known.
pub fn tell_locked(batch: Vec<PendingAppend>, category: &str, holders: &[LockHolder], shared: &Shared) {
    if batch.is_empty() {
        return;
    }
    let (requests, category, holders) = (batch.len(), category.to_owned(), holders.to_vec());
    answer_each(batch, |_| AppendError::Locked { category: category.clone(), holders: holders.clone() });
    shared.observer.record(Observation::AppendsLocked { requests, category, holders });
}

/// Those that hold a category's lock, as far as that can be found out soon: it is not worth another wait.
async fn lock_holders(shared: &Shared, category: &str, waited: Option<&Backend>) -> Vec<LockHolder> {
    let looking = tokio::time::timeout(HOLDERS_TIMEOUT, shared.database.lock_holders(category, waited));
    looking.await.ok().and_then(Result::ok).unwrap_or_default()
}

/// One of a batch spoils it: each is sent by itself, so that only that one fails.
fn each_alone(batch: Vec<PendingAppend>, then: VecDeque<Vec<PendingAppend>>) -> VecDeque<Vec<PendingAppend>> {
    batch.into_iter().map(|waiting| vec![waiting]).chain(then).collect()
}
