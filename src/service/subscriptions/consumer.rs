//! A consumer of a subscription. An event stream and a fetch both drive one: they take rounds, and wait between them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::catalog::Subscription;
use super::consumers::Consumers;
use super::wakers::SubscriptionState;
use super::{Common, SubscriptionError};
use crate::domain::closing::{ClosingReason, RevokedReason};
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::service::log::cursor::{BATCH, Cursor, Next};
use crate::service::log::{Entry, Log, Place, Trimmed};
use crate::store::StoreError;
use crate::store::read::PageLimit;
use crate::store::subscriptions::{Assignments, At, ConsumerStatus, Doubt, Held, Joined, State};

/// A message on its way to a consumer.
#[derive(Debug)]
pub struct Delivery {
    pub partition: i32,
    pub position: i64,
    pub epoch: i64,
    pub delivery_count: i64,
    pub message: Arc<Message>,
}

/// What changes in what a consumer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignmentChange {
    /// Everything up to `position` is acked.
    Assigned {
        partition: i32,
        epoch: i64,
        position: i64,
    },
    Revoked {
        partition: i32,
        reason: RevokedReason,
    },
}

/// What a consumer gets from one round.
#[derive(Debug, Default)]
pub struct DeliveryRound {
    pub changes: Vec<AssignmentChange>,
    /// Messages that were trimmed, and passed over.
    pub trimmed: Option<Trimmed>,
    pub deliveries: Vec<Delivery>,
    /// There is nothing more to be delivered at this moment.
    pub is_caught_up: bool,
    /// Why the consumer gets nothing more.
    pub end: Option<ClosingReason>,
    /// How long until the next round is due, if nothing wakes the consumer before.
    pub next: Option<Duration>,
}

/// How long a consumer without credit waits at most: the signal that another instance has committed its acks may be lost.
/// So long waits one whose messages another transaction holds, too.
const ROOM_POLL: Duration = Duration::from_secs(1);

impl DeliveryRound {
    pub(super) fn wait_for_room(&mut self) {
        self.next = Some(self.next.map_or(ROOM_POLL, |next| next.min(ROOM_POLL)));
    }
}

/// How much a consumer takes in one round.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryRequest {
    pub messages: usize,
    pub bytes: usize,
    /// How many messages it may have without having acked them; the subscription's own limit holds too.
    pub in_flight_max: i64,
}

impl DeliveryRequest {
    /// A limit of that many messages, and of the bytes that were asked for.
    pub(super) fn limit(self, messages: usize) -> PageLimit {
        PageLimit { messages: messages as i64, bytes: self.bytes }
    }
}

/// A consumer that takes messages on this instance: for as long as its event stream is open, or for one fetch.
pub struct Consumer {
    pub(super) consumers: Arc<Consumers>,
    pub(super) subscription: Arc<Subscription>,
    pub(super) name: String,
    /// Names the connection of a consumer that holds one open; `None` for one that fetches.
    pub(super) session: Option<Uuid>,
    pub(super) shared: Arc<SubscriptionState>,
    /// After a new connection of a competing consumer: its own messages come first, from this place on; `None`: it has
    /// had them.
    pub(super) backlog_after: Option<At>,
    /// Whether a fetch begins with what the consumer was given and has not acked.
    pub(super) wants_given: bool,
    /// What the consumer may have been given by calls whose answers did not arrive.
    pub(super) doubts: Vec<Arc<Doubt>>,
    /// The partitions that the consumer was told it holds, with their epochs; `true`: it was told that they will go.
    known: HashMap<i32, (i64, bool)>,
    /// Changes to tell the consumer with its next round.
    unreported: Vec<AssignmentChange>,
    wake: watch::Receiver<u64>,
    /// What the subscription consumes; `None`: it was deleted.
    pub(super) source: Option<Log>,
    /// The lease keeper counts this request or connection, and renews the lease.
    is_open: bool,
    /// After a round that has come to the end of the log: which messages would be news.
    watched: Option<Watched>,
    back_off: BackOff,
    /// What the present round passed over because it was trimmed.
    pub(super) trimmed: Mutex<Option<Trimmed>>,
    /// Up to here, trimmed messages were reported.
    pub(super) trimmed_up_to: AtomicI64,
    /// The history of the log that the last round was of, and the number by which the database knows it.
    pub(super) history: u64,
    pub(super) history_number: i64,
    histories: watch::Receiver<u64>,
}

/// The partitions that a consumer holds, and up to where there is nothing for them.
struct Watched {
    partitions: HashSet<i32>,
    cursor: Cursor,
}

impl Consumer {
    /// A consumer that holds a connection open, and is a member until that ends. Its own messages come first.
    pub(super) async fn connect(
        consumers: &Arc<Consumers>,
        subscription: Arc<Subscription>,
        name: &str,
    ) -> Result<Self, SubscriptionError> {
        let mut consumer = Self::new(consumers, subscription, name, Some(Uuid::new_v4()));
        consumer.backlog_after = Some(At::FIRST);
        consumer.join().await?;
        Ok(consumer)
    }

    /// A consumer that fetches, and is a member for `consumer_timeout` after that. `wants_given`: what it was given and has
    /// not acked comes first, because the answer that gave it may not have arrived.
    pub(super) async fn visit(
        consumers: &Arc<Consumers>,
        subscription: Arc<Subscription>,
        name: &str,
        wants_given: bool,
    ) -> Result<Self, SubscriptionError> {
        let is_fresh = consumers.lease_keeper.touch(subscription.id, name, subscription.consumer_timeout());
        let mut consumer = Self::new(consumers, subscription, name, None);
        consumer.wants_given = wants_given;
        if is_fresh {
            consumers.lease_keeper.opened(consumer.subscription.id, name);
            consumer.is_open = true;
        } else {
            consumer.join().await?;
        }
        Ok(consumer)
    }

    fn new(consumers: &Arc<Consumers>, subscription: Arc<Subscription>, name: &str, session: Option<Uuid>) -> Self {
        let Common { tail, wakers, observer, .. } = &*consumers.common;
        let shared = wakers.shared(subscription.id);
        // The topic is joined before the first round, so that no message falls between the two.
        let source = match (&subscription.log, &subscription.aggregated) {
            (Some(log), _) => Some(Log::Messages(tail.join(log))),
            (None, Some(aggregated)) => Some(consumers.common.aggregated.log(aggregated.clone(), false)),
            (None, None) => None,
        };
        if session.is_none()
            && let Some(log) = &subscription.log
        {
            shared.keep_alive(|| tail.join(log));
        }
        let (history, history_number) = tail.log_numbers();
        Self {
            consumers: consumers.clone(),
            name: name.to_owned(),
            session,
            wake: shared.waker(),
            shared,
            backlog_after: None,
            wants_given: false,
            doubts: consumers.doubts.of(subscription.id, name),
            known: HashMap::new(),
            unreported: Vec::new(),
            source,
            is_open: false,
            watched: None,
            back_off: BackOff::new("subscription consumers", observer.clone()),
            trimmed: Mutex::default(),
            trimmed_up_to: AtomicI64::new(-1),
            history,
            history_number,
            histories: tail.histories(),
            subscription,
        }
    }

    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    /// What there is for the consumer now, without waiting. Only a round that answers counts as delivered: of one that
    /// fails or is dropped, what it may have delivered is in doubt.
    pub async fn round(&mut self, request: DeliveryRequest) -> Result<DeliveryRound, SubscriptionError> {
        // A wake-up from here on leads to another round.
        self.wake.borrow_and_update();
        self.watched = None;
        let (history, history_number) = self.consumers.common.tail.log_numbers();
        if history != self.history && self.session.is_some() {
            return Ok(DeliveryRound { end: Some(ClosingReason::HistoryChanged), ..DeliveryRound::default() });
        }
        (self.history, self.history_number) = (history, history_number);
        self.shared.is_in(history);
        self.consumers.doubts.take_back(self.subscription.id, &self.name, &mut self.doubts).await?;
        let mut round = match self.subscription.definition.is_partitioned() {
            true => self.partitioned_round(request).await?,
            false => self.competing_round(request).await?,
        };
        self.back_off.worked();
        self.doubts.clear();
        round.changes = std::mem::take(&mut self.unreported);
        round.trimmed = self.trimmed.get_mut().take();
        if !round.deliveries.is_empty() {
            let messages = round.deliveries.len();
            self.consumers.common.observer.record(Observation::SubscriptionDelivered { messages });
            if self.subscription.definition.settings.is_auto() {
                self.consumers.lease_keeper.acked(self.subscription.id, &self.name, messages as u64);
            }
        }
        Ok(round)
    }

    /// How long to wait after a round that failed in the database. `None`: waiting cannot help.
    pub fn wait_after(&mut self, error: &StoreError) -> Option<Duration> {
        let pause = self.back_off.failed(error);
        error.may_pass().then_some(pause)
    }

    /// Waits until there may be something new, or `next` has passed.
    pub async fn changed(&mut self, next: Option<Duration>) {
        let due = async {
            match next {
                Some(next) => tokio::time::sleep(next).await,
                None => std::future::pending().await,
            }
        };
        let published = async {
            let Some(log) = &mut self.source else { return std::future::pending().await };
            loop {
                log.changed().await;
                if is_news(log, &self.subscription, &mut self.watched) {
                    return;
                }
            }
        };
        tokio::select! {
            () = published => {}
            _ = self.histories.changed() => {}
            // The consumer holds the state that has the sender, so this does not fail.
            _ = self.wake.changed() => {}
            () = due => {}
        }
    }

    /// From here on, only messages of the partitions that the consumer holds are news.
    pub(super) fn watch(&mut self, sync: &Assignments) {
        let is_global = self.subscription.is_keyed()
            || self.subscription.log.as_ref().is_some_and(|log| log.single_stream().is_none());
        let cursor = |held: &Held| self.shared.floor(held.partition, held.read_up_to);
        self.watched = sync.held.iter().map(cursor).max().filter(|_| is_global).map(|after| {
            let partitions = sync.held.iter().map(|held| held.partition).collect();
            Watched {
                partitions,
                cursor: Cursor::new(Place::global(after, self.history), self.subscription.types.clone()),
            }
        });
    }

    /// Notes that between its cursor `base` and `up_to` there is nothing for the partition, unless the log has changed.
    pub(super) fn set_floor(&self, partition: i32, base: i64, up_to: i64) {
        if self.consumers.common.tail.history() == self.history {
            self.shared.set_floor(partition, base, up_to);
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.consumers.lease_keeper.closed(self.subscription.id, &self.name);
        }
    }

    pub(super) async fn join(&mut self) -> Result<(), SubscriptionError> {
        let Consumers { common, lease_keeper, .. } = &*self.consumers;
        let max = common.settings.consumers_max;
        let session = self.session.unwrap_or_else(Uuid::new_v4);
        let (id, is_connected) = (self.subscription.id, self.session.is_some());
        let joined = common
            .database
            .subscriptions()
            .join(id, &self.name, session, is_connected, max as i64, common.grace_ms())
            .await?;
        match joined {
            Joined::Yes => {}
            Joined::Gone => {
                common.catalog.forget(id);
                return Err(SubscriptionError::NotFound { name: self.subscription.name.clone() });
            }
            Joined::Full => return Err(SubscriptionError::TooManyConsumers { max }),
        }
        lease_keeper.joined(id, &self.name, self.session, self.subscription.consumer_timeout());
        lease_keeper.opened(id, &self.name);
        self.is_open = true;
        common.observer.record(Observation::ConsumerJoined);
        Ok(())
    }

    /// Whether the consumer may go on, by what the database has just said of it and of the subscription.
    pub(super) async fn is_member(
        &mut self,
        generation: i64,
        status: ConsumerStatus,
    ) -> Result<Option<ClosingReason>, SubscriptionError> {
        match (status, self.session) {
            (ConsumerStatus::Unknown, Some(_)) => return Ok(Some(self.unless_history(ClosingReason::Removed).await)),
            (ConsumerStatus::Replaced, Some(_)) => return Ok(Some(self.unless_history(ClosingReason::Replaced).await)),
            (ConsumerStatus::Unknown, None) => {
                self.close();
                self.join().await?;
            }
            (ConsumerStatus::Replaced, None) | (ConsumerStatus::Member, _) => {}
        }
        if generation != self.subscription.generation {
            // The subscription may have begun again because the log did: the tail then notices the new history as well.
            self.consumers.common.tail.refresh().await;
            let reloaded = self.consumers.common.catalog.at(&self.subscription.name, generation).await?;
            if reloaded.id != self.subscription.id {
                return Ok(Some(ClosingReason::Deleted));
            }
            self.subscription = reloaded;
            let timeout = self.subscription.consumer_timeout();
            self.consumers.lease_keeper.set_timeout(self.subscription.id, &self.name, timeout);
        }
        Ok(self.subscription.is_source_gone.then_some(ClosingReason::Deleted))
    }

    /// Why a lease is another one's or gone: with the log that it was taken in, if that is gone.
    async fn unless_history(&self, reason: ClosingReason) -> ClosingReason {
        let tail = &self.consumers.common.tail;
        tail.refresh().await;
        if tail.history() == self.history { reason } else { ClosingReason::HistoryChanged }
    }

    /// Whether messages may be delivered. A subscription whose filter does not compile stops: without the filter, every
    /// message would be delivered.
    pub(super) async fn may_deliver(&self, state: State) -> Result<bool, StoreError> {
        let is_running = state == State::Running;
        if let (true, Some(reason)) = (is_running, &self.subscription.unusable) {
            self.consumers.common.stop_for_filter(self.subscription.id, &self.subscription.name, reason).await?;
            return Ok(false);
        }
        Ok(is_running)
    }

    /// The round of a consumer whose subscription was deleted.
    pub(super) fn gone(&self) -> DeliveryRound {
        self.consumers.common.catalog.forget(self.subscription.id);
        DeliveryRound { end: Some(ClosingReason::Deleted), ..DeliveryRound::default() }
    }

    /// Notes how the partitions that the consumer holds differ from those it was told of.
    pub(super) fn note_changes(&mut self, held: &[Held]) {
        let changes = &mut self.unreported;
        let mut lost: Vec<i32> = self.known.keys().copied().collect();
        lost.retain(|partition| !held.iter().any(|held| held.partition == *partition));
        lost.sort_unstable();
        for partition in lost {
            if let Some((_, false)) = self.known.remove(&partition) {
                changes.push(AssignmentChange::Revoked { partition, reason: RevokedReason::Rebalance });
            }
        }
        for one in held {
            let partition = one.partition;
            let before = self.known.get(&partition).copied();
            if let Some((epoch, false)) = before
                && epoch != one.epoch
            {
                changes.push(AssignmentChange::Revoked { partition, reason: RevokedReason::Reset });
            }
            if before.is_none_or(|(epoch, _)| epoch != one.epoch) {
                changes.push(AssignmentChange::Assigned { partition, epoch: one.epoch, position: one.committed });
            }
            let was_reported = before.is_some_and(|(epoch, is_revoked)| epoch == one.epoch && is_revoked);
            if one.is_revoked && !was_reported {
                changes.push(AssignmentChange::Revoked { partition, reason: RevokedReason::Rebalance });
            }
            if !one.is_revoked && was_reported {
                // The partition stays after all.
                changes.push(AssignmentChange::Assigned { partition, epoch: one.epoch, position: one.committed });
            }
            self.known.insert(partition, (one.epoch, one.is_revoked));
        }
    }

    /// When the next round is due.
    pub(super) fn next(next_ms: Option<i64>) -> Option<Duration> {
        // A little later, so that it is due by PostgreSQL's clock too.
        next_ms.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs() + 2))
    }
}

/// Whether the newest messages concern a consumer, as far as memory tells; if it does not tell, they may.
fn is_news(log: &Log, subscription: &Subscription, watched: &mut Option<Watched>) -> bool {
    let Some(Watched { partitions, cursor }) = watched else { return true };
    let concerns =
        |entry: &Entry| subscription.partitions_of(entry).iter().any(|partition| partitions.contains(partition));
    loop {
        match cursor.on_newest(log.newest(cursor.place(), BATCH)) {
            Some(Next::Messages(entries)) if !entries.iter().any(concerns) => {}
            None | Some(Next::Moved) => {}
            Some(Next::CaughtUp | Next::Idle) => return false,
            Some(_) => return true,
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Before the consumer leaves: one that joins under its name has to find the doubts.
        self.consumers.doubts.left(self.subscription.id, &self.name, std::mem::take(&mut self.doubts));
        match self.session {
            Some(session) => self.consumers.lease_keeper.left(self.subscription.id, &self.name, session),
            None => self.close(),
        }
    }
}
