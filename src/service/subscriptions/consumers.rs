//! The consumers that use this instance: some hold an event stream open, others fetch now and then.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::Subscription;
use super::competing::Redelivery;
use super::connection::Connection;
use super::consumer::{Consumer, Delivery, DeliveryRequest};
use super::doubts::Doubts;
use super::lease_keeper::{CountedConsumer, LeaseKeeper};
use super::{Common, SubscriptionError};
use crate::domain::Violation;
use crate::domain::closing::ClosingReason;
use crate::domain::scope::Rights;
use crate::domain::subscription::MAX_IN_FLIGHT_MAX;
use crate::service::long_poll::LongPoll;
use crate::store::read::PageLimit;
use crate::store::subscriptions::{At, State, Take};

/// How often a fetch joins again at once when it learns that its consumer was removed.
const REJOINS_MAX: usize = 3;

/// A consumer asks for messages once.
#[derive(Debug)]
pub struct FetchRequest {
    pub subscription: String,
    pub consumer: String,
    pub messages_max: usize,
    pub bytes_max: usize,
    /// How long to wait for a first message.
    pub wait: Duration,
    /// Whether messages that the consumer was given before and has not acked come first.
    pub backlog: bool,
}

/// A consumer that wants to hold an event stream open.
#[derive(Debug)]
pub struct ConsumeRequest {
    pub subscription: String,
    pub consumer: String,
    /// How many messages it may have without having acked them; the subscription's own limit holds too.
    pub in_flight_max: Option<i64>,
    pub heartbeat: Duration,
}

/// A consumer of a competing subscription takes over messages that other consumers have not acked.
#[derive(Debug)]
pub struct ClaimRequest {
    pub subscription: String,
    pub consumer: String,
    /// How long ago they were delivered, at least.
    pub min_idle_ms: i64,
    pub after: At,
    /// Only messages at these places; `None`: all.
    pub positions: Option<Vec<At>>,
    pub messages_max: usize,
    pub bytes_max: usize,
}

/// All consumers that use this instance.
pub struct Consumers {
    pub(super) common: Arc<Common>,
    pub(super) lease_keeper: Arc<LeaseKeeper>,
    pub(super) doubts: Arc<Doubts>,
}

impl Consumers {
    /// Joins the consumers of a subscription until the connection is dropped.
    pub async fn connect(
        self: &Arc<Self>,
        request: &ConsumeRequest,
        rights: &Rights,
    ) -> Result<Connection, SubscriptionError> {
        let subscription = self.find(&request.subscription, rights).await?;
        let consumer = Consumer::connect(self, subscription, &request.consumer).await?;
        Ok(Connection::new(consumer, request.in_flight_max))
    }

    /// The first messages that there are for a consumer; none if the time is over before.
    pub async fn fetch(
        self: &Arc<Self>,
        request: &FetchRequest,
        rights: &Rights,
    ) -> Result<Vec<Delivery>, SubscriptionError> {
        if self.common.draining.is_cancelled() {
            return Err(SubscriptionError::Draining);
        }
        let poll = LongPoll::new(&self.common.tail, &self.common.draining, request.wait);
        let mut rejoins = 0;
        loop {
            let end = match self.fetch_as_member(request, rights, &poll).await? {
                Ok(deliveries) => return Ok(deliveries),
                Err(end) => end,
            };
            if rejoins < REJOINS_MAX {
                rejoins += 1;
                continue;
            }
            let (name, consumer) = (request.subscription.clone(), request.consumer.clone());
            return Err(match end {
                ClosingReason::Draining => SubscriptionError::Draining,
                ClosingReason::Deleted => SubscriptionError::NotFound { name },
                ClosingReason::Removed
                | ClosingReason::Expired
                | ClosingReason::Replaced
                | ClosingReason::HistoryChanged
                | ClosingReason::InternalError => SubscriptionError::ConsumerRemoved { name, consumer },
            });
        }
    }

    /// A subscription that is to be consumed.
    async fn find(&self, name: &str, rights: &Rights) -> Result<Arc<Subscription>, SubscriptionError> {
        let known = self.common.find(name, rights).await?;
        // It may have been deleted since, and made again with another source.
        let subscription = if known.is_source_gone { self.common.reload(name, rights).await? } else { known };
        match subscription.is_source_gone {
            true => Err(SubscriptionError::SourceDeleted { name: name.into() }),
            false => Ok(subscription),
        }
    }

    /// Fetches once joined: the messages, or why the membership has ended.
    async fn fetch_as_member(
        self: &Arc<Self>,
        request: &FetchRequest,
        rights: &Rights,
        poll: &LongPoll<'_>,
    ) -> Result<Result<Vec<Delivery>, ClosingReason>, SubscriptionError> {
        let subscription = self.find(&request.subscription, rights).await?;
        let mut consumer = match Consumer::visit(self, subscription, &request.consumer, request.backlog).await {
            // The subscription was in the catalog, but was deleted and perhaps made again.
            Err(SubscriptionError::NotFound { .. }) => return Ok(Err(ClosingReason::Deleted)),
            other => other?,
        };
        let request = DeliveryRequest {
            messages: request.messages_max,
            bytes: request.bytes_max,
            in_flight_max: MAX_IN_FLIGHT_MAX,
        };
        let mut is_fresh = false;
        loop {
            let round = consumer.round(request).await?;
            if let Some(end) = round.end {
                return Ok(Err(end));
            }
            // Everything that is committed by now is to be found, so the tail looks once more.
            if round.deliveries.is_empty() && !std::mem::replace(&mut is_fresh, true) {
                self.common.tail.refresh().await;
                continue;
            }
            if !round.deliveries.is_empty() {
                return Ok(Ok(round.deliveries));
            }
            // A round that was cut short goes on, even if the time is over.
            let goes_on = round.next == Some(Duration::ZERO) || poll.wait_for(consumer.changed(round.next)).await;
            if !goes_on {
                return Ok(Ok(Vec::new()));
            }
        }
    }

    /// Takes over messages that other consumers have not acked.
    pub async fn claim(
        self: &Arc<Self>,
        request: &ClaimRequest,
        rights: &Rights,
    ) -> Result<Redelivery, SubscriptionError> {
        let subscription = self.common.find(&request.subscription, rights).await?;
        if subscription.definition.is_partitioned() {
            let rule = "must be a competing subscription: a partition's messages go with its lease";
            return Err(SubscriptionError::Invalid(vec![Violation::new("name", rule)]));
        }
        let mut claimant = Consumer::visit(self, subscription, &request.consumer, false).await?;
        if !claimant.may_deliver(State::Running).await? {
            return Ok(Redelivery::default());
        }
        let id = claimant.subscription().id;
        self.doubts.take_back(id, &request.consumer, &mut claimant.doubts).await?;
        let epoch = self.common.database.subscriptions().next_delivery_epoch().await?;
        let ClaimRequest { min_idle_ms, after, positions, .. } = request;
        let take = Take::Idle { min_idle_ms: *min_idle_ms, after: *after, positions: positions.as_deref() };
        let limit = PageLimit { messages: request.messages_max as i64, bytes: request.bytes_max };
        let mut taken = claimant.take_again(limit, take, epoch).await?;
        claimant.doubts.clear();
        taken.deliveries.sort_by_key(|one| (one.partition, one.position));
        self.common.wakers.wake(id);
        Ok(taken)
    }

    pub async fn list(&self, name: &str, rights: &Rights) -> Result<Vec<CountedConsumer>, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        Ok(self.lease_keeper.consumers(id).await?)
    }

    /// Removes a consumer; answers whether there was one.
    pub async fn remove(&self, name: &str, consumer: &str, rights: &Rights) -> Result<bool, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        self.lease_keeper.forget(id, consumer);
        let was_there =
            self.common.database.subscriptions().remove_consumer(id, consumer, self.common.grace_ms()).await?;
        self.common.wakers.wake(id);
        Ok(was_there)
    }
}
