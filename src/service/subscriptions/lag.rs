//! How far subscriptions are behind, at a cost that does not grow with the lag: what is far behind is counted in steps.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Common, SubscriptionError};
use crate::store::StoreError;
use crate::store::subscriptions::Lag;

/// How many subscriptions' lags are among the metrics, the first by name.
pub const MEASURED_MAX: usize = 1_000;
/// How often all are measured while somebody reads the metrics, and otherwise.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// The metrics count as being read for this long after they were read last.
const WATCHED_FOR: Duration = Duration::from_secs(60);
/// The longest that reading the metrics waits for a first measurement, or for one that is not old.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(5);
const FRESH_WAIT_MAX: Duration = Duration::from_millis(25);
/// A measurement that is older than this is not shown any more.
const SHOWN_FOR: Duration = Duration::from_secs(90);
/// How long a request for a lag counts. What is left then is counted in the background.
const LOOK_TIME_MAX: Duration = Duration::from_millis(20);
/// How long the background task counts for one subscription before it turns to the next.
const TURN_TIME_MAX: Duration = Duration::from_millis(500);
/// How many messages one step of counting looks at: adapted between these bounds, so that a step takes `STEP_TIME`.
const STEP_MESSAGES_FIRST: i64 = 250;
const STEP_MESSAGES_MIN: i64 = 250;
const STEP_MESSAGES_MAX: i64 = 4_000;
const STEP_TIME: std::ops::Range<Duration> = Duration::from_millis(4)..Duration::from_millis(9);

/// How far a subscription is behind.
#[derive(Debug, Clone)]
pub struct LagOfSubscription {
    pub name: String,
    /// How many messages were not acked.
    pub committed: i64,
    /// How many messages were not delivered.
    pub delivered: i64,
    /// Otherwise both numbers are what was counted until now, at least 1: the rest is still being counted.
    pub is_exact: bool,
    pub oldest_unacked_ms: i64,
    pub consumers: i64,
}

/// When the last measurement began, and what it gave.
type Measured = Option<(Instant, Vec<LagOfSubscription>)>;

/// Measures how far subscriptions are behind.
pub struct Lags {
    common: Arc<Common>,
    measured: watch::Sender<Measured>,
    read_at: Mutex<Option<Instant>>,
    wanted: Notify,
    step_messages: AtomicI64,
}

impl Lags {
    pub(super) fn new(common: Arc<Common>) -> Self {
        let (measured, step_messages) = (watch::Sender::new(None), AtomicI64::new(STEP_MESSAGES_FIRST));
        Self { common, measured, read_at: Mutex::default(), wanted: Notify::new(), step_messages }
    }

    /// How far a subscription is behind a settled position. Counts for [`LOOK_TIME_MAX`] if that is needed.
    pub(super) async fn lag(&self, id: i64, up_to: i64) -> Result<Lag, StoreError> {
        let deadline = Instant::now() + LOOK_TIME_MAX;
        loop {
            let lag = self.common.database.subscriptions().lag(id, up_to).await?;
            if lag.is_exact {
                return Ok(lag);
            }
            if Instant::now() >= deadline {
                self.wanted.notify_one();
                return Ok(lag);
            }
            self.count_step(id, up_to).await?;
        }
    }

    /// Counts one step. Answers whether there is more to count.
    async fn count_step(&self, id: i64, up_to: i64) -> Result<bool, StoreError> {
        let size = &self.step_messages;
        let messages = size.load(Ordering::Relaxed);
        let begun = Instant::now();
        let is_more = self.common.database.subscriptions().count_lag(id, up_to, messages).await?;
        let took = begun.elapsed();
        let next = match took {
            _ if took > STEP_TIME.end => messages / 2,
            _ if took < STEP_TIME.start => messages * 2,
            _ => messages,
        };
        size.store(next.clamp(STEP_MESSAGES_MIN, STEP_MESSAGES_MAX), Ordering::Relaxed);
        Ok(is_more)
    }

    /// For the metrics: how many subscriptions there are, and their lags as they were measured last.
    pub async fn measure(&self) -> Result<(i64, Vec<LagOfSubscription>), SubscriptionError> {
        let count = self.common.database.subscriptions().count().await?;
        let mut measured = self.measured.subscribe();
        let asked_at = Instant::now();
        let has_all =
            |one: &Measured| one.as_ref().is_some_and(|(_, lags)| lags.len() as i64 >= count.min(MEASURED_MAX as i64));
        let is_fresh =
            |one: &Measured| has_all(one) && one.as_ref().is_some_and(|(at, _)| *at + MEASURE_INTERVAL >= asked_at);
        *self.read_at.lock() = Some(asked_at);
        if !is_fresh(&measured.borrow()) {
            self.wanted.notify_one();
            let wait = if has_all(&measured.borrow()) { FRESH_WAIT_MAX } else { FIRST_WAIT_MAX };
            // If this takes too long, the last measurement is shown.
            let _ = tokio::time::timeout(wait, measured.wait_for(is_fresh)).await;
        }
        let shown = measured.borrow().as_ref().filter(|(at, _)| at.elapsed() < SHOWN_FOR).map(|(_, lags)| lags.clone());
        Ok((count, shown.unwrap_or_default()))
    }

    /// The lags as they were measured last, without asking for newer ones.
    pub fn last(&self) -> Vec<LagOfSubscription> {
        let measured = self.measured.borrow();
        measured.as_ref().filter(|(at, _)| at.elapsed() < SHOWN_FOR).map(|(_, lags)| lags.clone()).unwrap_or_default()
    }

    /// Runs until the service stops. While the database is away, the last measurement gets old.
    pub(super) async fn run(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            let begun = Instant::now();
            let is_done = tokio::select! {
                () = stopping.cancelled() => return,
                // After a failure, measuring is tried again after the pause.
                done = self.round() => done.unwrap_or(true),
            };
            if !is_done {
                continue;
            }
            // Measuring takes a quarter of the time at most.
            let rest = begun.elapsed() * 3;
            let pause = if self.is_watched() { MEASURE_INTERVAL } else { IDLE_INTERVAL };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = async {
                    tokio::time::sleep(rest).await;
                    let _ = tokio::time::timeout(pause, self.wanted.notified()).await;
                } => {}
            }
        }
    }

    fn is_watched(&self) -> bool {
        self.read_at.lock().is_some_and(|at| at.elapsed() < WATCHED_FOR)
    }

    /// Measures each subscription in its turn. Answers whether everything is counted.
    async fn round(&self) -> Result<bool, StoreError> {
        let begun = Instant::now();
        let settled = self.common.tail.settled();
        let consumers: HashMap<i64, i64> = self.common.database.subscriptions().consumer_counts().await?;
        let mut measured = Vec::new();
        let mut is_done = true;
        for stored in self.common.database.subscriptions().list("", MEASURED_MAX as i64).await? {
            self.common.find_partitions(&stored).await?;
            let lag = self.turn(stored.id, settled).await?;
            is_done &= lag.is_exact;
            measured.push(LagOfSubscription {
                name: stored.name,
                committed: lag.committed(),
                delivered: lag.delivered(),
                is_exact: lag.is_exact,
                oldest_unacked_ms: lag.partitions.iter().filter_map(|one| one.oldest_unacked_ms).max().unwrap_or(0),
                consumers: consumers.get(&stored.id).copied().unwrap_or(0),
            });
        }
        self.measured.send_replace(Some((begun, measured)));
        Ok(is_done)
    }

    /// Counts for a while, resting as long as each step took, so that PostgreSQL has time for others.
    async fn turn(&self, id: i64, settled: i64) -> Result<Lag, StoreError> {
        let deadline = Instant::now() + TURN_TIME_MAX;
        loop {
            let lag = self.common.database.subscriptions().lag(id, settled).await?;
            if lag.is_exact || Instant::now() >= deadline {
                return Ok(lag);
            }
            let mut is_more = true;
            while is_more && Instant::now() < deadline {
                let begun = Instant::now();
                is_more = self.count_step(id, settled).await?;
                tokio::time::sleep(begun.elapsed()).await;
            }
        }
    }
}
