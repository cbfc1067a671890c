//! Keeps categories at what their retentions say, in small steps. Each step locks its retention, so several instances may
//! work at once without doing the same.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::back_off::BackOff;
use super::log::pages::in_time;
use super::tail::Tail;
use super::trim::StepSizer;
use crate::domain::observation::Observation;
pub use crate::store::retention::{Retention, StoredRetention};
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// How often it is looked whether a retention is due: one that was just set takes effect within that.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The retentions. Cheap to clone.
#[derive(Clone)]
pub struct Retentions {
    database: Database,
    tail: Tail,
    observer: Observer,
    /// The pause between two passes over a category.
    interval: Duration,
}

impl Retentions {
    pub fn new(database: Database, tail: Tail, observer: Observer, interval: Duration) -> Self {
        Self { database, tail, observer, interval }
    }

    /// Sets what is kept of a category, and answers it.
    pub async fn set(&self, category: &str, retention: &Retention) -> Result<Option<StoredRetention>, StoreError> {
        self.database.set_retention(category, retention).await?;
        self.get(category).await
    }

    pub async fn get(&self, category: &str) -> Result<Option<StoredRetention>, StoreError> {
        Ok(self.database.retentions("", Some(category), 1).await?.pop())
    }

    /// The retentions of categories after this one, in order.
    pub async fn list(&self, after: &str, limit: i64) -> Result<Vec<StoredRetention>, StoreError> {
        self.database.retentions(after, None, limit).await
    }

    /// Ends a retention. Answers whether there was one.
    pub async fn delete(&self, category: &str) -> Result<bool, StoreError> {
        self.database.delete_retention(category).await
    }

    /// Runs until the service stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut back_off = BackOff::new("retention", self.observer.clone());
        let mut sizer = StepSizer::default();
        while !stopping.is_cancelled() {
            let pause = match self.step(&mut sizer).await {
                Ok(pause) => {
                    back_off.worked();
                    pause
                }
                Err(error) => {
                    sizer.failed();
                    back_off.failed(&error)
                }
            };
            stopping.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    /// One step; answers how long to wait after that.
    async fn step(&self, sizer: &mut StepSizer) -> Result<Duration, StoreError> {
        let (began, settled) = (Instant::now(), self.tail.settled());
        let step = in_time(self.database.retention_step(settled, sizer.messages(), self.interval)).await?;
        let Some(step) = step else { return Ok(LOOK_INTERVAL) };
        if step.trimmed > 0 {
            let messages = step.trimmed;
            self.tail.hint_erased();
            self.observer.record(Observation::Trimmed { messages });
            if step.is_over {
                self.observer.record(Observation::Retained { category: step.category, messages });
            }
        }
        Ok(sizer.took(began.elapsed()))
    }
}
