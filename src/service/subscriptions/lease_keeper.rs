//! The consumers that this instance speaks for: their leases are renewed together, and who is gone is given up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Common;
use super::wakers::lock;
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::store::StoreError;
use crate::store::subscriptions::{Leaving, Renewal};

/// How often it is looked whose lease is to be renewed.
const TICK: Duration = Duration::from_millis(100);
/// Who came for messages not longer ago than this is taken to come here. Not longer than who has no room waits to look.
const LATELY: Duration = Duration::from_secs(1);
/// Consumers that leave in one transaction: nobody waits for the others' locks for long.
const LEAVING_MAX: usize = 100;
/// Leases renewed in one statement.
const RENEWALS_MAX: usize = 5_000;

/// The consumers that this instance speaks for.
pub(super) struct LeaseKeeper {
    common: Arc<Common>,
    consumers: Mutex<HashMap<(i64, String), Entry>>,
    leaving: Mutex<Vec<Leaving>>,
    has_left: Notify,
}

struct Entry {
    /// Of who holds a connection open.
    session: Option<Uuid>,
    /// Requests that are waiting, and connections.
    open: usize,
    /// When it came for its messages here last.
    came_at: Option<Instant>,
    /// It has been heard of since the last renewal.
    is_touched: bool,
    heard_at: Instant,
    renewed_at: Instant,
    timeout: Duration,
}

impl Entry {
    fn is_wanted(&self) -> bool {
        self.open > 0 || self.is_touched
    }

    /// How long it has not been heard of: its lease counts from there, however late it is renewed.
    fn idle(&self) -> Duration {
        if self.open > 0 { Duration::ZERO } else { self.heard_at.elapsed() }
    }

    /// The part of its lease that is over.
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
        let mut consumers = lock(&self.consumers);
        let entry = consumers.entry((subscription, consumer.to_owned())).or_insert_with(|| Entry {
            session,
            open: 0,
            came_at: None,
            is_touched: false,
            heard_at: Instant::now(),
            renewed_at: Instant::now(),
            timeout,
        });
        if session.is_some() {
            entry.session = session;
        }
        entry.timeout = timeout;
        entry.heard_at = Instant::now();
        entry.came_at = Some(entry.heard_at);
        entry.renewed_at = entry.heard_at;
    }

    /// A consumer has been heard of. Answers whether its lease was renewed not long ago, so that nothing is to be done.
    pub fn touch(&self, subscription: i64, consumer: &str) -> bool {
        match lock(&self.consumers).get_mut(&(subscription, consumer.to_owned())) {
            Some(entry) => {
                entry.is_touched = true;
                entry.heard_at = Instant::now();
                entry.came_at = Some(entry.heard_at);
                entry.used() < 0.5
            }
            None => false,
        }
    }

    /// A consumer has acked: its lease is renewed soon, also if it came for its messages somewhere else.
    pub fn renew_soon(&self, subscription: i64, consumer: &str, timeout: Duration) {
        let mut consumers = lock(&self.consumers);
        let entry = consumers.entry((subscription, consumer.to_owned())).or_insert_with(|| Entry {
            session: None,
            open: 0,
            came_at: None,
            is_touched: true,
            heard_at: Instant::now(),
            renewed_at: Instant::now().checked_sub(timeout / 2).unwrap_or_else(Instant::now),
            timeout,
        });
        entry.is_touched = true;
        entry.heard_at = Instant::now();
    }

    /// Whether a consumer comes for its messages here: it waits, or came not long ago. One that has come here once may
    /// wait elsewhere by now.
    pub fn knows(&self, subscription: i64, consumer: &str) -> bool {
        let came_lately = |entry: &Entry| entry.came_at.is_some_and(|came_at| came_at.elapsed() < LATELY);
        let consumers = lock(&self.consumers);
        let entry = consumers.get(&(subscription, consumer.to_owned()));
        entry.is_some_and(|entry| entry.open > 0 || came_lately(entry))
    }

    /// It waits here: its lease is renewed until [`closed`](Self::closed).
    pub fn opened(&self, subscription: i64, consumer: &str) {
        if let Some(entry) = lock(&self.consumers).get_mut(&(subscription, consumer.to_owned())) {
            entry.open += 1;
        }
    }

    pub fn closed(&self, subscription: i64, consumer: &str) {
        if let Some(entry) = lock(&self.consumers).get_mut(&(subscription, consumer.to_owned())) {
            entry.open = entry.open.saturating_sub(1);
            entry.is_touched = true;
            entry.heard_at = Instant::now();
        }
    }

    /// A connection has ended: its consumer goes.
    pub fn left(&self, subscription: i64, consumer: &str, session: Uuid) {
        let key = (subscription, consumer.to_owned());
        let mut consumers = lock(&self.consumers);
        if consumers.get(&key).is_some_and(|entry| entry.session == Some(session)) {
            consumers.remove(&key);
        }
        lock(&self.leaving).push(Leaving { subscription, consumer: key.1, session });
        self.has_left.notify_one();
    }

    /// It is not there any more.
    pub fn forget(&self, subscription: i64, consumer: &str) {
        lock(&self.consumers).remove(&(subscription, consumer.to_owned()));
    }

    /// The leases to renew now: if one is due, those that soon will be go with it.
    fn due(&self) -> Vec<Renewal> {
        let mut consumers = lock(&self.consumers);
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
        if let Some(entry) = lock(&self.consumers).get_mut(&key) {
            let idle = Duration::from_millis(renewal.idle_ms.unsigned_abs());
            entry.renewed_at = asked_at.checked_sub(idle).unwrap_or(asked_at);
            // It may have been heard of since.
            entry.is_touched = entry.heard_at > asked_at;
        }
    }

    /// Renews leases and gives up those of who has left, until the service stops; then the last ones go.
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

    /// Should it fail, their leases run out.
    async fn give_up(&self) -> Result<(), StoreError> {
        let common = &self.common;
        let leaving = std::mem::take(&mut *lock(&self.leaving));
        let mut result = Ok(());
        for some in leaving.chunks(LEAVING_MAX) {
            if let Err(error) = common.database.subscriptions().leave(some, common.grace_ms()).await {
                result = Err(error);
                continue;
            }
            for one in some {
                common.wakers.wake(one.subscription);
                let (subscription, consumer) = (one.subscription, one.consumer.clone());
                common.observer.record(Observation::ConsumerLeft { subscription, consumer });
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
