//! What reports show of a subscription: how far it is behind, its consumers, what is pending and what is parked.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::{Subscription, unusable_filter};
use super::lag::Lags;
use super::lease_keeper::{CountedConsumer, LeaseKeeper};
use super::{Common, SubscriptionError};
use crate::domain::scope::Rights;
use crate::domain::subscription::{Definition, SubscriptionSource};
use crate::service::long_poll::LongPoll;
use crate::store::StoreError;
use crate::store::subscriptions::{
    At, Lag, ParkedMessage, PartitionLag, PendingDelivery, PendingSummary, State, StoredSubscription,
};

/// The pause between two looks whether a position is acked.
const LOOK_PAUSE: Duration = Duration::from_millis(25);

/// A subscription as it is now.
#[derive(Debug)]
pub struct Status {
    pub stored: StoredSubscription,
    pub definition: Definition,
    pub consumers: Vec<CountedConsumer>,
    pub lag: Lag,
    /// Messages that were trimmed although they had not been acked.
    pub trimmed: i64,
}

/// Reports on subscriptions, and what is done with dead letters.
pub struct Inspection {
    pub(super) common: Arc<Common>,
    pub(super) lags: Arc<Lags>,
    pub(super) lease_keeper: Arc<LeaseKeeper>,
}

impl Inspection {
    pub async fn status(&self, name: &str, rights: &Rights) -> Result<Status, SubscriptionError> {
        let (mut stored, definition) = self.common.stored(name, rights).await?;
        if let (State::Running, Err(error)) = (stored.state, definition.expression()) {
            // A consumer's next round would stop the subscription; the status should not say that it runs until then.
            self.common.stop_for_filter(stored.id, &stored.name, &unusable_filter(&error)).await?;
            stored = self.common.stored(name, rights).await?.0;
        }
        // Everything that is committed by now counts, so the tail looks once more.
        let settled = self.common.tail.refresh().await;
        self.common.find_partitions(&stored).await?;
        let lag = self.lags.lag(stored.id, settled).await?;
        let consumers = self.lease_keeper.consumers(stored.id).await?;
        let trimmed = self.common.database.subscriptions().trimmed(stored.id).await?;
        Ok(Status { stored, definition, consumers, lag, trimmed })
    }

    /// Waits for at most `wait` until everything up to a position is acked, then answers as [`status`](Self::status).
    pub async fn status_at(
        &self,
        name: &str,
        position: i64,
        wait: Duration,
        rights: &Rights,
    ) -> Result<Status, SubscriptionError> {
        let poll = LongPoll::new(&self.common.tail, &self.common.draining, wait);
        let subscription = self.common.find(name, rights).await?;
        let shared = self.common.wakers.shared(subscription.id);
        let mut wake = shared.waker();
        while !self.has_acked(&subscription, position).await? {
            let news = async {
                tokio::select! {
                    _ = wake.changed() => tokio::time::sleep(LOOK_PAUSE).await,
                    () = tokio::time::sleep(self.common.settings.poll_interval) => {}
                }
            };
            if !poll.wait_for(news).await {
                break;
            }
        }
        self.status(name, rights).await
    }

    /// Whether everything up to a position is acked; of an aggregated stream: in every partition that has that position,
    /// if any has.
    async fn has_acked(&self, subscription: &Subscription, position: i64) -> Result<bool, StoreError> {
        let settled = self.common.tail.refresh().await;
        let acked = |one: &PartitionLag| one.acked_up_to >= position;
        if let Some(id) = subscription.aggregated.as_ref().filter(|one| one.is_keyed).map(|one| one.id) {
            // What is not projected yet is not counted as undelivered.
            let progress = self.common.database.aggregated_streams().progress(&[id]).await?;
            if progress.iter().all(|progress| progress.projected_position < position) {
                return Ok(false);
            }
        } else if let Some(id) = subscription.aggregated.as_ref().map(|aggregated| aggregated.id) {
            let counts = self.common.database.aggregated_streams().partitions(id).await?;
            let partitions = self.common.database.subscriptions().lag(subscription.id, settled).await?.partitions;
            let mut having = counts.iter().filter(|one| one.message_count > position).peekable();
            let is_somewhere = having.peek().is_some();
            return Ok(is_somewhere
                && having.all(|one| partitions.iter().any(|lag| lag.partition == one.partition && acked(lag))));
        }
        if matches!(subscription.definition.source, SubscriptionSource::Stream(_)) {
            // All messages of a stream are in one partition.
            let partitions = self.common.database.subscriptions().lag(subscription.id, settled).await?.partitions;
            return Ok(partitions.iter().any(acked));
        }
        let lag = self.lags.lag(subscription.id, settled.min(position)).await?;
        Ok(settled >= position
            && lag.is_exact
            && lag.partitions.iter().all(|one| one.undelivered == 0 && (one.in_flight == 0 || acked(one))))
    }

    /// Pending deliveries in order of place, after a place.
    pub async fn pending(
        &self,
        name: &str,
        consumer: Option<&str>,
        min_idle_ms: i64,
        after: At,
        limit: usize,
        rights: &Rights,
    ) -> Result<Vec<PendingDelivery>, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        Ok(self
            .common
            .database
            .subscriptions()
            .pending_deliveries(id, consumer, min_idle_ms, after, limit as i64)
            .await?)
    }

    pub async fn pending_summary(&self, name: &str, rights: &Rights) -> Result<Vec<PendingSummary>, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        Ok(self.common.database.subscriptions().pending_summary(id).await?)
    }

    /// Dead letters in order of place, after a place.
    pub async fn parked(
        &self,
        name: &str,
        after: At,
        limit: usize,
        rights: &Rights,
    ) -> Result<Vec<ParkedMessage>, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        Ok(self.common.database.subscriptions().parked_messages(id, after, limit as i64).await?)
    }

    /// Lets parked messages be delivered again: `which`, or all. Answers how many there were.
    pub async fn replay(&self, name: &str, which: Option<&[At]>, rights: &Rights) -> Result<i64, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        let count = self.common.database.subscriptions().replay_parked(id, which).await?;
        self.common.wakers.wake(id);
        Ok(count)
    }

    /// Deletes a dead letter. Answers whether there was one.
    pub async fn delete_parked(&self, name: &str, at: At, rights: &Rights) -> Result<bool, SubscriptionError> {
        let id = self.common.id(name, rights).await?;
        Ok(self.common.database.subscriptions().delete_parked(id, at).await?)
    }
}
