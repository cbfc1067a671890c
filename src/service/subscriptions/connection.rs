//! The event stream of a consumer: takes rounds, and waits between them until there may be something new.

use std::time::{Duration, Instant};

use super::SubscriptionError;
use super::consumer::{Consumer, DeliveryRequest, DeliveryRound};
use crate::domain::closing::ClosingReason;
use crate::domain::subscription::MAX_IN_FLIGHT_MAX;
use crate::service::detached::Detached;
use crate::service::event_streams::Event;

/// How much one round takes: its messages leave in one write.
const BATCH_MESSAGES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// The pause after a round that found no free place among consumers or requests.
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// What is done next.
enum NextStep {
    DeliveryRound,
    /// Wait for a change, at most until then.
    Wait(Option<Instant>),
}

/// One connection of a consumer. Messages in flight are limited by credit: acks give credit back.
pub struct Connection {
    consumer: Detached<Box<Consumer>, Result<DeliveryRound, SubscriptionError>>,
    request: DeliveryRequest,
    next_step: NextStep,
    is_caught_up: bool,
    /// The highest global position that was delivered.
    position: i64,
    /// What the last round brought beside its messages.
    pending: Option<Event>,
}

impl Connection {
    pub(super) fn new(consumer: Consumer, in_flight_max: Option<i64>) -> Self {
        let consumer = Detached::Idle(Box::new(consumer));
        let in_flight_max = in_flight_max.unwrap_or(MAX_IN_FLIGHT_MAX);
        let request = DeliveryRequest { messages: BATCH_MESSAGES_MAX, bytes: BATCH_BYTES_MAX, in_flight_max };
        Self { consumer, request, next_step: NextStep::DeliveryRound, is_caught_up: false, position: 0, pending: None }
    }

    /// What comes next, however long that takes; `None` at the end. Cancel safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.take() {
                return Some(event);
            }
            match &mut self.consumer {
                Detached::Idle(consumer) => {
                    if let NextStep::Wait(until) = self.next_step {
                        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                        consumer.changed(left).await;
                    }
                    let request = self.request;
                    self.consumer.begin(move |mut consumer| async move {
                        let round = consumer.round(request).await;
                        (consumer, round)
                    });
                }
                Detached::AtWork(_) => {
                    let event = match self.consumer.done().await? {
                        Ok(round) => self.take(round),
                        Err(error) => self.failed(error),
                    };
                    if event.is_some() {
                        return event;
                    }
                }
                Detached::Lost => return None,
            }
        }
    }

    fn take(&mut self, round: DeliveryRound) -> Option<Event> {
        let DeliveryRound { changes, trimmed, deliveries, is_caught_up, end, next } = round;
        // After messages there may be more.
        self.next_step = match deliveries.is_empty() {
            true => NextStep::Wait(next.map(|next| Instant::now() + next)),
            false => NextStep::DeliveryRound,
        };
        let last = deliveries.iter().map(|delivery| delivery.message.global_position).max();
        self.position = self.position.max(last.unwrap_or(0));
        self.pending = match end {
            Some(reason) => Some(Event::Closing(reason)),
            None if is_caught_up && !std::mem::replace(&mut self.is_caught_up, true) => {
                Some(Event::CaughtUp { position: self.position })
            }
            None => None,
        };
        let is_news = !changes.is_empty() || trimmed.is_some() || !deliveries.is_empty();
        is_news.then_some(Event::Delivered { changes, trimmed, deliveries })
    }

    fn failed(&mut self, error: SubscriptionError) -> Option<Event> {
        let pause = match (&error, &mut self.consumer) {
            (SubscriptionError::NotFound { .. }, _) => return Some(Event::Closing(ClosingReason::Deleted)),
            (SubscriptionError::Draining, _) => return Some(Event::Closing(ClosingReason::Draining)),
            (SubscriptionError::Store(error), Detached::Idle(consumer)) => consumer.wait_after(error),
            (SubscriptionError::TooManyConsumers { .. } | SubscriptionError::Overloaded, _) => Some(BUSY_PAUSE),
            // A round does not fail in these ways, but other requests do.
            (
                SubscriptionError::Store(_)
                | SubscriptionError::Differs { .. }
                | SubscriptionError::Invalid(_)
                | SubscriptionError::TooManySubscriptions { .. }
                | SubscriptionError::TooManyOfCredential { .. }
                | SubscriptionError::Forbidden(_)
                | SubscriptionError::SourceDeleted { .. }
                | SubscriptionError::ConsumerRemoved { .. }
                | SubscriptionError::Fenced { .. },
                _,
            ) => None,
        };
        match pause {
            Some(pause) => {
                self.next_step = NextStep::Wait(Some(Instant::now() + pause));
                None
            }
            None => Some(Event::Closing(ClosingReason::InternalError)),
        }
    }
}
