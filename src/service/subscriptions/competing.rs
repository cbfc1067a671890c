//! A round of a consumer of a competing subscription: first what was delivered before and is due again, then new messages.

use super::SubscriptionError;
use super::consumer::{Consumer, Delivery, DeliveryRequest, DeliveryRound};
use super::reading::{Budget, PartitionReader};
use crate::domain::delivery::{Cause, DeliveryStep};
use crate::store::read::PageLimit;
use crate::store::subscriptions::{AckEntry, At, Claim, Claimable, Doubt, StepEntry, Take};

/// Attempts in one round: each ends with something delivered, something passed over, or a cursor that another consumer
/// has moved.
const ATTEMPTS_MAX: usize = 20;
/// A cursor from which nothing is delivered moves on in the database only after this many positions.
const SILENT_MAX: i64 = 1_000;

/// Messages that were taken again.
#[derive(Default)]
pub struct Redelivery {
    /// In order of global position.
    pub deliveries: Vec<Delivery>,
    /// The place after which there may be more, if they were taken in order of places.
    pub next: Option<At>,
    /// Some were tried too often, or their message was deleted: behind them there may be more.
    pub has_ended: bool,
}

impl Consumer {
    pub(super) async fn competing_round(
        &mut self,
        request: DeliveryRequest,
    ) -> Result<DeliveryRound, SubscriptionError> {
        let mut round = DeliveryRound::default();
        let shared = self.shared.clone();
        let _turn = shared.claiming.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            // Every call until here was answered, and has delivered nothing.
            self.doubts.clear();
            let settings = &self.subscription.definition.settings;
            let credit_max = request.in_flight_max.min(settings.max_in_flight);
            let (database, grace_ms) = (&self.consumers.common.database, self.consumers.common.grace_ms());
            let claimable = database
                .subscriptions()
                .claimable(self.subscription.id, &self.name, self.session, credit_max, grace_ms)
                .await?;
            let Some(claimable) = claimable else { return Ok(self.gone()) };
            round.end = self.is_member(claimable.generation, claimable.status).await?;
            if round.end.is_some() {
                return Ok(round);
            }
            round.next = Self::next(claimable.next_ms.filter(|_| !claimable.has_due));
            if !self.may_deliver(claimable.state).await? {
                return Ok(round);
            }
            let given = DeliveryRequest { in_flight_max: credit_max, ..request };
            round.deliveries = self.give_again(given, claimable.in_flight).await?;
            if !round.deliveries.is_empty() {
                return Ok(round);
            }
            if let Some(after) = self.backlog_after {
                // What this connection has been given again and has not acked is in flight; the rest of the backlog waits.
                let (id, database) = (self.subscription.id, &self.consumers.common.database);
                let held = database.subscriptions().own_deliveries_up_to(id, &self.name, after, credit_max).await?;
                let Ok(messages @ 1..) = usize::try_from((credit_max - held).min(request.messages as i64)) else {
                    round.wait_for_room();
                    return Ok(round);
                };
                let redelivery = self.take_again(request.limit(messages), Take::Own { after }, claimable.epoch).await?;
                self.backlog_after = redelivery.next;
                round.deliveries = redelivery.deliveries;
                if !round.deliveries.is_empty() {
                    return Ok(round);
                }
                if self.backlog_after.is_some() {
                    continue;
                }
            }
            if self.deliver_next_claim(request, credit_max, &claimable, &mut round).await? {
                return Ok(round);
            }
        }
        // There may be more: the next round goes on at once.
        round.next = Some(std::time::Duration::ZERO);
        Ok(round)
    }

    /// Delivers what is due again, or claims new messages. Answers whether the round is done.
    async fn deliver_next_claim(
        &mut self,
        request: DeliveryRequest,
        credit_max: i64,
        claimable: &Claimable,
        round: &mut DeliveryRound,
    ) -> Result<bool, SubscriptionError> {
        let is_auto = self.subscription.definition.settings.is_auto();
        let credit = if is_auto {
            request.messages as i64
        } else {
            (credit_max - claimable.in_flight).min(request.messages as i64)
        };
        let Ok(messages @ 1..) = usize::try_from(credit) else {
            round.wait_for_room();
            return Ok(true);
        };
        if claimable.has_due {
            let redelivery = self.take_again(request.limit(messages), Take::Due, claimable.epoch).await?;
            round.deliveries = redelivery.deliveries;
            if !round.deliveries.is_empty() {
                return Ok(true);
            }
            if redelivery.has_ended {
                return Ok(false);
            }
            // Another transaction holds what is due, and may do so for long.
            round.wait_for_room();
        }
        if claimable.cursors.is_empty() {
            round.is_caught_up = !claimable.has_due;
            return Ok(true);
        }
        let shared = self.shared.clone();
        let readers =
            claimable.cursors.iter().map(|at| PartitionReader::shared(at, shared.floor(at.partition, at.read_up_to)));
        let mut readers: Vec<PartitionReader> = readers.collect();
        // In random order, so that no partition comes last every time.
        fastrand::shuffle(&mut readers);
        let budget = Budget { messages, bytes: request.bytes, is_first: true };
        let at_end = self.select(&mut readers, budget).await?;
        let mut all_moved = true;
        self.doubts.push(Doubt::UnderEpoch { epoch: claimable.epoch }.into());
        for one in readers {
            all_moved &= self.claim(one, claimable.epoch, &mut round.deliveries).await?;
        }
        round.deliveries.sort_by_key(|delivery| delivery.message.global_position);
        if !round.deliveries.is_empty() {
            return Ok(true);
        }
        round.is_caught_up = at_end && all_moved;
        Ok(round.is_caught_up)
    }

    /// Moves a shared cursor on, and delivers what that claimed. Answers false if another consumer was faster.
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
            self.doubt_claim_without_ack(one.partition, &positions, &global_positions);
        }
        let claim = Claim {
            subscription: self.subscription.id,
            consumer: &self.name,
            history: self.history_number,
            partition: one.partition,
            rewind_generation: one.rewind_generation,
            expected: one.expected,
            read_up_to: one.cursor,
            positions: &positions,
            global_positions: &global_positions,
            is_auto,
            epoch,
            last_id: one.taken.last().map(|(_, message)| message.id),
        };
        if !self.consumers.common.database.subscriptions().claim(&claim).await? {
            return Ok(false);
        }
        for (position, message) in one.taken {
            deliveries.push(Delivery { partition: one.partition, position, epoch, delivery_count: 1, message });
        }
        Ok(true)
    }

    fn doubt_claim_without_ack(&mut self, partition: i32, positions: &[i64], global_positions: &[i64]) {
        let (positions, global_positions) = (positions.to_vec(), global_positions.to_vec());
        self.doubts.push(Doubt::ClaimedWithoutAck { partition, positions, global_positions }.into());
    }

    async fn ack_at_once(&mut self, deliveries: &[Delivery]) -> Result<(), SubscriptionError> {
        for one in deliveries {
            self.doubt_claim_without_ack(one.partition, &[one.position], &[one.message.global_position]);
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

    /// Takes messages that were delivered before, or parked. The policy is carried out for those that were tried too often,
    /// and those whose message was deleted are skipped.
    pub(super) async fn take_again(
        &mut self,
        limit: PageLimit,
        take: Take<'_>,
        epoch: i64,
    ) -> Result<Redelivery, SubscriptionError> {
        let doubt = match take {
            Take::Replays { .. } => Doubt::Replays,
            Take::Due | Take::Own { .. } | Take::Idle { .. } => Doubt::UnderEpoch { epoch },
        };
        self.doubts.push(doubt.into());
        let (database, policy) = (&self.consumers.common.database, &self.subscription.policy);
        let id = self.subscription.id;
        let taken = database.subscriptions().take(id, &self.name, limit, policy.max_deliveries, take, epoch).await?;
        // Messages that end here count as passed too.
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
            // They were delivered while the subscription still asked for acks, or are replayed.
            self.ack_at_once(&deliveries).await?;
        }
        Ok(Redelivery { deliveries, next, has_ended: !steps.is_empty() })
    }
}
