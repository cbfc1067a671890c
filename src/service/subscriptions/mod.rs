//! Subscriptions: messages that are delivered until somebody has acked them.
//!
//! All state is in PostgreSQL, so any request may reach any instance. What is kept here only saves looks at it: who
//! waits, whose leases are to be renewed, and up to where there is nothing for a partition.

mod acks;
mod catalog;
mod competing;
mod consumer;
mod definitions;
mod doubts;
mod hub;
mod inspect;
mod lag;
mod partitioned;
mod presence;
mod reading;
mod rescuer;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::aggregated::AggregatedStreams;
use super::hints::Signals;
use super::read::Reads;
use super::tail::Tail;
use crate::domain::Violation;
use crate::lifecycle::Lifecycle;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

pub use crate::store::subscriptions::{
    At, ConsumerInfo, Lag, ParkedMessage, PartitionLag, PendingDelivery, PendingSummary, State, StoredSubscription,
};
pub use acks::{AckCounts, AckRequest, Fenced, NackEntry};
pub use catalog::Subscription;
pub use consumer::{Change, Consumer, Delivery, End, Round, Wish};
pub use definitions::{Put, SeekPlan};
pub use inspect::Status;
pub use lag::LagOfSubscription;
pub use rescuer::Rescuer;

use acks::{AckCommitter, Acks};
use catalog::Catalog;
use doubts::Doubtful;
use hub::Hub;
use lag::{Lags, Measurer};
use presence::Presence;

/// The bounds of subscriptions.
#[derive(Debug, Clone)]
pub struct SubscriptionSettings {
    pub subscriptions_max: usize,
    /// Of one subscription.
    pub consumers_max: usize,
    /// How long a partition that is to change hands waits for the acks of what is in flight.
    pub revoke_grace: Duration,
    /// Requests with acks that may wait.
    pub ack_queue_max: usize,
    /// How often it is made sure that no hint was missed.
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
    #[error("the subscription has the maximum of {max} consumers")]
    TooManyConsumers { max: usize },
    #[error("too many acks are waiting to be committed")]
    Overloaded,
    #[error("the service is shutting down")]
    Draining,
    #[error("the lease or delivery has been lost")]
    Fenced(Fenced),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All that is done with subscriptions. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    tail: Tail,
    aggregated: AggregatedStreams,
    reads: Reads,
    lags: Lags,
    catalog: Catalog,
    hub: Hub,
    presence: Presence,
    doubts: Doubtful,
    acks: Acks,
    signals: Signals,
    observer: Observer,
    draining: CancellationToken,
    settings: SubscriptionSettings,
}

impl Subscriptions {
    /// Starts the agents of subscriptions, too.
    pub fn start(
        database: Database,
        tail: Tail,
        aggregated: AggregatedStreams,
        reads: Reads,
        settings: SubscriptionSettings,
        lifecycle: &Lifecycle,
        observer: Observer,
    ) -> Self {
        let (acks, requests) = Acks::new(settings.ack_queue_max);
        let inner = Arc::new(Inner {
            catalog: Catalog::new(database.clone()),
            hub: Hub::default(),
            presence: Presence::default(),
            doubts: Doubtful::default(),
            signals: tail.signals(),
            draining: lifecycle.draining().clone(),
            database,
            tail,
            aggregated,
            reads,
            lags: Lags::default(),
            acks,
            observer,
            settings,
        });
        let subscriptions = Self { inner };
        let stopping = lifecycle.stopping();
        let committer = AckCommitter::new(subscriptions.clone(), requests);
        lifecycle.spawn("ack committer", committer.run(stopping.clone()));
        lifecycle.spawn("subscription leases", presence::run(subscriptions.clone(), stopping.clone()));
        lifecycle.spawn("subscription doubts", doubts::run(subscriptions.clone(), stopping.clone()));
        lifecycle.spawn("subscription rescuer", Rescuer::new(subscriptions.clone()).run(stopping.clone()));
        lifecycle.spawn("subscription lag", Measurer::new(subscriptions.clone()).run(stopping.clone()));
        subscriptions
    }

    /// Another instance, or the database, has changed these.
    pub fn have_changed(&self, ids: &[i64]) {
        ids.iter().for_each(|id| self.inner.catalog.forget(*id));
        self.have_room(ids);
    }

    /// Consumers of these may have room again.
    pub fn have_room(&self, ids: &[i64]) {
        ids.iter().for_each(|id| self.inner.hub.wake(*id));
    }

    /// Anything may have been missed.
    pub fn may_have_changed(&self) {
        self.inner.catalog.forget_all();
        self.inner.hub.wake_all();
    }

    fn grace_ms(&self) -> i64 {
        self.inner.settings.revoke_grace.as_millis() as i64
    }

    fn database(&self) -> &Database {
        &self.inner.database
    }
}
