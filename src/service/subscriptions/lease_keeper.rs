//! Keeps the leases of the consumers that use this instance: renews them together, and gives up those of consumers that
//! have left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Common;
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::store::StoreError;
use crate::store::subscriptions::{ConsumerInfo, Leaving, Renewal};

/// How often the keeper looks which leases to renew.
const TICK: Duration = Duration::from_millis(100);
/// A consumer that fetched here within this time is taken to fetch here still. Not longer than a consumer without credit
/// waits for its next round.
const LATELY: Duration = Duration::from_secs(1);
/// How many consumers leave in one transaction, so that it does not hold their locks for long.
const LEAVING_MAX: usize = 100;
/// How many leases are renewed in one statement.
const RENEWALS_MAX: usize = 5_000;

/// A consumer, and how many messages it has acked here since it is known here.
#[derive(Debug)]
pub struct CountedConsumer {
    pub info: ConsumerInfo,
    pub acked: u64,
}

/// The consumers that this instance speaks for.
pub(super) struct LeaseKeeper {
    common: Arc<Common>,
    consumers: Mutex<HashMap<(i64, String), Entry>>,
    leaving: Mutex<Vec<Leaving>>,
    has_left: Notify,
}

struct Entry {
    /// Names the connection of a consumer that holds one open.
    session: Option<Uuid>,
    /// How many requests of it are waiting, and connections open.
    open: usize,
    /// When it last took messages on this instance.
    came_at: Option<Instant>,
    /// It was active since the last renewal.
    is_touched: bool,
    touched_at: Instant,
    renewed_at: Instant,
    timeout: Duration,
    /// Messages that it has acked here.
    acked: u64,
}

impl Entry {
    fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            session: None,
            open: 0,
            came_at: None,
            is_touched: false,
            touched_at: now,
            renewed_at: now,
            timeout,
            acked: 0,
        }
    }

    fn is_wanted(&self) -> bool {
        self.open > 0 || self.is_touched
    }

    /// How long ago the consumer was last active: its lease counts from there, however late it is renewed.
    fn idle(&self) -> Duration {
        if self.open > 0 { Duration::ZERO } else { self.touched_at.elapsed() }
    }

    /// The part of its lease that has passed, from 0 to 1 and more.
    fn used(&self) -> f64 {
        self.renewed_at.elapsed().as_secs_f64() / self.timeout.as_secs_f64()
    }
}

impl LeaseKeeper {
    pub fn new(common: Arc<Common>) -> Self {
        Self { common, consumers: Mutex::default(), leaving: Mutex::default(), has_left: Notify::new() }
    }

    /// A consumer has joined, or its lease was renewed by joining again.
    pub fn joined(&self, subscription: i64, consumer: &str, session: Option<Uuid>, timeout: Duration) {
        let mut consumers = self.consumers.lock();
        let entry = consumers.entry((subscription, consumer.to_owned())).or_insert_with(|| Entry::new(timeout));
        if session.is_some() {
            entry.session = session;
        }
        entry.timeout = timeout;
        entry.touched_at = Instant::now();
        entry.came_at = Some(entry.touched_at);
        entry.renewed_at = entry.touched_at;
    }

    /// The subscription's `consumer_timeout` has changed: from now on, renewals last for that long only.
    pub fn set_timeout(&self, subscription: i64, consumer: &str, timeout: Duration) {
        if let Some(entry) = self.consumers.lock().get_mut(&(subscription, consumer.to_owned())) {
            entry.timeout = timeout;
        }
    }

    /// A consumer comes for messages. Answers whether its lease was renewed so lately that it need not join again.
    pub fn touch(&self, subscription: i64, consumer: &str, timeout: Duration) -> bool {
        match self.consumers.lock().get_mut(&(subscription, consumer.to_owned())) {
            Some(entry) => {
                entry.timeout = timeout;
                entry.is_touched = true;
                entry.touched_at = Instant::now();
                entry.came_at = Some(entry.touched_at);
                entry.used() < 0.5
            }
            None => false,
        }
    }

    /// A consumer has acked: its lease is renewed soon, even if it takes its messages on another instance.
    pub fn renew_soon(&self, subscription: i64, consumer: &str, timeout: Duration) {
        let mut consumers = self.consumers.lock();
        let entry = consumers.entry((subscription, consumer.to_owned())).or_insert_with(|| {
            let new = Entry::new(timeout);
            Entry { renewed_at: new.renewed_at.checked_sub(timeout / 2).unwrap_or(new.renewed_at), ..new }
        });
        entry.timeout = timeout;
        entry.is_touched = true;
        entry.touched_at = Instant::now();
    }

    /// A consumer has acked so many messages here.
    pub fn acked(&self, subscription: i64, consumer: &str, messages: u64) {
        if messages > 0
            && let Some(entry) = self.consumers.lock().get_mut(&(subscription, consumer.to_owned()))
        {
            entry.acked += messages;
        }
    }

    /// The consumers of a subscription, wherever they take their messages.
    pub async fn consumers(&self, subscription: i64) -> Result<Vec<CountedConsumer>, StoreError> {
        let found = self.common.database.subscriptions().consumers(subscription).await?;
        let known = self.consumers.lock();
        let counted = |info: ConsumerInfo| {
            let acked = known.get(&(subscription, info.name.clone())).map_or(0, |entry| entry.acked);
            CountedConsumer { info, acked }
        };
        Ok(found.into_iter().map(counted).collect())
    }

    /// Whether a consumer takes its messages here: it waits, or came lately. One that came here once may wait on another
    /// instance by now.
    pub fn knows(&self, subscription: i64, consumer: &str) -> bool {
        let came_lately = |entry: &Entry| entry.came_at.is_some_and(|came_at| came_at.elapsed() < LATELY);
        let consumers = self.consumers.lock();
        let entry = consumers.get(&(subscription, consumer.to_owned()));
        entry.is_some_and(|entry| entry.open > 0 || came_lately(entry))
    }

    /// A consumer waits here: its lease is renewed until [`closed`](Self::closed).
    pub fn opened(&self, subscription: i64, consumer: &str) {
        if let Some(entry) = self.consumers.lock().get_mut(&(subscription, consumer.to_owned())) {
            entry.open += 1;
        }
    }

    pub fn closed(&self, subscription: i64, consumer: &str) {
        if let Some(entry) = self.consumers.lock().get_mut(&(subscription, consumer.to_owned())) {
            entry.open = entry.open.saturating_sub(1);
            entry.is_touched = true;
            entry.touched_at = Instant::now();
        }
    }

    /// A connection has ended: its consumer is to be removed.
    pub fn left(&self, subscription: i64, consumer: &str, session: Uuid) {
        let key = (subscription, consumer.to_owned());
        let mut consumers = self.consumers.lock();
        if consumers.get(&key).is_some_and(|entry| entry.session == Some(session)) {
            consumers.remove(&key);
        }
        self.leaving.lock().push(Leaving { subscription, consumer: key.1, session });
        self.has_left.notify_one();
    }

    /// A consumer was removed: its lease is not renewed any more.
    pub fn forget(&self, subscription: i64, consumer: &str) {
        self.consumers.lock().remove(&(subscription, consumer.to_owned()));
    }

    /// The leases to renew now: if one is due, also those that soon will be.
    fn due(&self) -> Vec<Renewal> {
        let mut consumers = self.consumers.lock();
        consumers.retain(|_, entry| entry.is_wanted() || entry.used() < 1.0);
        if !consumers.values().any(|entry| entry.is_wanted() && entry.used() >= 1.0 / 3.0) {
            return Vec::new();
        }
        let soon = consumers.iter().filter(|(_, entry)| entry.is_wanted() && entry.used() >= 0.2);
        let renewals = soon.map(|((subscription, consumer), entry)| Renewal {
            subscription: *subscription,
            consumer: consumer.clone(),
            session: entry.session,
            idle_ms: entry.idle().as_millis() as i64,
        });
        renewals.take(RENEWALS_MAX).collect()
    }

    fn renewed(&self, renewal: &Renewal, asked_at: Instant) {
        let key = (renewal.subscription, renewal.consumer.clone());
        if let Some(entry) = self.consumers.lock().get_mut(&key) {
            let idle = Duration::from_millis(renewal.idle_ms.unsigned_abs());
            entry.renewed_at = asked_at.checked_sub(idle).unwrap_or(asked_at);
            // The consumer may have been active since.
            entry.is_touched = entry.touched_at > asked_at;
        }
    }

    /// Renews leases and gives up those of consumers that have left, until the service stops.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut back_off = BackOff::new("subscription leases", self.common.observer.clone());
        loop {
            let is_last = tokio::select! {
                () = stopping.cancelled() => true,
                () = self.has_left.notified() => false,
                _ = ticks.tick() => false,
            };
            let left = self.give_up().await;
            if is_last {
                return;
            }
            back_off.after(left.and(self.renew().await), &stopping).await;
        }
    }

    /// Removes the consumers that have left. If that fails, their leases run out.
    async fn give_up(&self) -> Result<(), StoreError> {
        let common = &self.common;
        let leaving = std::mem::take(&mut *self.leaving.lock());
        let mut result = Ok(());
        for some in leaving.chunks(LEAVING_MAX) {
            if let Err(error) = common.database.subscriptions().leave(some, common.grace_ms()).await {
                result = Err(error);
                continue;
            }
            for one in some {
                common.wakers.wake(one.subscription);
                common.observer.record(Observation::ConsumerLeft);
            }
        }
        result
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let due = self.due();
        if due.is_empty() {
            return Ok(());
        }
        let asked_at = Instant::now();
        let renewed = self.common.database.subscriptions().renew(&due).await?;
        for (renewal, is_there) in due.iter().zip(renewed) {
            if is_there {
                self.renewed(renewal, asked_at);
            } else {
                self.forget(renewal.subscription, &renewal.consumer);
                self.common.wakers.wake(renewal.subscription);
            }
        }
        Ok(())
    }
}
