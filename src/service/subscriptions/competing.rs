//! A round of a consumer that shares all messages with others: first what was delivered before, then what is new.

use super::SubscriptionError;
use super::consumer::{Consumer, Delivery, DeliveryRequest, DeliveryRound};
use super::reading::{Budget, PartitionReader};
use crate::domain::delivery::{Cause, DeliveryStep};
use crate::store::read::PageLimit;
use crate::store::subscriptions::{AckEntry, At, Claim, Doubt, Look, StepEntry, Take};

/// Attempts of one round: each ends with something delivered, something passed over, or a cursor that somebody moved.
const ATTEMPTS_MAX: usize = 20;
/// A cursor that passes over nothing of its source moves on in the database after so many positions.
const SILENT_MAX: i64 = 1_000;

/// Messages that were taken again.
#[derive(Default)]
pub struct Redelivery {
    /// By global position.
    pub deliveries: Vec<Delivery>,
    /// The place after which there may be more, where there is an order of places.
    pub next: Option<At>,
    /// Some were tried too often, or their message is gone: behind them there may be more.
    pub has_ended: bool,
}

impl Consumer {
    pub(super) async fn competing_round(
        &mut self,
        request: DeliveryRequest,
    ) -> Result<DeliveryRound, SubscriptionError> {
        let mut round = DeliveryRound::default();
        let local = self.local.clone();
        let _turn = local.claiming.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            // All that was asked for until here is answered, and nothing has come of it.
            self.doubts.clear();
            let settings = &self.subscription.definition.settings;
            let credit_max = request.in_flight_max.min(settings.max_in_flight);
            let (database, grace_ms) = (&self.consumers.common.database, self.consumers.common.grace_ms());
            let look = database
                .subscriptions()
                .look_at_deliveries(self.subscription.id, &self.name, self.session, credit_max, grace_ms)
                .await?;
            let Some(look) = look else { return Ok(self.gone()) };
            round.end = self.is_member(look.generation, look.standing).await?;
            if round.end.is_some() {
                return Ok(round);
            }
            round.next = Self::next(look.next_ms.filter(|_| !look.has_due));
            if !self.may_deliver(look.state).await? {
                return Ok(round);
            }
            round.deliveries = self.give_again(DeliveryRequest { in_flight_max: credit_max, ..request }).await?;
            if !round.deliveries.is_empty() {
                return Ok(round);
            }
            if let Some(after) = self.backlog_after {
                // What has come again and is not acked counts as in flight; the rest of the backlog waits for its turn.
                let (id, database) = (self.subscription.id, &self.consumers.common.database);
                let held = database.subscriptions().own_deliveries_upto(id, &self.name, after, credit_max).await?;
                let Ok(messages @ 1..) = usize::try_from((credit_max - held).min(request.messages as i64)) else {
                    round.wait_for_room();
                    return Ok(round);
                };
                let again = self.take_again(request.limit(messages), Take::Own { after }, look.epoch).await?;
                self.backlog_after = again.next;
                round.deliveries = again.deliveries;
                if !round.deliveries.is_empty() {
                    return Ok(round);
                }
                if self.backlog_after.is_some() {
                    continue;
                }
            }
            if self.deliver_next_claim(request, credit_max, &look, &mut round).await? {
                return Ok(round);
            }
        }
        // Not at the end: the next round goes on.
        round.next = Some(std::time::Duration::ZERO);
        Ok(round)
    }

    /// Answers whether the round is done.
    async fn deliver_next_claim(
        &mut self,
        request: DeliveryRequest,
        credit_max: i64,
        look: &Look,
        round: &mut DeliveryRound,
    ) -> Result<bool, SubscriptionError> {
        let is_auto = self.subscription.definition.settings.is_auto();
        let credit =
            if is_auto { request.messages as i64 } else { (credit_max - look.in_flight).min(request.messages as i64) };
        let Ok(messages @ 1..) = usize::try_from(credit) else {
            round.wait_for_room();
            return Ok(true);
        };
        if look.has_due {
            let again = self.take_again(request.limit(messages), Take::Due, look.epoch).await?;
            round.deliveries = again.deliveries;
            if !round.deliveries.is_empty() {
                return Ok(true);
            }
            if again.has_ended {
                return Ok(false);
            }
        }
        if look.cursors.is_empty() {
            round.is_caught_up = !look.has_due;
            return Ok(round.is_caught_up);
        }
        let local = self.local.clone();
        let open = look.cursors.iter().map(|at| PartitionReader::shared(*at, local.floor(at.partition, at.position)));
        let mut open: Vec<PartitionReader> = open.collect();
        // Nobody's partition comes last every time.
        fastrand::shuffle(&mut open);
        let room = Budget { messages, bytes: request.bytes, is_first: true };
        let at_end = self.select(&mut open, room).await?;
        let mut all_moved = true;
        self.doubts.push(Doubt::Taken { epoch: look.epoch }.into());
        for one in open {
            all_moved &= self.claim(one, look.epoch, &mut round.deliveries).await?;
        }
        round.deliveries.sort_by_key(|delivery| delivery.message.global_position);
        if !round.deliveries.is_empty() {
            return Ok(true);
        }
        round.is_caught_up = at_end && all_moved;
        Ok(round.is_caught_up)
    }

    /// Moves a shared cursor on; what was claimed by that is delivered. Answers whether nobody was faster.
    async fn claim(
        &mut self,
        one: PartitionReader,
        epoch: i64,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<bool, SubscriptionError> {
        let is_worth_it = !one.taken.is_empty() || one.has_passed || one.cursor - one.expected > SILENT_MAX;
        if !is_worth_it || one.cursor <= one.expected {
            self.set_floor(one.partition, one.expected, one.cursor);
            return Ok(true);
        }
        let positions: Vec<i64> = one.taken.iter().map(|(position, _)| *position).collect();
        let global_positions: Vec<i64> = one.taken.iter().map(|(_, message)| message.global_position).collect();
        let is_auto = self.subscription.definition.settings.is_auto();
        if is_auto {
            self.doubt_what_needs_no_ack(one.partition, &positions, &global_positions);
        }
        let claim = Claim {
            subscription: self.subscription.id,
            consumer: &self.name,
            partition: one.partition,
            expected: one.expected,
            read_upto: one.cursor,
            positions: &positions,
            global_positions: &global_positions,
            is_auto,
            epoch,
        };
        if !self.consumers.common.database.subscriptions().claim(&claim).await? {
            return Ok(false);
        }
        for (position, message) in one.taken {
            deliveries.push(Delivery { partition: one.partition, position, epoch, delivery_count: 1, message });
        }
        Ok(true)
    }

    fn doubt_what_needs_no_ack(&mut self, partition: i32, positions: &[i64], global_positions: &[i64]) {
        let (positions, global_positions) = (positions.to_vec(), global_positions.to_vec());
        self.doubts.push(Doubt::ClaimedAtOnce { partition, positions, global_positions }.into());
    }

    async fn ack_at_once(&mut self, deliveries: &[Delivery]) -> Result<(), SubscriptionError> {
        for one in deliveries {
            self.doubt_what_needs_no_ack(one.partition, &[one.position], &[one.message.global_position]);
        }
        let entry = |delivery: &Delivery| AckEntry {
            subscription: self.subscription.id,
            consumer: self.name.clone(),
            at: At { partition: delivery.partition, position: delivery.position },
            epoch: delivery.epoch,
        };
        let entries: Vec<AckEntry> = deliveries.iter().map(entry).collect();
        self.consumers.common.database.subscriptions().ack_each(&entries.iter().collect::<Vec<_>>()).await?;
        Ok(())
    }

    /// Takes messages that were delivered before, or parked; those that were tried too often end as the policy says,
    /// and those whose message is gone are over.
    pub(super) async fn take_again(
        &mut self,
        limit: PageLimit,
        take: Take<'_>,
        epoch: i64,
    ) -> Result<Redelivery, SubscriptionError> {
        let doubt = match take {
            Take::Replays => Doubt::Replays,
            Take::Due | Take::Own { .. } | Take::Idle { .. } => Doubt::Taken { epoch },
        };
        self.doubts.push(doubt.into());
        let (database, policy) = (&self.consumers.common.database, &self.subscription.policy);
        let id = self.subscription.id;
        let taken = database.subscriptions().take(id, &self.name, limit, policy.max_deliveries, take, epoch).await?;
        // They come in the order of the log. One that ends here is passed all the same.
        let next = taken.iter().filter(|taken| taken.has_more).map(|taken| taken.at).max();
        let wanted = taken.iter().filter(|taken| !taken.is_exhausted).map(|taken| taken.global_position);
        let mut messages: std::collections::HashMap<_, _> = match wanted.collect::<Vec<_>>() {
            wanted if wanted.is_empty() => Default::default(),
            wanted => database.subscriptions().messages_at(&wanted).await?,
        };
        let (mut deliveries, mut steps) = (Vec::new(), Vec::new());
        for taken in taken {
            let message = messages.remove(&taken.global_position);
            let step = match (taken.is_exhausted, message) {
                (false, Some(message)) => {
                    deliveries.push(Delivery {
                        partition: taken.at.partition,
                        position: taken.at.position,
                        epoch: taken.epoch,
                        delivery_count: taken.delivery_count,
                        message: message.into(),
                    });
                    continue;
                }
                (false, None) => DeliveryStep::Skip,
                (true, _) => policy.exhausted(),
            };
            let entry = AckEntry { subscription: id, consumer: self.name.clone(), at: taken.at, epoch: taken.epoch };
            steps.push(StepEntry { entry, step, cause: Cause::Exhausted, reason: None });
        }
        if !steps.is_empty() {
            database.subscriptions().step(&steps).await?;
        }
        if self.subscription.definition.settings.is_auto() {
            // They were delivered first while acks were asked for, or are replayed.
            self.ack_at_once(&deliveries).await?;
        }
        Ok(Redelivery { deliveries, next, has_ended: !steps.is_empty() })
    }
}
