//! Deliveries of partitioned subscriptions: what a consumer holds, and messages that go to it.

use uuid::Uuid;

use super::acks::read_attempts;
use super::{ConsumerStatus, State};
use crate::domain::delivery::Attempts;
use crate::store::{StoreError, Subscriptions};

/// What a consumer finds.
#[derive(Debug)]
pub struct Assignments {
    pub generation: i64,
    pub state: State,
    pub standing: ConsumerStatus,
    /// When it has to look again, whatever happens.
    pub next_ms: Option<i64>,
    /// Parked messages are to be delivered again.
    pub has_replays: bool,
    /// Those of them that it has and has not acked.
    pub replays_in_flight: i64,
    pub held: Vec<Held>,
}

/// A partition that it holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub partition: i32,
    pub epoch: i64,
    pub committed: i64,
    pub read_upto: i64,
    pub rewinds: i64,
    pub in_flight: i64,
    /// It is about to go to another consumer: nothing new is delivered.
    pub is_revoked: bool,
    /// A message in retry holds back all that comes after it.
    pub is_held_back: bool,
    /// The next message that has failed before, and how often it was tried.
    pub suspect: Option<(i64, Attempts)>,
    /// Messages that are not to be delivered any more.
    pub done: Vec<i64>,
}

/// How far a partition moves on.
#[derive(Debug)]
pub struct Advance {
    pub partition: i32,
    pub epoch: i64,
    pub rewinds: i64,
    /// Where it stood when that was decided.
    pub expected: i64,
    pub read_upto: i64,
    /// What was acked then.
    pub committed: i64,
    /// Of the messages that go to the consumer.
    pub positions: Vec<i64>,
}

impl Subscriptions<'_> {
    /// `None`: there is no such subscription.
    pub async fn sync_partitions(
        self,
        subscription: i64,
        consumer: &str,
        session: Option<Uuid>,
        grace_ms: i64,
    ) -> Result<Option<Assignments>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT generation AS "generation!", state AS "state!", standing AS "standing!", next_ms,
               has_replays AS "has_replays!", replays_in_flight AS "replays_in_flight!", partition,
               coalesce(epoch, 0) AS "epoch!", coalesce(committed, 0) AS "committed!",
               coalesce(read_upto, 0) AS "read_upto!", coalesce(rewinds, 0) AS "rewinds!",
               coalesce(in_flight, 0) AS "in_flight!", coalesce(is_revoked, false) AS "is_revoked!",
               coalesce(is_held_back, false) AS "is_held_back!", suspect, suspect_failures, suspect_deliveries,
               coalesce(done_positions, '{}') AS "done!"
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
            standing: ConsumerStatus::read(&first.standing),
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
                read_upto: row.read_upto,
                rewinds: row.rewinds,
                in_flight: row.in_flight,
                is_revoked: row.is_revoked,
                is_held_back: row.is_held_back,
                suspect: row.suspect.zip(read_attempts(row.suspect_failures, row.suspect_deliveries)),
                done: row.done,
            });
        }
        Ok(Some(sync))
    }

    /// Answers the partitions that moved on, with how often each message was delivered by now. The others have changed
    /// since.
    pub async fn deliver(
        self,
        subscription: i64,
        consumer: &str,
        advances: &[Advance],
        is_auto: bool,
    ) -> Result<Vec<(i32, Vec<i32>)>, StoreError> {
        let column = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<i64>>();
        let partitions: Vec<i32> = advances.iter().map(|advance| advance.partition).collect();
        let counts: Vec<i32> = advances.iter().map(|advance| advance.positions.len() as i32).collect();
        let positions: Vec<i64> = advances.iter().flat_map(|advance| advance.positions.iter().copied()).collect();
        let moved = sqlx::query!(
            r#"SELECT partition AS "partition!", counts AS "counts!"
               FROM headwater.subscription_deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"#,
            subscription,
            consumer,
            &partitions,
            &column(|advance| advance.epoch),
            &column(|advance| advance.rewinds),
            &column(|advance| advance.expected),
            &column(|advance| advance.read_upto),
            &counts,
            &positions,
            is_auto
        );
        Ok(moved.fetch_all(self.0).await?.into_iter().map(|moved| (moved.partition, moved.counts)).collect())
    }
}
