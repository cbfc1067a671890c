//! The rules of a delivery: what becomes of one that has failed.
//!
//! A message is *pending* once it is delivered. An ack ends it. When it fails (its consumer says so, is gone, or has not
//! acked in time), it is *retried*, until it has been delivered as often as it may; then it is *parked* or *skipped*, or
//! the subscription *stops* before it.

use serde::{Deserialize, Serialize};

/// How often and how soon a message is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub max_deliveries: i64,
    /// The delay after the first failure, the second, and so on; the last one stands for all after it.
    pub backoff_ms: Vec<i64>,
    pub on_exhausted: OnExhausted,
}

/// What becomes of a message that was delivered as often as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    Park,
    Skip,
    Stop,
}

/// What a consumer asks for with a message that it could not work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Again: after this delay, or after the policy's.
    Retry {
        delay_ms: Option<i64>,
    },
    Park,
    Skip,
    Stop,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Retry { delay_ms: i64 },
    Park,
    Skip,
    Stop,
}

/// Who decided on a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The consumer.
    Nacked,
    /// It was delivered as often as it may be.
    Exhausted,
}

impl Policy {
    /// A consumer has refused a message that has failed this often, the present time counted.
    pub fn on_nack(&self, ask: Ask, failures: i64) -> (Step, Cause) {
        match ask {
            Ask::Park => (Step::Park, Cause::Nacked),
            Ask::Skip => (Step::Skip, Cause::Nacked),
            Ask::Stop => (Step::Stop, Cause::Nacked),
            Ask::Retry { .. } if self.is_exhausted(failures) => (self.exhausted(), Cause::Exhausted),
            Ask::Retry { delay_ms } => {
                (Step::Retry { delay_ms: delay_ms.unwrap_or_else(|| self.delay_ms(failures)) }, Cause::Nacked)
            }
        }
    }

    /// Whether a message that has failed this often is not delivered any more.
    pub fn is_exhausted(&self, failures: i64) -> bool {
        failures >= self.max_deliveries
    }

    /// What becomes of a message that is not delivered any more.
    pub fn exhausted(&self) -> Step {
        match self.on_exhausted {
            OnExhausted::Park => Step::Park,
            OnExhausted::Skip => Step::Skip,
            OnExhausted::Stop => Step::Stop,
        }
    }

    /// How long it waits after that many failures.
    fn delay_ms(&self, failures: i64) -> i64 {
        let step = usize::try_from(failures - 1).unwrap_or(0);
        self.backoff_ms.get(step).or(self.backoff_ms.last()).copied().unwrap_or(0)
    }
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Retry { .. } => "retry",
            Step::Park => "park",
            Step::Skip => "skip",
            Step::Stop => "stop",
        }
    }

    pub fn delay_ms(self) -> i64 {
        match self {
            Step::Retry { delay_ms } => delay_ms,
            Step::Park | Step::Skip | Step::Stop => 0,
        }
    }
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Nacked => "nacked",
            Cause::Exhausted => "exhausted",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(max_deliveries: i64, backoff_ms: &[i64], on_exhausted: OnExhausted) -> Policy {
        Policy { max_deliveries, backoff_ms: backoff_ms.to_vec(), on_exhausted }
    }

    #[test]
    fn each_failure_waits_longer_until_the_last_step_of_the_backoff() {
        let policy = policy(10, &[1, 5, 30], OnExhausted::Park);
        let delays: Vec<i64> =
            (1..=5).map(|failures| policy.on_nack(Ask::Retry { delay_ms: None }, failures).0.delay_ms()).collect();
        assert_eq!(delays, [1, 5, 30, 30, 30]);
        assert_eq!(policy.on_nack(Ask::Retry { delay_ms: Some(7) }, 3).0, Step::Retry { delay_ms: 7 });
    }

    #[test]
    fn without_a_backoff_it_comes_again_at_once() {
        let policy = policy(3, &[], OnExhausted::Park);
        assert_eq!(policy.on_nack(Ask::Retry { delay_ms: None }, 1).0, Step::Retry { delay_ms: 0 });
    }

    #[test]
    fn the_last_delivery_that_fails_ends_as_the_policy_says() {
        for (end, step) in
            [(OnExhausted::Park, Step::Park), (OnExhausted::Skip, Step::Skip), (OnExhausted::Stop, Step::Stop)]
        {
            let policy = policy(3, &[1], end);
            assert!(matches!(policy.on_nack(Ask::Retry { delay_ms: None }, 2).0, Step::Retry { .. }));
            assert_eq!(policy.on_nack(Ask::Retry { delay_ms: Some(9) }, 3), (step, Cause::Exhausted));
        }
    }

    proptest! {
        /// However a message fails, it is delivered at most as often as it may be, and then it ends.
        #[test]
        fn a_poisoned_message_ends(max in 1i64..50, backoff in prop::collection::vec(0i64..100, 0..5)) {
            let policy = policy(max, &backoff, OnExhausted::Park);
            let mut deliveries = 1;
            while let (Step::Retry { delay_ms }, _) = policy.on_nack(Ask::Retry { delay_ms: None }, deliveries) {
                prop_assert!(delay_ms >= 0);
                deliveries += 1;
            }
            prop_assert_eq!(deliveries, max);
        }

        /// What a consumer asks for besides a retry is done, however often it was delivered.
        #[test]
        fn other_asks_do_not_count(failures in 0i64..1_000) {
            let policy = policy(3, &[], OnExhausted::Stop);
            prop_assert_eq!(policy.on_nack(Ask::Park, failures), (Step::Park, Cause::Nacked));
            prop_assert_eq!(policy.on_nack(Ask::Skip, failures), (Step::Skip, Cause::Nacked));
            prop_assert_eq!(policy.on_nack(Ask::Stop, failures), (Step::Stop, Cause::Nacked));
        }
    }
}
