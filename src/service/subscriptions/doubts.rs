//! In doubt is not done: PostgreSQL may have handed something out though its answer was lost. Whoever asked knows nothing
//! of it, so that it is taken back before anything else is handed out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::consumer::{Consumer, Delivery, DeliveryRequest};
use super::wakers::lock;
use super::{Common, SubscriptionError};
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::store::StoreError;
use crate::store::read::PageLimit;
use crate::store::subscriptions::Doubt;

/// Consumers that have gone, whose doubts are kept. Those of others are left to the times of their acks.
const CONSUMERS_MAX: usize = 10_000;
/// A statement that was on its way when its connection broke may still be carried out: what it hands out then is taken
/// back after this time.
const LATE: Duration = Duration::from_secs(5);
/// How often it is looked whether that time is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// By subscription and consumer.
type ByConsumer = HashMap<(i64, String), Vec<Arc<Doubt>>>;
/// When it is looked for again, the subscription, the consumer, and what it may have been given.
type Late = (Instant, i64, String, Arc<Doubt>);

/// Doubts of who is not there any more: a fetch that has failed, or was given up.
pub(super) struct Doubts {
    common: Arc<Common>,
    waiting: Mutex<ByConsumer>,
    late: Mutex<Vec<Late>>,
    has_come: Notify,
}

impl Doubts {
    pub fn new(common: Arc<Common>) -> Self {
        Self { common, waiting: Mutex::default(), late: Mutex::default(), has_come: Notify::new() }
    }

    /// A consumer has gone with its doubts.
    pub fn left(&self, subscription: i64, consumer: &str, doubts: Vec<Arc<Doubt>>) {
        if doubts.is_empty() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        if waiting.len() < CONSUMERS_MAX {
            waiting.entry((subscription, consumer.to_owned())).or_default().extend(doubts);
            self.has_come.notify_one();
        }
    }

    /// What a consumer that comes again has left.
    pub fn of(&self, subscription: i64, consumer: &str) -> Vec<Arc<Doubt>> {
        let mut waiting = lock(&self.waiting);
        if waiting.is_empty() {
            return Vec::new();
        }
        waiting.remove(&(subscription, consumer.to_owned())).unwrap_or_default()
    }

    fn settled(&self, subscription: i64, consumer: String, settled: &[Arc<Doubt>]) {
        let mut waiting = lock(&self.waiting);
        let key = (subscription, consumer);
        let Some(doubts) = waiting.get_mut(&key) else { return };
        doubts.retain(|doubt| !settled.iter().any(|done| Arc::ptr_eq(done, doubt)));
        if doubts.is_empty() {
            waiting.remove(&key);
        }
    }

    /// Deliveries of their own are nobody's business but their epoch's, so that they can appear late; a partition that has
    /// gone back refuses what comes late.
    fn look_again(&self, subscription: i64, consumer: &str, doubt: Arc<Doubt>) {
        let mut late = lock(&self.late);
        if matches!(*doubt, Doubt::Taken { .. }) && late.len() < CONSUMERS_MAX {
            late.push((Instant::now() + LATE, subscription, consumer.to_owned(), doubt));
        }
    }

    fn come_due(&self) -> Vec<Late> {
        let now = Instant::now();
        lock(&self.late).extract_if(.., |(due, ..)| *due <= now).collect()
    }

    /// Takes back what a consumer may have been given. Should that fail, the rest stays in doubt.
    pub async fn take_back(
        &self,
        subscription: i64,
        consumer: &str,
        doubts: &mut Vec<Arc<Doubt>>,
    ) -> Result<(), StoreError> {
        if doubts.is_empty() {
            return Ok(());
        }
        // The last first, so that each finds what it has left.
        while let Some(doubt) = doubts.last() {
            self.common.database.subscriptions().take_back(subscription, consumer, doubt).await?;
            if let Some(doubt) = doubts.pop() {
                self.look_again(subscription, consumer, doubt);
            }
        }
        self.common.wakers.wake(subscription);
        let consumer = consumer.to_owned();
        self.common.observer.record(Observation::DeliveriesTakenBack { subscription, consumer });
        Ok(())
    }

    /// Takes back what has come due; what fails waits for the next time.
    async fn settle(&self) -> Result<(), StoreError> {
        // They stay where a consumer that comes again finds them, until they are settled: it must not go on before that.
        // Both may take back the same: the second finds nothing left to do.
        let waiting = lock(&self.waiting).clone();
        let mut result = Ok(());
        for ((subscription, consumer), mut doubts) in waiting {
            let all = doubts.clone();
            result = result.and(self.take_back(subscription, &consumer, &mut doubts).await);
            self.settled(subscription, consumer, &all[doubts.len()..]);
        }
        for (due, subscription, consumer, doubt) in self.come_due() {
            match self.common.database.subscriptions().take_back(subscription, &consumer, &doubt).await {
                Ok(()) => self.common.wakers.wake(subscription),
                Err(error) => {
                    result = Err(error);
                    lock(&self.late).push((due, subscription, consumer, doubt));
                }
            }
        }
        result
    }

    /// Takes back what nobody else does, until the service stops.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken) {
        let mut back_off = BackOff::new("subscription doubts", self.common.observer.clone());
        loop {
            let is_last = tokio::select! {
                () = stopping.cancelled() => true,
                () = self.has_come.notified() => false,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let settled = self.settle().await;
            if is_last {
                return;
            }
            back_off.after(settled, &stopping).await;
        }
    }
}

impl Consumer {
    /// Who fetches begins with what it was given and has not acked: the same deliveries, under their epochs, because the
    /// answer that gave them may not have got to it. Nothing changes by that: it is no failure, and their time goes on.
    pub(super) async fn give_again(&mut self, wish: DeliveryRequest) -> Result<Vec<Delivery>, SubscriptionError> {
        if !std::mem::take(&mut self.wants_given) {
            return Ok(Vec::new());
        }
        let database = &self.consumers.common.database;
        let most = self.subscription.definition.settings.max_in_flight.min(wish.in_flight_max);
        let limit = PageLimit { messages: most.min(wish.messages as i64), bytes: wish.bytes };
        let given = database.subscriptions().given(self.subscription.id, &self.name, limit).await?;
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<i64> = given.iter().map(|given| given.global_position).collect();
        let mut messages = database.subscriptions().messages_at(&wanted).await?;
        let mut deliveries = Vec::with_capacity(given.len());
        for given in given {
            // It may be gone: then its time runs out.
            let Some(message) = messages.remove(&given.global_position) else { continue };
            deliveries.push(Delivery {
                partition: given.at.partition,
                position: given.at.position,
                epoch: given.epoch,
                delivery_count: given.delivery_count,
                message: message.into(),
            });
        }
        deliveries.sort_by_key(|delivery| delivery.message.global_position);
        Ok(deliveries)
    }
}
