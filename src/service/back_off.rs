//! How an agent waits after a failure of the database: longer each time, and with one line in the log for each kind.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::observation::{FailureKind, Observation};
use crate::store::StoreError;
use crate::telemetry::Observer;

/// The pause after the first failure, and the longest one. Each is between half of it and the whole, so that agents that
/// failed together do not try again together.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The failures of one agent since it last succeeded.
pub struct BackOff {
    by: &'static str,
    observer: Observer,
    pause: Duration,
    pause_max: Duration,
    /// The kind of failure that was reported: it is not reported again before another kind, or a success.
    reported: Option<FailureKind>,
}

impl BackOff {
    /// `by`: the agent, as the log names it.
    pub fn new(by: &'static str, observer: Observer) -> Self {
        Self { by, observer, pause: PAUSE_FIRST, pause_max: PAUSE_MAX, reported: None }
    }

    /// Shortens the longest pause, for agents whose next attempt requests wait for.
    pub fn at_most(self, pause_max: Duration) -> Self {
        Self { pause_max, ..self }
    }

    /// Whether the last attempt has failed.
    pub fn has_failed(&self) -> bool {
        self.reported.is_some()
    }

    /// Counts a failure, reports it if it is the first of its kind, and returns how long to wait before the next attempt.
    ///
    /// Waiting helps after an error that [`may_pass`](StoreError::may_pass); an agent that cannot end waits after others too.
    pub fn failed(&mut self, error: &StoreError) -> Duration {
        let kind = error.kind();
        let is_news = self.reported.replace(kind) != Some(kind);
        self.observer.record(Observation::StoreFailed { by: self.by.into(), kind, error: error.to_string(), is_news });
        let pause = self.pause;
        self.pause = (pause * 2).min(self.pause_max);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Takes the outcome of an attempt: after a failure, waits until the next attempt is due or the service stops.
    pub async fn after(&mut self, outcome: Result<(), StoreError>, stopping: &CancellationToken) {
        let Err(error) = outcome else { return self.worked() };
        let pause = self.failed(&error);
        stopping.run_until_cancelled(tokio::time::sleep(pause)).await;
    }

    /// The last attempt has succeeded.
    pub fn worked(&mut self) {
        self.pause = PAUSE_FIRST;
        if self.reported.take() == Some(FailureKind::Outage) {
            self.observer.record(Observation::DatabaseFound { by: self.by });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_short_again_after_an_answer() {
        let mut back_off = BackOff::new("test", Observer::new());
        let error = StoreError::Unavailable("away".into());
        let mut whole = PAUSE_FIRST;
        for _ in 0..20 {
            let pause = back_off.failed(&error);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
            whole = (whole * 2).min(PAUSE_MAX);
        }
        back_off.worked();
        assert!(back_off.failed(&error) <= PAUSE_FIRST);
    }

    #[test]
    fn every_failure_is_counted_and_said_once() {
        let observer = Observer::new();
        let mut watcher = observer.watch();
        let mut back_off = BackOff::new("test", observer.clone());
        let away = StoreError::Unavailable("away".into());
        let refused = StoreError::Refused { code: "42501".into(), message: "permission denied".into() };
        for error in [&away, &away, &refused, &refused] {
            back_off.failed(error);
        }
        back_off.worked();
        back_off.failed(&away);
        back_off.worked();
        back_off.worked();
        let mut reported = Vec::new();
        while let Ok(observation) = watcher.try_recv() {
            reported.push(match observation {
                Observation::StoreFailed { kind, is_news, .. } => (kind.name(), is_news),
                Observation::DatabaseFound { .. } => ("found", true),
                other => panic!("{other:?}"),
            });
        }
        let expected = [("outage", true), ("outage", false), ("refused", true), ("refused", false), ("outage", true)];
        assert_eq!(reported, [expected.as_slice(), &[("found", true)]].concat());
        let metrics = observer.render();
        assert!(metrics.contains("headwater_store_errors_total{kind=\"outage\"} 3"), "{metrics}");
        assert!(metrics.contains("headwater_store_errors_total{kind=\"refused\"} 2"), "{metrics}");
    }
}
