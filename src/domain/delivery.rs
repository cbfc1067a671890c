//! The rules of a delivery: what becomes of one that has failed.
//!
//! A message is *pending* once it is delivered. An ack ends it. When it fails (its consumer says so, is gone, or has not
//! acked in time), it is *retried*, until it has been delivered as often as it may; then it is *parked* or *skipped*, or
//! the subscription *stops* before it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How often and how soon a message is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// 1 or more.
    pub max_deliveries: i64,
    /// The delay after the first failure, the second, and so on; the last one counts for all further failures.
    pub backoff_ms: Vec<i64>,
    /// What becomes of a message after `max_deliveries`.
    pub on_exhausted: OnExhausted,
}

/// What becomes of a message that was delivered as often as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// The message goes to the dead letters.
    Park,
    /// The message is not delivered any more.
    Skip,
    /// The whole subscription stops before the message.
    Stop,
}

/// What a consumer asks for with a message that it could not work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NackAction {
    /// Deliver it again, unless it was delivered as often as it may be.
    Retry {
        /// In milliseconds; `None`: the policy's.
        delay_ms: Option<i64>,
    },
    /// Put it among the dead letters.
    Park,
    /// Do not deliver it any more.
    Skip,
    /// Stop the whole subscription before it.
    Stop,
}

/// How often a message was tried. A message that was delivered behind one that failed was delivered without failing; if it
/// fails later, that delivery counts too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// How often it failed: it was refused, not acked in time, or its consumer was gone.
    pub failures: i64,
    /// How often it was delivered.
    pub deliveries: i64,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStep {
    /// The message is delivered again.
    Retry {
        /// In milliseconds.
        delay_ms: i64,
    },
    /// It goes to the dead letters.
    Park,
    /// It is not delivered any more.
    Skip,
    /// The whole subscription stops before it.
    Stop,
}

/// Why a message is not delivered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = FailureCause, rename_all = "snake_case")]
pub enum Cause {
    /// A consumer refused it.
    Nacked,
    /// It was delivered as often as it may be.
    Exhausted,
}

impl Policy {
    /// Decides what becomes of a message that a consumer refuses. `attempts`: without this refusal.
    pub fn on_nack(&self, action: NackAction, attempts: Attempts) -> (DeliveryStep, Cause) {
        let failures = (attempts.failures + 1).max(attempts.deliveries);
        match action {
            NackAction::Park => (DeliveryStep::Park, Cause::Nacked),
            NackAction::Skip => (DeliveryStep::Skip, Cause::Nacked),
            NackAction::Stop => (DeliveryStep::Stop, Cause::Nacked),
            NackAction::Retry { .. } if failures >= self.max_deliveries => (self.exhausted(), Cause::Exhausted),
            NackAction::Retry { delay_ms } => {
                (DeliveryStep::Retry { delay_ms: delay_ms.unwrap_or_else(|| self.delay_ms(failures)) }, Cause::Nacked)
            }
        }
    }

    /// Whether a message that has failed is not delivered any more.
    pub fn is_exhausted(&self, attempts: Attempts) -> bool {
        attempts.failures.max(attempts.deliveries) >= self.max_deliveries
    }

    /// What becomes of a message that is not delivered any more.
    pub fn exhausted(&self) -> DeliveryStep {
        match self.on_exhausted {
            OnExhausted::Park => DeliveryStep::Park,
            OnExhausted::Skip => DeliveryStep::Skip,
            OnExhausted::Stop => DeliveryStep::Stop,
        }
    }

    /// How long a message waits after that many failures.
    fn delay_ms(&self, failures: i64) -> i64 {
        let step = usize::try_from(failures - 1).unwrap_or(0);
        self.backoff_ms.get(step).or(self.backoff_ms.last()).copied().unwrap_or(0)
    }
}

impl DeliveryStep {
    /// When the message may be delivered again, in milliseconds from now; `None`: never.
    pub fn returns_after_ms(self) -> Option<i64> {
        match self {
            DeliveryStep::Retry { delay_ms } => Some(delay_ms),
            // Once the subscription goes on, this message is delivered next.
            DeliveryStep::Stop => Some(0),
            DeliveryStep::Park | DeliveryStep::Skip => None,
        }
    }

    /// Whether the message goes to the dead letters.
    pub fn parks(self) -> bool {
        self == DeliveryStep::Park
    }

    /// Whether the whole subscription stops before the message.
    pub fn stops(self) -> bool {
        self == DeliveryStep::Stop
    }
}

impl Cause {
    /// The name in the database and on the wire.
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

    /// A message that failed each time that it was delivered, and is about to fail again.
    fn failed(deliveries: i64) -> Attempts {
        Attempts { failures: deliveries - 1, deliveries }
    }

    #[test]
    fn each_failure_waits_longer_until_the_last_step_of_the_backoff() {
        let policy = policy(10, &[1, 5, 30], OnExhausted::Park);
        let delay =
            |deliveries| policy.on_nack(NackAction::Retry { delay_ms: None }, failed(deliveries)).0.returns_after_ms();
        let delays: Vec<i64> = (1..=5).filter_map(delay).collect();
        assert_eq!(delays, [1, 5, 30, 30, 30]);
        assert_eq!(
            policy.on_nack(NackAction::Retry { delay_ms: Some(7) }, failed(3)).0,
            DeliveryStep::Retry { delay_ms: 7 }
        );
    }

    #[test]
    fn without_a_backoff_it_comes_again_at_once() {
        let policy = policy(3, &[], OnExhausted::Park);
        assert_eq!(
            policy.on_nack(NackAction::Retry { delay_ms: None }, failed(1)).0,
            DeliveryStep::Retry { delay_ms: 0 }
        );
    }

    #[test]
    fn the_last_delivery_that_fails_ends_as_the_policy_says() {
        for (end, step) in [
            (OnExhausted::Park, DeliveryStep::Park),
            (OnExhausted::Skip, DeliveryStep::Skip),
            (OnExhausted::Stop, DeliveryStep::Stop),
        ] {
            let policy = policy(3, &[1], end);
            assert!(matches!(
                policy.on_nack(NackAction::Retry { delay_ms: None }, failed(2)).0,
                DeliveryStep::Retry { .. }
            ));
            assert_eq!(policy.on_nack(NackAction::Retry { delay_ms: Some(9) }, failed(3)), (step, Cause::Exhausted));
        }
    }

    #[test]
    fn a_delivery_that_rode_along_counts_once_the_message_fails() {
        let policy = policy(3, &[], OnExhausted::Park);
        let rode_along = Attempts { failures: 0, deliveries: 3 };
        assert_eq!(
            policy.on_nack(NackAction::Retry { delay_ms: None }, rode_along),
            (DeliveryStep::Park, Cause::Exhausted)
        );
        assert!(policy.is_exhausted(rode_along));
        assert!(!policy.is_exhausted(Attempts { failures: 2, deliveries: 2 }));
    }

    proptest! {
        /// However a message fails, it is delivered at most as often as it may be, and then it ends.
        #[test]
        fn a_poisoned_message_ends(max in 1i64..50, backoff in prop::collection::vec(0i64..100, 0..5)) {
            let policy = policy(max, &backoff, OnExhausted::Park);
            let mut deliveries = 1;
            while let (DeliveryStep::Retry { delay_ms }, _) = policy.on_nack(NackAction::Retry { delay_ms: None }, failed(deliveries)) {
                prop_assert!(delay_ms >= 0);
                deliveries += 1;
            }
            prop_assert_eq!(deliveries, max);
        }

        /// What a consumer asks for besides a retry is done, however often it was delivered.
        #[test]
        fn other_asks_do_not_count(failures in 0i64..1_000) {
            let policy = policy(3, &[], OnExhausted::Stop);
            let attempts = failed(failures);
            prop_assert_eq!(policy.on_nack(NackAction::Park, attempts), (DeliveryStep::Park, Cause::Nacked));
            prop_assert_eq!(policy.on_nack(NackAction::Skip, attempts), (DeliveryStep::Skip, Cause::Nacked));
            prop_assert_eq!(policy.on_nack(NackAction::Stop, attempts), (DeliveryStep::Stop, Cause::Nacked));
        }
    }
}
