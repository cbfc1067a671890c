//! The rules of a delivery against a plain account of them.

use headwater::domain::delivery::{Attempts, Cause, DeliveryStep, NackAction, OnExhausted, Policy};
use proptest::prelude::*;

/// What happens to a message that was delivered.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Asked(NackAction),
    /// Its time ran out, or its consumer is gone.
    Silence,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => prop::option::of(0i64..1_000).prop_map(|delay_ms| Fate::Asked(NackAction::Retry { delay_ms })),
        3 => Just(Fate::Silence),
        1 => prop::sample::select(vec![NackAction::Park, NackAction::Skip, NackAction::Stop]).prop_map(Fate::Asked),
    ];
    prop::collection::vec(fate, 1..60)
}

fn policies() -> impl Strategy<Value = Policy> {
    let ends = prop::sample::select(vec![OnExhausted::Park, OnExhausted::Skip, OnExhausted::Stop]);
    (1i64..12, prop::collection::vec(0i64..1_000, 0..6), ends)
        .prop_map(|(max_deliveries, backoff_ms, on_exhausted)| Policy { max_deliveries, backoff_ms, on_exhausted })
}

/// What it ends as, by the policy.
fn end_of(policy: &Policy) -> DeliveryStep {
    match policy.on_exhausted {
        OnExhausted::Park => DeliveryStep::Park,
        OnExhausted::Skip => DeliveryStep::Skip,
        OnExhausted::Stop => DeliveryStep::Stop,
    }
}

proptest! {
    /// A message lives until it is asked to end or was delivered as often as it may be, and no longer.
    #[test]
    fn a_message_lives_as_long_as_its_policy_says(policy in policies(), fates in fates()) {
        let mut deliveries = 0;
        for fate in fates {
            deliveries += 1;
            prop_assert!(deliveries <= policy.max_deliveries, "it was delivered once more than it may be");
            let is_last = deliveries == policy.max_deliveries;
            let before = Attempts { failures: deliveries - 1, deliveries };
            let Fate::Asked(ask) = fate else {
                prop_assert_eq!(policy.is_exhausted(Attempts { failures: deliveries, ..before }), is_last);
                if is_last {
                    prop_assert_eq!(policy.exhausted(), end_of(&policy));
                    break;
                }
                continue;
            };
            let (step, cause) = policy.on_nack(ask, before);
            let expected = match ask {
                NackAction::Park => (DeliveryStep::Park, Cause::Nacked),
                NackAction::Skip => (DeliveryStep::Skip, Cause::Nacked),
                NackAction::Stop => (DeliveryStep::Stop, Cause::Nacked),
                NackAction::Retry { .. } if is_last => (end_of(&policy), Cause::Exhausted),
                NackAction::Retry { delay_ms: Some(delay_ms) } => (DeliveryStep::Retry { delay_ms }, Cause::Nacked),
                NackAction::Retry { delay_ms: None } => {
                    let steps = policy.backoff_ms.len();
                    let at = (deliveries as usize - 1).min(steps.saturating_sub(1));
                    (DeliveryStep::Retry { delay_ms: policy.backoff_ms.get(at).copied().unwrap_or(0) }, Cause::Nacked)
                }
            };
            prop_assert_eq!((step, cause), expected);
            if !matches!(step, DeliveryStep::Retry { .. }) {
                break;
            }
        }
    }
}
