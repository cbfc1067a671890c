//! A round of a consumer of a partitioned subscription: each of its partitions' messages in order.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::SubscriptionError;
use super::consumer::{Consumer, Delivery, DeliveryRequest, DeliveryRound};
use super::reading::{Budget, PartitionReader};
use crate::domain::delivery::Cause;
use crate::store::subscriptions::{AckEntry, Advance, Assignments, At, Doubt, Held, StepEntry, Take};

/// Attempts in one round: each ends with something delivered, something passed over, or a partition that has changed.
const ATTEMPTS_MAX: usize = 20;
/// A partition to which nothing is delivered moves on in the database only after this many positions, or after that many
/// for each partition that the consumer holds, if that is more.
const SILENT_MAX: i64 = 1_000;
const SILENT_PER_PARTITION: i64 = 64;

impl Consumer {
    pub(super) async fn partitioned_round(
        &mut self,
        request: DeliveryRequest,
    ) -> Result<DeliveryRound, SubscriptionError> {
        let mut round = DeliveryRound::default();
        for _ in 0..ATTEMPTS_MAX {
            // Every call until here was answered, and has delivered nothing.
            self.doubts.clear();
            let database = &self.consumers.common.database;
            let grace_ms = self.consumers.common.grace_ms();
            let sync = database
                .subscriptions()
                .sync_partitions(self.subscription.id, &self.name, self.session, grace_ms)
                .await?;
            let Some(sync) = sync else { return Ok(self.gone()) };
            round.end = self.is_member(sync.generation, sync.status).await?;
            if round.end.is_some() {
                return Ok(round);
            }
            if self.session.is_some() {
                self.note_changes(&sync.held);
            }
            round.next = Self::next(sync.next_ms);
            if !self.may_deliver(sync.state).await? {
                return Ok(round);
            }
            round.deliveries = self.give_again(request, sync.in_flight()).await?;
            if !round.deliveries.is_empty() {
                return Ok(round);
            }
            if self.end_exhausted(&sync.held).await? {
                continue;
            }
            if self.deliver_next(request, &sync, &mut round).await? {
                return Ok(round);
            }
        }
        // There may be more: the next round goes on at once.
        round.next = Some(std::time::Duration::ZERO);
        Ok(round)
    }

    /// Delivers replays, or what comes next. Answers whether the round is done.
    async fn deliver_next(
        &mut self,
        request: DeliveryRequest,
        sync: &Assignments,
        round: &mut DeliveryRound,
    ) -> Result<bool, SubscriptionError> {
        let settings = &self.subscription.definition.settings;
        let in_flight = sync.in_flight();
        // Messages that were parked or skipped before their turn are remembered until then, so they count too. But the
        // message before them has to be delivered: while nothing is in flight there is credit for one.
        let remembered: i64 = sync.held.iter().map(|held| held.done.len() as i64).sum();
        let credit = request.in_flight_max.min(settings.max_in_flight) - in_flight - remembered;
        let credit = if in_flight == 0 { credit.max(1) } else { credit };
        let messages = if settings.is_auto() { request.messages as i64 } else { credit.min(request.messages as i64) };
        let Ok(messages @ 1..) = usize::try_from(messages) else {
            round.wait_for_room();
            return Ok(true);
        };
        if sync.has_replays {
            let redelivery = self.take_again(request.limit(messages), Take::Replays { held: &sync.held }, 0).await?;
            round.deliveries = redelivery.deliveries;
            if !round.deliveries.is_empty() {
                return Ok(true);
            }
            if redelivery.has_ended {
                return Ok(false);
            }
        }
        let shared = self.shared.clone();
        let mut readers: Vec<PartitionReader> = sync
            .held
            .iter()
            .filter(|held| !held.is_revoked && !held.is_held_back)
            .map(|held| PartitionReader::of(held, shared.floor(held.partition, held.read_up_to)))
            .collect();
        if readers.is_empty() {
            return Ok(true);
        }
        let budget = Budget { messages, bytes: request.bytes, is_first: true };
        let at_end = self.select(&mut readers, budget).await?;
        // A message that failed before is delivered alone, so it waits until nothing is in flight.
        let is_waiting = readers.iter().all(PartitionReader::waits_for_acks);
        round.deliveries = self.deliver(&sync.held, readers).await?;
        if !round.deliveries.is_empty() {
            return Ok(true);
        }
        round.is_caught_up = at_end;
        if at_end {
            self.watch(sync);
        }
        Ok(at_end || is_waiting)
    }

    /// Moves the partitions on in the database. Messages of those that moved are delivered.
    async fn deliver(
        &mut self,
        held: &[Held],
        readers: Vec<PartitionReader>,
    ) -> Result<Vec<Delivery>, SubscriptionError> {
        let silent_max = SILENT_MAX.max(SILENT_PER_PARTITION * held.len() as i64);
        let by_partition: HashMap<i32, &Held> = held.iter().map(|held| (held.partition, held)).collect();
        let mut moving = Vec::new();
        for one in readers {
            let is_worth_it = !one.taken.is_empty() || one.has_passed || one.cursor - one.expected > silent_max;
            if is_worth_it && one.cursor > one.expected {
                moving.push(one);
            } else {
                self.set_floor(one.partition, one.expected, one.cursor);
            }
        }
        if moving.is_empty() {
            return Ok(Vec::new());
        }
        let mut advances: Vec<Advance> = moving
            .iter()
            .filter_map(|one| {
                let held = by_partition.get(&one.partition)?;
                Some(Advance {
                    partition: one.partition,
                    epoch: held.epoch,
                    rewind_generation: held.rewind_generation,
                    expected: one.expected,
                    read_up_to: one.cursor,
                    committed: held.committed,
                    positions: one.taken.iter().map(|(position, _)| *position).collect(),
                    last_global_position: one.taken.last().map_or(0, |(_, message)| message.global_position),
                    last_id: one.taken.last().map_or(Uuid::nil(), |(_, message)| message.id),
                })
            })
            .collect();
        // In the order in which every statement locks them.
        advances.sort_by_key(|advance| advance.partition);
        let advances: Arc<[Advance]> = advances.into();
        let is_auto = self.subscription.definition.settings.is_auto();
        self.doubts.push(Doubt::Delivered { advances: advances.clone(), is_auto }.into());
        let database = &self.consumers.common.database;
        let (id, history) = (self.subscription.id, self.history_number);
        let moved = database.subscriptions().deliver(id, &self.name, history, &advances, is_auto).await?;
        let moved: HashMap<i32, Vec<i32>> = moved.into_iter().collect();
        let mut deliveries = Vec::new();
        for one in moving {
            let (Some(counts), Some(held)) = (moved.get(&one.partition), by_partition.get(&one.partition)) else {
                continue;
            };
            for ((position, message), count) in one.taken.into_iter().zip(counts) {
                deliveries.push(Delivery {
                    partition: one.partition,
                    position,
                    epoch: held.epoch,
                    delivery_count: i64::from(*count),
                    message,
                });
            }
        }
        deliveries.sort_by_key(|delivery| delivery.message.global_position);
        Ok(deliveries)
    }

    /// Carries out the policy for messages that were delivered as often as they may be. Answers whether there were any.
    async fn end_exhausted(&self, held: &[Held]) -> Result<bool, SubscriptionError> {
        let policy = &self.subscription.policy;
        let exhausted = held.iter().filter_map(|held| {
            let (position, attempts) = held.failed_head?;
            policy.is_exhausted(attempts).then(|| StepEntry {
                entry: AckEntry {
                    subscription: self.subscription.id,
                    consumer: self.name.clone(),
                    at: At { partition: held.partition, position },
                    epoch: held.epoch,
                },
                step: policy.exhausted(),
                cause: Cause::Exhausted,
                reason: None,
            })
        });
        let steps: Vec<StepEntry> = exhausted.collect();
        if steps.is_empty() {
            return Ok(false);
        }
        self.consumers.common.database.subscriptions().step(&steps).await?;
        Ok(true)
    }
}
