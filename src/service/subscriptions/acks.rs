//! Acks: requests that wait at the same moment share one transaction, as appends do.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::catalog::Subscription;
use super::lease_keeper::LeaseKeeper;
use super::{Common, SubscriptionError};
use crate::domain::append::AppendAck;
use crate::domain::delivery::{NackAction, Policy};
use crate::domain::observation::Observation;
use crate::domain::scope::Rights;
use crate::store::StoreError;
use crate::store::subscriptions::{AckEntry, AckOutcome, At, StepEntry};

/// How many entries share a transaction (one request alone may have more).
const ENTRIES_MAX: usize = 10_000;
/// Attempts at a transaction that PostgreSQL rolls back because of another one.
const ATTEMPTS_MAX: usize = 3;

/// Deliveries that a consumer acks, or wants more time for.
pub struct AckRequest {
    pub consumer: String,
    pub entries: Vec<(At, i64)>,
}

/// A delivery that a consumer refuses, and what it asks for instead.
pub struct NackEntry {
    pub at: At,
    pub epoch: i64,
    pub action: NackAction,
    pub reason: Option<String>,
}

/// What came of a request, entry by entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AckCounts {
    pub done: usize,
    pub fenced: usize,
    pub missing: usize,
    /// Acked by what was done.
    messages: u64,
    first_fenced: Option<Fenced>,
}

impl AckCounts {
    /// A request of which nothing was done because of a fence has failed; otherwise the counts tell what was fenced.
    fn unless_fenced(self) -> Result<Self, SubscriptionError> {
        match self.first_fenced {
            Some(first) if self.done == 0 => Err(SubscriptionError::Fenced { first, counts: self }),
            _ => Ok(self),
        }
    }
}

/// An entry whose lease or delivery the consumer has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    pub partition: i32,
    pub epoch: i64,
    pub current_epoch: i64,
}

/// Takes acks, nacks and extensions of deliveries.
pub struct Acks {
    common: Arc<Common>,
    lease_keeper: Arc<LeaseKeeper>,
    queue: mpsc::Sender<PendingAck>,
}

/// A request that waits, and where its outcomes go.
pub(super) struct PendingAck {
    work: Work,
    reply: oneshot::Sender<Result<Vec<AckOutcome>, StoreError>>,
}

enum Work {
    /// All entries are of a partitioned subscription, or all of competing ones.
    Ack {
        is_partitioned: bool,
        entries: Vec<AckEntry>,
    },
    Nack {
        policy: Policy,
        entries: Vec<(AckEntry, NackAction, Option<String>)>,
    },
}

impl Work {
    fn len(&self) -> usize {
        match self {
            Work::Ack { entries, .. } => entries.len(),
            Work::Nack { entries, .. } => entries.len(),
        }
    }
}

impl Acks {
    /// The acks, and the agent that commits them.
    pub(super) fn new(common: Arc<Common>, lease_keeper: Arc<LeaseKeeper>) -> (Self, AckCommitter) {
        let (queue, requests) = mpsc::channel(common.settings.ack_queue_max);
        let committer = AckCommitter { common: common.clone(), requests };
        (Self { common, lease_keeper, queue }, committer)
    }

    /// Acks deliveries of one consumer.
    pub async fn ack(&self, name: &str, request: AckRequest, rights: &Rights) -> Result<AckCounts, SubscriptionError> {
        let subscription = self.common.find(name, rights).await?;
        let is_known_here = self.touch(&subscription, &request.consumer);
        let entries = self.entries(&subscription, &request.consumer, &request.entries);
        let is_partitioned = subscription.definition.is_partitioned();
        let outcomes = self.submit(Work::Ack { is_partitioned, entries }).await?;
        let counts = count(&request.entries, &outcomes);
        self.lease_keeper.acked(subscription.id, &request.consumer, counts.messages);
        self.common.observer.record(Observation::DeliveriesAcked { acked: counts.done, fenced: counts.fenced });
        self.made_room(subscription.id, is_known_here, counts.done);
        counts.unless_fenced()
    }

    /// Finds the subscription of an ack that is committed with an append, and renews the consumer's lease.
    pub async fn find(&self, ack: &mut AppendAck, rights: &Rights) -> Result<(), SubscriptionError> {
        let subscription = self.common.find(&ack.name, rights).await?;
        self.touch(&subscription, &ack.consumer);
        ack.subscription = Some(subscription.id);
        ack.is_partitioned = subscription.definition.is_partitioned();
        Ok(())
    }

    /// Such an ack was committed, or was fenced.
    pub fn committed(&self, ack: &AppendAck, acked: usize, fenced: usize) {
        self.common.observer.record(Observation::DeliveriesAcked { acked, fenced });
        if let Some(subscription) = ack.subscription {
            self.lease_keeper.acked(subscription, &ack.consumer, acked as u64);
            let is_known_here = self.lease_keeper.knows(subscription, &ack.consumer);
            self.made_room(subscription, is_known_here, acked);
        }
    }

    /// Refuses deliveries of one consumer.
    pub async fn nack(
        &self,
        name: &str,
        consumer: &str,
        nacks: Vec<NackEntry>,
        rights: &Rights,
    ) -> Result<AckCounts, SubscriptionError> {
        let subscription = self.common.find(name, rights).await?;
        self.touch(&subscription, consumer);
        let places: Vec<(At, i64)> = nacks.iter().map(|nack| (nack.at, nack.epoch)).collect();
        let entries = self.entries(&subscription, consumer, &places);
        let entries = entries.into_iter().zip(nacks).map(|(entry, nack)| (entry, nack.action, nack.reason)).collect();
        let outcomes = self.submit(Work::Nack { policy: subscription.policy.clone(), entries }).await?;
        let counts = count(&places, &outcomes);
        if counts.done > 0 {
            // Other consumers may get these messages next.
            self.common.wakers.wake(subscription.id);
            self.common.signals.room(subscription.id);
        }
        counts.unless_fenced()
    }

    /// Gives one consumer more time for deliveries: `timeout_ms` from now on, or else the subscription's `ack_timeout`.
    pub async fn extend(
        &self,
        name: &str,
        request: AckRequest,
        timeout_ms: Option<i64>,
        rights: &Rights,
    ) -> Result<AckCounts, SubscriptionError> {
        let subscription = self.common.find(name, rights).await?;
        self.touch(&subscription, &request.consumer);
        let entries = self.entries(&subscription, &request.consumer, &request.entries);
        let entries: Vec<&AckEntry> = entries.iter().collect();
        let timeout_ms = timeout_ms.unwrap_or(subscription.definition.settings.ack_timeout_ms);
        let database = &self.common.database;
        let outcomes =
            database.subscriptions().extend(subscription.id, &request.consumer, &entries, timeout_ms).await?;
        // The times that the consumers here wait for have changed.
        self.common.wakers.wake(subscription.id);
        count(&request.entries, &outcomes).unless_fenced()
    }

    /// A consumer that acks is alive: its lease is renewed. Answers whether it takes its messages on this instance.
    fn touch(&self, subscription: &Subscription, consumer: &str) -> bool {
        let lease_keeper = &self.lease_keeper;
        let is_known_here = lease_keeper.knows(subscription.id, consumer);
        lease_keeper.renew_soon(subscription.id, consumer, subscription.consumer_timeout());
        is_known_here
    }

    fn entries(&self, subscription: &Subscription, consumer: &str, places: &[(At, i64)]) -> Vec<AckEntry> {
        let entry = |&(at, epoch): &(At, i64)| AckEntry {
            subscription: subscription.id,
            consumer: consumer.to_owned(),
            at,
            epoch,
        };
        places.iter().map(entry).collect()
    }

    async fn submit(&self, work: Work) -> Result<Vec<AckOutcome>, SubscriptionError> {
        if self.common.draining.is_cancelled() {
            return Err(SubscriptionError::Draining);
        }
        let (reply, answer) = oneshot::channel();
        if self.queue.try_send(PendingAck { work, reply }).is_err() {
            return Err(SubscriptionError::Overloaded);
        }
        // The committer answers everything it has taken, and ends only when the service stops.
        Ok(answer.await.map_err(|_| SubscriptionError::Draining)??)
    }

    fn made_room(&self, subscription: i64, is_known_here: bool, acked: usize) {
        if acked == 0 {
            return;
        }
        self.common.wakers.wake(subscription);
        if !is_known_here {
            self.common.signals.room(subscription);
        }
    }
}

fn count(entries: &[(At, i64)], outcomes: &[AckOutcome]) -> AckCounts {
    let mut counts = AckCounts::default();
    for ((at, epoch), outcome) in entries.iter().zip(outcomes) {
        match outcome {
            AckOutcome::Done { messages } => {
                counts.done += 1;
                counts.messages += messages.unsigned_abs();
            }
            AckOutcome::Missing => counts.missing += 1,
            AckOutcome::Fenced { current_epoch } => {
                counts.fenced += 1;
                counts.first_fenced.get_or_insert(Fenced {
                    partition: at.partition,
                    epoch: *epoch,
                    current_epoch: *current_epoch,
                });
            }
        }
    }
    counts
}

/// The agent that commits the requests that wait.
pub(super) struct AckCommitter {
    common: Arc<Common>,
    requests: mpsc::Receiver<PendingAck>,
}

impl AckCommitter {
    /// Runs until the service stops; requests that wait then are still committed.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            let first = tokio::select! {
                waiting = self.requests.recv() => waiting,
                () = stopping.cancelled(), if !self.requests.is_closed() => {
                    self.requests.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut entries = first.work.len();
            let mut batch = vec![first];
            while entries < ENTRIES_MAX
                && let Ok(next) = self.requests.try_recv()
            {
                entries += next.work.len();
                batch.push(next);
            }
            self.commit(batch).await;
        }
    }

    /// At most one transaction for each kind.
    async fn commit(&self, batch: Vec<PendingAck>) {
        let requests = batch.len();
        let (mut up_to, mut each, mut nacks) = (Vec::new(), Vec::new(), Vec::new());
        for waiting in batch {
            match &waiting.work {
                Work::Ack { is_partitioned: true, .. } => up_to.push(waiting),
                Work::Ack { is_partitioned: false, .. } => each.push(waiting),
                Work::Nack { .. } => nacks.push(waiting),
            }
        }
        let began = std::time::Instant::now();
        tokio::join!(self.ack(up_to, true), self.ack(each, false), self.nack(nacks));
        let observer = &self.common.observer;
        observer.record(Observation::AcksCommitted { requests, took: began.elapsed() });
    }

    async fn ack(&self, batch: Vec<PendingAck>, is_partitioned: bool) {
        let entries: Vec<&AckEntry> = batch
            .iter()
            .filter_map(|waiting| match &waiting.work {
                Work::Ack { entries, .. } => Some(entries),
                Work::Nack { .. } => None,
            })
            .flatten()
            .collect();
        if entries.is_empty() {
            return answer(batch, Ok(Vec::new()));
        }
        let database = &self.common.database;
        let mut attempts = 0;
        let outcomes = loop {
            let outcomes = match is_partitioned {
                true => database.subscriptions().ack_up_to(&entries).await,
                false => database.subscriptions().ack_each(&entries).await,
            };
            if !may_try_again(&outcomes, &mut attempts) {
                break outcomes;
            }
        };
        answer(batch, outcomes);
    }

    async fn nack(&self, batch: Vec<PendingAck>) {
        if batch.is_empty() {
            return;
        }
        let outcomes = self.try_nacks(&batch).await;
        if batch.len() == 1 || !matches!(outcomes, Err(StoreError::Refused { .. })) {
            return answer(batch, outcomes);
        }
        // One request that PostgreSQL refuses does not fail the others.
        for waiting in batch {
            let outcomes = self.try_nacks(std::slice::from_ref(&waiting)).await;
            answer(vec![waiting], outcomes);
        }
    }

    async fn try_nacks(&self, batch: &[PendingAck]) -> Result<Vec<AckOutcome>, StoreError> {
        let mut attempts = 0;
        loop {
            let outcomes = self.decide_and_step(batch).await;
            if !may_try_again(&outcomes, &mut attempts) {
                return outcomes;
            }
        }
    }

    /// Lets the policy decide what becomes of each delivery, by how often it has failed, and carries that out.
    async fn decide_and_step(&self, batch: &[PendingAck]) -> Result<Vec<AckOutcome>, StoreError> {
        let database = &self.common.database;
        let nacks: Vec<(&Policy, &AckEntry, NackAction, &Option<String>)> = batch
            .iter()
            .filter_map(|waiting| match &waiting.work {
                Work::Nack { policy, entries } => {
                    Some(entries.iter().map(move |(e, action, why)| (policy, e, *action, why)))
                }
                Work::Ack { .. } => None,
            })
            .flatten()
            .collect();
        let entries: Vec<&AckEntry> = nacks.iter().map(|(_, entry, ..)| *entry).collect();
        let attempts = database.subscriptions().delivery_attempts(&entries).await?;
        let steps: Vec<StepEntry> = nacks
            .into_iter()
            .zip(attempts)
            .map(|((policy, entry, action, reason), attempts)| {
                // If there is no such delivery, the outcome of the step says why.
                let (step, cause) = policy.on_nack(action, attempts.unwrap_or_default());
                StepEntry { entry: entry.clone(), step, cause, reason: reason.clone() }
            })
            .collect();
        database.subscriptions().step(&steps).await
    }
}

/// Codes of class 40 (deadlocks, serialization failures) are caused by another transaction.
fn may_try_again<T>(outcome: &Result<T, StoreError>, attempts: &mut usize) -> bool {
    *attempts += 1;
    *attempts < ATTEMPTS_MAX && matches!(outcome, Err(StoreError::Refused { code, .. }) if code.starts_with("40"))
}

/// Hands the outcomes of all entries, which are in order, to the requests that they belong to.
fn answer(batch: Vec<PendingAck>, outcomes: Result<Vec<AckOutcome>, StoreError>) {
    let mut outcomes = outcomes.map(Vec::into_iter);
    for waiting in batch {
        let count = waiting.work.len();
        let own = match &mut outcomes {
            Ok(all) => Ok(all.by_ref().take(count).collect()),
            Err(error) => Err(error.clone()),
        };
        // The caller may have gone; what was committed stays so.
        let _ = waiting.reply.send(own);
    }
}
