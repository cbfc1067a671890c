//! Trims streams: deletes their oldest messages in small steps, beside everybody who appends and reads.

use std::time::{Duration, Instant};

use super::log::pages::in_time;
use super::tail::Tail;
use crate::domain::observation::Observation;
use crate::domain::stream_name::StreamName;
pub use crate::store::trim::Oldest;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// How long a step should take: appends wait for no lock of a step, but share the disk with it.
const STEP_TIME: Duration = Duration::from_millis(15);
/// The bounds of a step in messages, between which it has as many as are deleted in [`STEP_TIME`].
const STEP_MESSAGES_MIN: i64 = 25;
const STEP_MESSAGES_FIRST: i64 = 200;
const STEP_MESSAGES_MAX: i64 = 2_000;
/// After this long a request is answered, and what is left is for the next one.
const TRIM_TIME_MAX: Duration = Duration::from_secs(10);

/// How many messages a step may have.
#[derive(Debug)]
pub struct StepSizer {
    messages: i64,
}

impl Default for StepSizer {
    fn default() -> Self {
        Self { messages: STEP_MESSAGES_FIRST }
    }
}

impl StepSizer {
    pub fn messages(&self) -> i64 {
        self.messages
    }

    /// Takes in how long a step took. Answers how long to wait: as long again, so that others have their turn.
    pub fn took(&mut self, time: Duration) -> Duration {
        if time > STEP_TIME {
            self.messages /= 2;
        } else if time < STEP_TIME / 2 {
            self.messages += self.messages / 4;
        }
        self.messages = self.messages.clamp(STEP_MESSAGES_MIN, STEP_MESSAGES_MAX);
        time.min(Duration::from_secs(1))
    }

    /// Takes in that a step has failed: it may have been too large for its time-out.
    pub fn failed(&mut self) {
        self.messages = (self.messages / 4).max(STEP_MESSAGES_MIN);
    }
}

/// What a trim has done.
#[derive(Debug, Clone, Copy)]
pub struct TrimResult {
    pub trimmed: i64,
    /// The first position that is left.
    pub first_position: i64,
    /// Messages stay that were to go, because a subscription has not acked them.
    pub kept_unacked: bool,
    /// `false`: there was not time enough for all of them. The same request goes on.
    pub is_complete: bool,
}

/// Why nothing was trimmed.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    #[error("stream {stream_name} not found")]
    NotFound { stream_name: String },
    #[error("the role of the service may not delete messages: GRANT DELETE ON message_store.messages TO that role")]
    MissingRight,
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for TrimError {
    fn from(error: StoreError) -> Self {
        if error.is_missing_right() { Self::MissingRight } else { Self::Store(error) }
    }
}

/// Trims streams. Cheap to clone.
#[derive(Clone)]
pub struct Trimmer {
    database: Database,
    tail: Tail,
    observer: Observer,
}

impl Trimmer {
    pub fn new(database: Database, tail: Tail, observer: Observer) -> Self {
        Self { database, tail, observer }
    }

    /// Deletes the oldest messages of a stream, but not the newest one. What was deleted stays deleted if the caller goes
    /// or a step fails: the same request sent again goes on from there.
    pub async fn trim(&self, name: &StreamName, oldest: Oldest, unless_unacked: bool) -> Result<TrimResult, TrimError> {
        let (began, mut sizer, mut trimmed) = (Instant::now(), StepSizer::default(), 0);
        let mut next = oldest;
        loop {
            let step_began = Instant::now();
            let step = self.database.messages().trim_stream(name.as_str(), next, unless_unacked, sizer.messages());
            let Some(step) = in_time(step).await? else {
                return Err(TrimError::NotFound { stream_name: name.as_str().to_owned() });
            };
            trimmed += step.trimmed;
            if step.trimmed > 0 {
                self.tail.hint_erased();
                self.observer.record(Observation::Trimmed { messages: step.trimmed });
            }
            if step.is_complete || began.elapsed() > TRIM_TIME_MAX {
                let (first_position, kept_unacked) = (step.first_position, step.kept_unacked);
                return Ok(TrimResult { trimmed, first_position, kept_unacked, is_complete: step.is_complete });
            }
            if let Oldest::KeepLast(_) = next {
                // What is appended meanwhile pushes nothing more out.
                next = Oldest::BeforePosition(step.before_position);
            }
            tokio::time::sleep(sizer.took(step_began.elapsed())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_while_they_are_quick_and_shrink_when_they_are_slow() {
        let mut sizer = StepSizer::default();
        for _ in 0..40 {
            sizer.took(Duration::from_millis(1));
        }
        assert_eq!(sizer.messages(), STEP_MESSAGES_MAX);
        assert_eq!(sizer.took(Duration::from_millis(40)), Duration::from_millis(40));
        assert_eq!(sizer.messages(), STEP_MESSAGES_MAX / 2);
        for _ in 0..40 {
            sizer.took(Duration::from_secs(9));
        }
        assert_eq!(sizer.messages(), STEP_MESSAGES_MIN);
    }

    #[test]
    fn a_step_that_failed_is_not_asked_for_again_as_large_as_it_was() {
        let mut sizer = StepSizer::default();
        for messages in [STEP_MESSAGES_FIRST / 4, STEP_MESSAGES_MIN, STEP_MESSAGES_MIN] {
            sizer.failed();
            assert_eq!(sizer.messages(), messages);
        }
    }
}
