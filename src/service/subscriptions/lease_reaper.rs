//! Notices what is not signalled: leases that have run out, deliveries that have come due, and signals that were lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Common;
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::store::StoreError;

/// How often the reaper looks for expired leases.
const EXPIRE_INTERVAL: Duration = Duration::from_millis(250);

pub struct LeaseReaper {
    common: Arc<Common>,
    /// The generations of subscriptions for which the consumers here were woken.
    generations: HashMap<i64, i64>,
    polled_at: Instant,
}

impl LeaseReaper {
    pub fn new(common: Arc<Common>) -> Self {
        Self { common, generations: HashMap::new(), polled_at: Instant::now() }
    }

    /// Runs until the service stops. While the database is away, the reaper waits for it.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut pause = EXPIRE_INTERVAL;
        let mut back_off = BackOff::new("lease reaper", self.common.observer.clone());
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = match self.look().await {
                Ok(()) => {
                    back_off.worked();
                    EXPIRE_INTERVAL
                }
                Err(error) => back_off.failed(&error),
            };
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let common = &self.common;
        let expired = common.database.subscriptions().expire_consumers(common.grace_ms()).await?;
        for (subscription, consumer) in expired {
            common.wakers.wake(subscription);
            let subscription = common.catalog.name_of(subscription).await;
            common.observer.record(Observation::LeaseExpired { subscription, consumer });
        }
        if self.polled_at.elapsed() >= common.settings.poll_interval {
            self.polled_at = Instant::now();
            self.poll().await?;
        }
        Ok(())
    }

    /// Asks about the subscriptions of all consumers that wait here, in one statement.
    async fn poll(&mut self) -> Result<(), StoreError> {
        let common = &self.common;
        common.wakers.tidy();
        let ids = common.wakers.waited_for();
        if ids.is_empty() {
            self.generations.clear();
            return Ok(());
        }
        let found = common.database.subscriptions().poll(&ids).await?;
        let before = std::mem::take(&mut self.generations);
        for (id, (generation, has_due)) in ids.into_iter().zip(found) {
            // A subscription that was deleted has no generation: its consumers are woken to notice that.
            let generation = generation.unwrap_or(-1);
            let is_news = before.get(&id).is_some_and(|seen| *seen != generation) || generation == -1;
            if is_news {
                common.catalog.forget(id);
            }
            if is_news || has_due {
                common.wakers.wake(id);
            }
            self.generations.insert(id, generation);
        }
        Ok(())
    }
}
