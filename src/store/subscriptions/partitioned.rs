//! Deliveries of partitioned subscriptions: what a consumer holds, and messages that go to it.

use uuid::Uuid;

use super::acks::read_attempts;
use super::{Standing, State};
use crate::domain::delivery::Attempts;
use crate::store::{Database, StoreError};

/// What a consumer finds.
#[derive(Debug)]
pub struct Sync {
    pub generation: i64,
    pub state: State,
    pub standing: Standing,
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

impl Database {
    /// `None`: there is no such subscription.
    pub async fn sync_partitions(
        &self,
        subscription: i64,
        consumer: &str,
        session: Option<Uuid>,
        grace_ms: i64,
    ) -> Result<Option<Sync>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT * FROM headwater.subscription_sync($1, $2, $3, $4)").await?;
        let rows = client.query(&statement, &[&subscription, &consumer, &session, &grace_ms]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut sync = Sync {
            generation: first.try_get(0)?,
            state: State::read(first.try_get(1)?),
            standing: Standing::read(first.try_get(2)?),
            next_ms: first.try_get(3)?,
            has_replays: first.try_get(4)?,
            replays_in_flight: first.try_get(5)?,
            held: Vec::with_capacity(rows.len()),
        };
        for row in &rows {
            let Some(partition) = row.try_get(6)? else { continue };
            let suspect: Option<i64> = row.try_get(14)?;
            sync.held.push(Held {
                partition,
                epoch: row.try_get(7)?,
                committed: row.try_get(8)?,
                read_upto: row.try_get(9)?,
                rewinds: row.try_get(10)?,
                in_flight: row.try_get(11)?,
                is_revoked: row.try_get(12)?,
                is_held_back: row.try_get(13)?,
                suspect: suspect.zip(read_attempts(row.try_get(15)?, row.try_get(16)?)),
                done: row.try_get(17)?,
            });
        }
        Ok(Some(sync))
    }

    /// Answers the partitions that moved on, with how often each message was delivered by now. The others have changed
    /// since.
    pub async fn deliver(
        &self,
        subscription: i64,
        consumer: &str,
        advances: &[Advance],
        is_auto: bool,
    ) -> Result<Vec<(i32, Vec<i32>)>, StoreError> {
        let column = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<i64>>();
        let partitions: Vec<i32> = advances.iter().map(|advance| advance.partition).collect();
        let counts: Vec<i32> = advances.iter().map(|advance| advance.positions.len() as i32).collect();
        let positions: Vec<i64> = advances.iter().flat_map(|advance| advance.positions.iter().copied()).collect();
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT partition, counts FROM headwater.subscription_deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .await?;
        let rows = client
            .query(
                &statement,
                &[
                    &subscription,
                    &consumer,
                    &partitions,
                    &column(|advance| advance.epoch),
                    &column(|advance| advance.rewinds),
                    &column(|advance| advance.expected),
                    &column(|advance| advance.read_upto),
                    &counts,
                    &positions,
                    &is_auto,
                ],
            )
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
