//! Deliveries of partitioned subscriptions: which partitions a consumer holds, and messages that go to it.

use uuid::Uuid;

use super::acks::read_attempts;
use super::{ConsumerStatus, State};
use crate::domain::delivery::Attempts;
use crate::store::{StoreError, Subscriptions};

/// What a consumer of a partitioned subscription holds at one moment.
#[derive(Debug)]
pub struct Assignments {
    pub generation: i64,
    pub state: State,
    pub status: ConsumerStatus,
    /// How long until something comes due for the consumer.
    pub next_ms: Option<i64>,
    /// Parked messages are to be delivered again.
    pub has_replays: bool,
    /// Replayed messages that the consumer has and has not acked.
    pub replays_in_flight: i64,
    pub held: Vec<Held>,
}

impl Assignments {
    /// Messages that the consumer has and has not acked.
    pub fn in_flight(&self) -> i64 {
        self.replays_in_flight + self.held.iter().map(|held| held.in_flight).sum::<i64>()
    }
}

/// A partition that a consumer holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub partition: i32,
    pub epoch: i64,
    pub committed: i64,
    pub read_up_to: i64,
    pub rewind_generation: i64,
    pub in_flight: i64,
    /// The partition is about to go to another consumer: nothing new is delivered.
    pub is_revoked: bool,
    /// A message that has failed is in flight or waits for its retry, and all that comes after waits for it.
    pub is_held_back: bool,
    /// The next message that has failed before, and how often it was tried.
    pub failed_head: Option<(i64, Attempts)>,
    /// Messages after the committed one that were parked or skipped, and are not delivered any more.
    pub done: Vec<i64>,
}

/// How far a partition moves on.
#[derive(Debug)]
pub struct Advance {
    pub partition: i32,
    pub epoch: i64,
    pub rewind_generation: i64,
    /// `read_up_to` as it was when this was decided.
    pub expected: i64,
    pub read_up_to: i64,
    /// The committed position as it was then.
    pub committed: i64,
    /// The messages that go to the consumer.
    pub positions: Vec<i64>,
    /// Of the last of them, as it was read: 0 and nil if there is none.
    pub last_global_position: i64,
    pub last_id: Uuid,
}

impl Subscriptions<'_> {
    /// Does what has come due for a consumer, and answers what it holds then; `None`: there is no such subscription.
    pub async fn sync_partitions(
        self,
        subscription: i64,
        consumer: &str,
        session: Option<Uuid>,
        grace_ms: i64,
    ) -> Result<Option<Assignments>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT generation AS "generation!", state AS "state!", consumer_status AS "consumer_status!", next_ms,
               has_replays AS "has_replays!", replays_in_flight AS "replays_in_flight!", partition,
               coalesce(epoch, 0) AS "epoch!", coalesce(committed, 0) AS "committed!",
               coalesce(read_up_to, 0) AS "read_up_to!", coalesce(rewind_generation, 0) AS "rewind_generation!",
               coalesce(in_flight, 0) AS "in_flight!", coalesce(is_revoked, false) AS "is_revoked!",
               coalesce(is_held_back, false) AS "is_held_back!", failed_head, failed_head_failures,
               failed_head_deliveries, coalesce(done_positions, '{}') AS "done!"
               FROM headwater.subscription_sync($1, $2, $3, $4)"#,
            subscription,
            consumer,
            session,
            grace_ms
        )
        .fetch_all(self.0)
        .await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut sync = Assignments {
            generation: first.generation,
            state: State::read(&first.state),
            status: ConsumerStatus::read(&first.consumer_status),
            next_ms: first.next_ms,
            has_replays: first.has_replays,
            replays_in_flight: first.replays_in_flight,
            held: Vec::with_capacity(rows.len()),
        };
        for row in rows {
            let Some(partition) = row.partition else { continue };
            sync.held.push(Held {
                partition,
                epoch: row.epoch,
                committed: row.committed,
                read_up_to: row.read_up_to,
                rewind_generation: row.rewind_generation,
                in_flight: row.in_flight,
                is_revoked: row.is_revoked,
                is_held_back: row.is_held_back,
                failed_head: row.failed_head.zip(read_attempts(row.failed_head_failures, row.failed_head_deliveries)),
                done: row.done,
            });
        }
        Ok(Some(sync))
    }

    /// Delivers messages. `history`: the number of the log that they were read from. Answers the partitions that moved on, with how often each message was delivered by now; the
    /// others have changed since the consumer looked.
    pub async fn deliver(
        self,
        subscription: i64,
        consumer: &str,
        history: i64,
        advances: &[Advance],
        is_auto: bool,
    ) -> Result<Vec<(i32, Vec<i32>)>, StoreError> {
        let column = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<i64>>();
        let partitions: Vec<i32> = advances.iter().map(|advance| advance.partition).collect();
        let counts: Vec<i32> = advances.iter().map(|advance| advance.positions.len() as i32).collect();
        let positions: Vec<i64> = advances.iter().flat_map(|advance| advance.positions.iter().copied()).collect();
        let last_ids: Vec<Uuid> = advances.iter().map(|advance| advance.last_id).collect();
        let moved = sqlx::query!(
            r#"SELECT partition AS "partition!", counts AS "counts!"
               FROM headwater.subscription_deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"#,
            subscription,
            consumer,
            history,
            &partitions,
            &column(|advance| advance.epoch),
            &column(|advance| advance.rewind_generation),
            &column(|advance| advance.expected),
            &column(|advance| advance.read_up_to),
            &counts,
            &positions,
            &column(|advance| advance.last_global_position),
            &last_ids,
            is_auto
        );
        Ok(moved.fetch_all(self.0).await?.into_iter().map(|moved| (moved.partition, moved.counts)).collect())
    }
}
