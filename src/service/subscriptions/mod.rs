//! Subscriptions: messages that are delivered until somebody has acked them.
//!
//! All state is in PostgreSQL, so any request may reach any instance. What an instance keeps in memory only saves
//! queries: which consumers wait here, which leases are to be renewed, and up to where there is nothing for a partition.

mod access;
mod acks;
mod catalog;
mod competing;
mod connection;
mod consumer;
mod consumers;
mod definitions;
mod doubts;
mod inspect;
mod lag;
mod lease_keeper;
mod lease_reaper;
mod partitioned;
mod reading;
mod wakers;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::aggregated::AggregatedStreams;
use super::hints::Signals;
use super::read::Reads;
use super::tail::Tail;
use crate::domain::Violation;
use crate::domain::observation::Observation;
use crate::domain::scope::Missing;
use crate::lifecycle::Lifecycle;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

pub use crate::store::subscriptions::{
    At, Lag, ParkedMessage, PartitionLag, PendingDelivery, PendingSummary, State, StoredSubscription,
};
pub use acks::{AckCounts, AckRequest, Acks, Fenced, NackEntry};
pub use connection::Connection;
pub use consumer::{AssignmentChange, Delivery};
pub use consumers::{ClaimRequest, ConsumeRequest, Consumers, FetchRequest};
pub use definitions::{Definitions, Put, SeekPlan};
pub use inspect::{Inspection, Status};
pub use lag::{LagOfSubscription, Lags};
pub use lease_keeper::CountedConsumer;

use catalog::Catalog;
use doubts::Doubts;
use lease_keeper::LeaseKeeper;
use lease_reaper::LeaseReaper;
use wakers::Wakers;

/// The bounds of subscriptions.
#[derive(Debug, Clone)]
pub struct SubscriptionSettings {
    pub subscriptions_max: usize,
    /// How many one credential may make; 0: as many as there may be.
    pub subscriptions_per_credential_max: usize,
    /// How many consumers one subscription may have.
    pub consumers_max: usize,
    /// How long a partition that is to change hands waits for the acks of what is in flight.
    pub revoke_grace: Duration,
    /// How many requests with acks may wait.
    pub ack_queue_max: usize,
    /// How often each subscription with waiting consumers is polled, in case a signal was lost.
    pub poll_interval: Duration,
}

/// What can go wrong with a subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    #[error("subscription {name} not found")]
    NotFound { name: String },
    #[error("the subscription {name} exists with another definition")]
    Differs { name: String, fields: Vec<String> },
    #[error("the definition is not valid")]
    Invalid(Vec<Violation>),
    #[error("the limit of {max} subscriptions is reached")]
    TooManySubscriptions { max: usize },
    #[error("the limit of {max} subscriptions of one credential is reached")]
    TooManyOfCredential { max: usize },
    /// The caller may not read all of its source.
    #[error(transparent)]
    Forbidden(#[from] Missing),
    #[error("the subscription has the maximum of {max} consumers")]
    TooManyConsumers { max: usize },
    #[error("too many acks are waiting to be committed")]
    Overloaded,
    #[error("the service is shutting down")]
    Draining,
    #[error("the lease or delivery has been lost")]
    Fenced { first: Fenced, counts: AckCounts },
    /// The aggregated stream that the subscription consumes is gone.
    #[error("the source of the subscription {name} has been deleted")]
    SourceDeleted { name: String },
    #[error("the consumer {consumer} of the subscription {name} was removed")]
    ConsumerRemoved { name: String, consumer: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything about subscriptions, a field for each concept. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    pub definitions: Arc<Definitions>,
    pub consumers: Arc<Consumers>,
    pub acks: Arc<Acks>,
    pub inspection: Arc<Inspection>,
    pub lags: Arc<Lags>,
    common: Arc<Common>,
}

/// What each of these fields uses.
struct Common {
    database: Database,
    tail: Tail,
    aggregated: AggregatedStreams,
    catalog: Catalog,
    wakers: Wakers,
    signals: Signals,
    observer: Observer,
    draining: CancellationToken,
    settings: SubscriptionSettings,
}

impl Subscriptions {
    /// Starts the agents of subscriptions as well.
    pub fn start(
        database: Database,
        tail: Tail,
        aggregated: AggregatedStreams,
        reads: Reads,
        settings: SubscriptionSettings,
        lifecycle: &Lifecycle,
        observer: Observer,
    ) -> Self {
        let common = Arc::new(Common {
            aggregated,
            catalog: Catalog::new(database.clone()),
            wakers: Wakers::default(),
            signals: tail.signals(),
            draining: lifecycle.draining().clone(),
            database,
            tail,
            observer,
            settings,
        });
        let lease_keeper = Arc::new(LeaseKeeper::new(common.clone()));
        let doubts = Arc::new(Doubts::new(common.clone()));
        let lags = Arc::new(Lags::new(common.clone()));
        let (acks, committer) = Acks::new(common.clone(), lease_keeper.clone());
        let stopping = lifecycle.stopping();
        lifecycle.spawn("ack committer", committer.run(stopping.clone()));
        lifecycle.spawn("subscription leases", lease_keeper.clone().run(stopping.clone()));
        lifecycle.spawn("subscription doubts", doubts.clone().run(stopping.clone()));
        lifecycle.spawn("lease reaper", LeaseReaper::new(common.clone()).run(stopping.clone()));
        lifecycle.spawn("subscription lag", lags.clone().run(stopping.clone()));
        Self {
            definitions: Arc::new(Definitions { common: common.clone(), reads }),
            consumers: Arc::new(Consumers { common: common.clone(), lease_keeper: lease_keeper.clone(), doubts }),
            acks: Arc::new(acks),
            inspection: Arc::new(Inspection { common: common.clone(), lags: lags.clone(), lease_keeper }),
            lags,
            common,
        }
    }

    /// Another instance, or the database, has changed these subscriptions.
    pub fn have_changed(&self, ids: &[i64]) {
        self.common.have_changed(ids);
    }

    /// Consumers of these subscriptions may have credit again.
    pub fn have_room(&self, ids: &[i64]) {
        ids.iter().for_each(|id| self.common.wakers.wake(*id));
    }

    /// Signals may have been lost: nothing that is known is trusted any more.
    pub fn may_have_changed(&self) {
        self.common.catalog.forget_all();
        self.common.wakers.wake_all();
    }
}

impl Common {
    fn grace_ms(&self) -> i64 {
        self.settings.revoke_grace.as_millis() as i64
    }

    /// Adds the partitions of its aggregated stream that no consumer has seen yet: for what is about all partitions.
    async fn find_partitions(&self, subscription: &StoredSubscription) -> Result<(), StoreError> {
        match subscription.aggregated_stream_id {
            Some(_) => self.database.subscriptions().find_partitions(subscription.id, self.grace_ms()).await,
            None => Ok(()),
        }
    }

    fn have_changed(&self, ids: &[i64]) {
        for id in ids {
            self.catalog.forget(*id);
            self.wakers.wake(*id);
        }
    }

    /// Stops a subscription whose filter does not compile.
    async fn stop_for_filter(&self, id: i64, name: &str, reason: &str) -> Result<(), StoreError> {
        if self.database.subscriptions().stop(id, "filter", reason).await? {
            let (subscription, reason) = (name.to_owned(), reason.to_owned());
            self.observer.record(Observation::SubscriptionStopped { subscription, reason });
        }
        Ok(())
    }
}
