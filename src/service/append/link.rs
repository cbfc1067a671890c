//! One connection for appends: a batch is sent, judged, and everyone in it answered, whatever happens to the connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Shared, Waiting};
use crate::domain::append::{AppendError, AppendRequest, Appended};
use crate::domain::observation::Observation;
use crate::store::append::{Answer, AppendLink, Backend, BatchAnswer, BatchError};

/// A batch that another transaction's doing rolled back is sent again this often.
const SEND_AGAIN_MAX: usize = 5;
/// After a failed connection, this long every request is told at once that the database is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The longest that one attempt to find out what became of a commit may take: its own connection may fall silent too.
const RESOLVE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to find out what became of a commit.
const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

/// One connection for appends, made again when it is lost.
pub struct Link {
    shared: Shared,
    lock_timeout: Duration,
    open: Option<AppendLink>,
    is_lost: bool,
    retry_at: Option<Instant>,
}

impl Link {
    pub fn new(shared: Shared, lock_timeout: Duration) -> Self {
        Self { shared, lock_timeout, open: None, is_lost: false, retry_at: None }
    }

    /// Writes a batch and answers everyone in it, except for those it gives back: they have to wait for a lock.
    pub async fn write(&mut self, batch: Vec<Waiting>, wait_for_locks: bool) -> Vec<Waiting> {
        let mut open: VecDeque<Vec<Waiting>> = VecDeque::from([batch]);
        let mut locked = Vec::new();
        let mut sent_again = 0;
        while let Some(batch) = open.pop_front() {
            let requests: Vec<&AppendRequest> = batch.iter().map(|waiting| &waiting.request).collect();
            let wanted = self.shared.tail.wants(&requests);
            match self.send(&requests, wanted.messages(), wait_for_locks).await {
                Ok(answer) => {
                    sent_again = 0;
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
                    sent_again = 0;
                    answer_each(batch, || AppendError::Refused { message: message.clone() })
                }
                Err(BatchError::LockTimeout) if !wait_for_locks => locked.extend(batch),
                Err(BatchError::SendAgain(_) | BatchError::LockTimeout) => {
                    sent_again = 0;
                    answer_each(batch, || AppendError::Overloaded)
                }
                Err(BatchError::NotWritten(error)) => {
                    self.lost(error);
                    self.pause();
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
        let limit = self.shared.settings.commit_timeout + self.lock_timeout;
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

    async fn connected(&mut self) -> Result<&mut AppendLink, BatchError> {
        if let Some(link) = &mut self.open
            && link.is_closed().await
        {
            self.open = None;
        }
        if self.open.is_none() {
            if self.retry_at.is_some_and(|at| Instant::now() < at) {
                return Err(BatchError::NotWritten("it was away a moment ago".into()));
            }
            match AppendLink::open(&self.shared.database, self.lock_timeout).await {
                Ok(link) => {
                    self.retry_at = None;
                    if std::mem::take(&mut self.is_lost) {
                        self.shared.observer.record(Observation::DatabaseFound { by: "append" });
                    }
                    self.open = Some(link);
                }
                Err(error) => return Err(BatchError::NotWritten(error.to_string())),
            }
        }
        self.open.as_mut().ok_or_else(|| BatchError::NotWritten("no connection".into()))
    }

    fn lost(&mut self, error: String) {
        self.open = None;
        if !std::mem::replace(&mut self.is_lost, true) {
            self.shared.observer.record(Observation::DatabaseLost { by: "append", error });
            self.shared.database.forget_connections();
        }
    }

    /// The database does not take writes now. That one connection was lost is no sign of that.
    fn pause(&mut self) {
        let now = Instant::now();
        // A request refused during the pause does not prolong it, or under load it would never end.
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
                let attempt = shared.database.resolve_commit(&backend, &requests);
                match tokio::time::timeout(RESOLVE_ATTEMPT_TIMEOUT, attempt).await {
                    Ok(Ok(found)) => return found,
                    Ok(Err(_)) => tokio::time::sleep(RESOLVE_PAUSE).await,
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

pub fn answer(waiting: Waiting, result: Result<Appended, AppendError>) {
    // The caller may have gone; the messages stand all the same.
    let _ = waiting.reply.send(result);
}

pub fn answer_each(batch: Vec<Waiting>, error: impl Fn() -> AppendError) {
    for waiting in batch {
        answer(waiting, Err(error()));
    }
}
