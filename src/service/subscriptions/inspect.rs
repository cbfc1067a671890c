//! What there is to see of a subscription: how far it is, who consumes it, what is pending and what is parked.

use std::time::Duration;

use super::catalog::{Subscription, unusable_filter};
use super::{SubscriptionError, Subscriptions};
use crate::domain::delivery::Policy;
use crate::domain::observation::Observation;
use crate::domain::subscription::{Definition, SubscriptionSource};
use crate::store::StoreError;
use crate::store::subscriptions::{
    At, ConsumerInfo, Lag, ParkedMessage, PartitionLag, PendingDelivery, PendingSummary, State, StoredSubscription,
    Take,
};

use super::competing::Again;
use super::consumer::Wish;

/// Between two looks of who waits for a position to be acked.
const LOOK_PAUSE: Duration = Duration::from_millis(25);

/// A subscription as it stands.
#[derive(Debug)]
pub struct Status {
    pub stored: StoredSubscription,
    pub definition: Definition,
    pub consumers: Vec<ConsumerInfo>,
    pub lag: Lag,
}

impl Subscriptions {
    pub async fn status(&self, name: &str) -> Result<Status, SubscriptionError> {
        let (mut stored, definition) = self.stored_definition(name).await?;
        if let (State::Running, Err(error)) = (stored.state, definition.expression()) {
            // As its first consumer would do it.
            self.stop_for_filter(stored.id, &unusable_filter(&error)).await?;
            stored = self.stored_definition(name).await?.0;
        }
        // What is committed by now counts, also what nobody was told of.
        let settled = self.inner.tail.refresh().await;
        let lag = self.lag(stored.id, settled).await?;
        let consumers = self.database().subscription_consumers(stored.id).await?;
        Ok(Status { stored, definition, consumers, lag })
    }

    /// Waits until everything up to a position is acked, at most that long; then as [`status`](Self::status).
    pub async fn status_at(&self, name: &str, position: i64, wait: Duration) -> Result<Status, SubscriptionError> {
        let deadline = tokio::time::Instant::now() + wait;
        let subscription = self.find(name).await?;
        let local = self.inner.hub.local(subscription.id);
        let mut wake = local.waker();
        while !self.has_acked(&subscription, position).await? && tokio::time::Instant::now() < deadline {
            tokio::select! {
                _ = wake.changed() => tokio::time::sleep(LOOK_PAUSE).await,
                () = tokio::time::sleep(self.inner.settings.poll_interval) => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.inner.draining.cancelled() => break,
            }
        }
        self.status(name).await
    }

    /// Whether everything up to a position is acked. Of an aggregated stream: in every partition that has that position,
    /// and there is one.
    async fn has_acked(&self, subscription: &Subscription, position: i64) -> Result<bool, StoreError> {
        let settled = self.inner.tail.refresh().await;
        let acked = |one: &PartitionLag| one.low_water >= position;
        if let Some(id) = subscription.aggregated.as_ref().map(|aggregated| aggregated.id) {
            let counts = self.database().aggregated_partitions(id).await?;
            let partitions = self.database().subscription_lag(subscription.id, settled).await?.partitions;
            let mut having = counts.iter().filter(|one| one.message_count > position).peekable();
            let is_somewhere = having.peek().is_some();
            return Ok(is_somewhere
                && having.all(|one| partitions.iter().any(|lag| lag.partition == one.partition && acked(lag))));
        }
        if matches!(subscription.definition.source, SubscriptionSource::Stream(_)) {
            // All its messages are in one partition.
            let partitions = self.database().subscription_lag(subscription.id, settled).await?.partitions;
            return Ok(partitions.iter().any(acked));
        }
        let lag = self.lag(subscription.id, settled.min(position)).await?;
        Ok(settled >= position
            && lag.is_exact
            && lag.partitions.iter().all(|one| one.undelivered == 0 && (one.in_flight == 0 || acked(one))))
    }

    /// Stops a subscription whose filter cannot be had.
    pub(super) async fn stop_for_filter(&self, id: i64, reason: &str) -> Result<(), StoreError> {
        if self.database().stop_subscription(id, "filter", reason).await? {
            let reason = reason.to_owned();
            self.inner.observer.record(Observation::SubscriptionStopped { subscription: id, reason });
        }
        Ok(())
    }

    pub async fn consumers(&self, name: &str) -> Result<Vec<ConsumerInfo>, SubscriptionError> {
        let id = self.standing_id(name).await?;
        Ok(self.database().subscription_consumers(id).await?)
    }

    /// Sends a consumer away; answers whether it was there.
    pub async fn remove_consumer(&self, name: &str, consumer: &str) -> Result<bool, SubscriptionError> {
        let id = self.standing_id(name).await?;
        self.inner.presence.forget(id, consumer);
        let was_there = self.database().remove_consumer(id, consumer, self.grace_ms()).await?;
        self.inner.hub.wake(id);
        Ok(was_there)
    }

    /// In order, after a place.
    pub async fn pending(
        &self,
        name: &str,
        consumer: Option<&str>,
        min_idle_ms: i64,
        after: At,
        limit: usize,
    ) -> Result<Vec<PendingDelivery>, SubscriptionError> {
        let id = self.standing_id(name).await?;
        Ok(self.database().pending_deliveries(id, consumer, min_idle_ms, after, limit as i64).await?)
    }

    pub async fn pending_summary(&self, name: &str) -> Result<Vec<PendingSummary>, SubscriptionError> {
        let id = self.standing_id(name).await?;
        Ok(self.database().pending_summary(id).await?)
    }

    /// In order, after a place.
    pub async fn parked(&self, name: &str, after: At, limit: usize) -> Result<Vec<ParkedMessage>, SubscriptionError> {
        let id = self.standing_id(name).await?;
        Ok(self.database().parked_messages(id, after, limit as i64).await?)
    }

    /// Delivers parked messages again: these, or all. Answers how many there were.
    pub async fn replay(&self, name: &str, which: Option<&[At]>) -> Result<i64, SubscriptionError> {
        let id = self.standing_id(name).await?;
        let count = self.database().replay_parked(id, which).await?;
        self.inner.hub.wake(id);
        Ok(count)
    }

    /// Answers whether there was one.
    pub async fn delete_parked(&self, name: &str, at: At) -> Result<bool, SubscriptionError> {
        let id = self.standing_id(name).await?;
        Ok(self.database().delete_parked(id, at).await?)
    }

    /// Takes over messages that others have left alone for so long, after a place; some positions, or all.
    pub async fn claim(
        &self,
        name: &str,
        consumer: &str,
        min_idle_ms: i64,
        after: At,
        positions: Option<&[At]>,
        wish: Wish,
    ) -> Result<Again, SubscriptionError> {
        let subscription = self.find(name).await?;
        let mut claimant = self.visit(subscription, consumer, false).await?;
        let take = Take::Idle { min_idle_ms, after, positions };
        if !claimant.may_deliver(State::Running).await? {
            return Ok(Again::default());
        }
        let epoch = self.database().next_delivery_epoch().await?;
        let mut taken = claimant.take_again(wish.limit(wish.messages), take, epoch).await?;
        claimant.doubts.clear();
        taken.deliveries.sort_by_key(|one| (one.partition, one.position));
        self.inner.hub.wake(claimant.subscription().id);
        Ok(taken)
    }

    async fn standing_id(&self, name: &str) -> Result<i64, SubscriptionError> {
        // Not as it was known last: whoever looks wants to know that it is gone.
        Ok(self.inner.catalog.reload(name).await?.id)
    }
}

impl Subscription {
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}
