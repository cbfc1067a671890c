//! Deliveries in doubt: PostgreSQL may have committed a delivery whose answer was lost. Its consumer has received nothing,
//! so the delivery is taken back before the consumer gets anything else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::consumer::{Consumer, Delivery, DeliveryRequest};
use super::{Common, SubscriptionError};
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::store::StoreError;
use crate::store::read::PageLimit;
use crate::store::subscriptions::Doubt;

/// How many consumers' doubts are kept. Deliveries of further ones come again when they are not acked in time.
const CONSUMERS_MAX: usize = 10_000;
/// A statement that was on its way when its connection broke may still be carried out: what it delivers then is taken
/// back after this time.
const LATE: Duration = Duration::from_secs(5);
/// How often the agent looks whether that time is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// By subscription and consumer.
type ByConsumer = HashMap<(i64, String), Vec<Arc<Doubt>>>;
/// When to take back once more, the subscription, the consumer, and what it may have been given.
type Late = (Instant, i64, String, Arc<Doubt>);

/// Doubts of consumers that are not here any more: their fetch has failed or was dropped, or their connection has gone.
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

    /// A consumer has gone and leaves its doubts.
    pub fn left(&self, subscription: i64, consumer: &str, doubts: Vec<Arc<Doubt>>) {
        if doubts.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < CONSUMERS_MAX {
            waiting.entry((subscription, consumer.to_owned())).or_default().extend(doubts);
            self.has_come.notify_one();
        }
    }

    /// Hands the doubts that a consumer has left to the consumer that joins under its name.
    pub fn of(&self, subscription: i64, consumer: &str) -> Vec<Arc<Doubt>> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return Vec::new();
        }
        waiting.remove(&(subscription, consumer.to_owned())).unwrap_or_default()
    }

    fn settled(&self, subscription: i64, consumer: String, settled: &[Arc<Doubt>]) {
        let mut waiting = self.waiting.lock();
        let key = (subscription, consumer);
        let Some(doubts) = waiting.get_mut(&key) else { return };
        doubts.retain(|doubt| !settled.iter().any(|done| Arc::ptr_eq(done, doubt)));
        if doubts.is_empty() {
            waiting.remove(&key);
        }
    }

    /// Notes to take back once more what may appear late: deliveries under an epoch of their own. A partition that was taken
    /// back refuses the late call. What a late claim acks as it delivers cannot be told from what others claimed meanwhile.
    fn look_again(&self, subscription: i64, consumer: &str, doubt: Arc<Doubt>) {
        let mut late = self.late.lock();
        if matches!(*doubt, Doubt::UnderEpoch { .. }) && late.len() < CONSUMERS_MAX {
            late.push((Instant::now() + LATE, subscription, consumer.to_owned(), doubt));
        }
    }

    fn come_due(&self) -> Vec<Late> {
        let now = Instant::now();
        self.late.lock().extract_if(.., |(due, ..)| *due <= now).collect()
    }

    /// Takes back what a consumer may have been given. If that fails, the rest stays in doubt.
    pub async fn take_back(
        &self,
        subscription: i64,
        consumer: &str,
        doubts: &mut Vec<Arc<Doubt>>,
    ) -> Result<(), StoreError> {
        if doubts.is_empty() {
            return Ok(());
        }
        // The last first, so that each finds the state that it has left.
        while let Some(doubt) = doubts.last() {
            self.common.database.subscriptions().take_back(subscription, consumer, doubt).await?;
            if let Some(doubt) = doubts.pop() {
                self.look_again(subscription, consumer, doubt);
            }
        }
        self.common.wakers.wake(subscription);
        let (subscription, consumer) = (self.common.catalog.name_of(subscription).await, consumer.to_owned());
        self.common.observer.record(Observation::DeliveriesTakenBack { subscription, consumer });
        Ok(())
    }

    /// Takes back what was left and what has come due; what fails is tried next time.
    async fn settle(&self) -> Result<(), StoreError> {
        // The doubts stay in the map until they are settled, so that a consumer that comes again finds them: it must not go
        // on before. Both may take back the same; the second finds nothing left to do.
        let waiting = self.waiting.lock().clone();
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
                    self.late.lock().push((due, subscription, consumer, doubt));
                }
            }
        }
        result
    }

    /// Takes back what consumers have left, until the service stops.
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
    /// A fetch begins with what its consumer was given and has not acked: the same deliveries, under their epochs, because
    /// the answer that gave them may not have arrived. That is no failure, and the time to ack them goes on. `in_flight`: how
    /// many there are; a consumer that acks before it fetches has none, which costs it no statement.
    pub(super) async fn give_again(
        &mut self,
        request: DeliveryRequest,
        in_flight: i64,
    ) -> Result<Vec<Delivery>, SubscriptionError> {
        if !std::mem::take(&mut self.wants_given) || in_flight == 0 {
            return Ok(Vec::new());
        }
        let database = &self.consumers.common.database;
        let max = self.subscription.definition.settings.max_in_flight.min(request.in_flight_max);
        let limit = PageLimit { messages: max.min(request.messages as i64), bytes: request.bytes };
        let given = database.subscriptions().given(self.subscription.id, &self.name, limit).await?;
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<i64> = given.iter().map(|given| given.global_position).collect();
        let mut messages = database.subscriptions().messages_at(&wanted).await?;
        let mut deliveries = Vec::with_capacity(given.len());
        for given in given {
            // The message may have been deleted: its delivery ends when its time runs out.
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
