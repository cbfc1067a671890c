//! Answers that were lost: what they may have delivered is taken back, and what was given is given once more.

use std::sync::Arc;

use super::{Advance, At};
use crate::store::read::PageLimit;
use crate::store::{StoreError, Subscriptions};

/// What a consumer may have been given by a call whose answer did not arrive.
#[derive(Debug, Clone)]
pub enum Doubt {
    /// Messages of its partitions.
    Delivered { advances: Arc<[Advance]>, is_auto: bool },
    /// Deliveries under an epoch of their own.
    UnderEpoch { epoch: i64 },
    /// New messages that need no ack: there are no rows of their deliveries.
    ClaimedWithoutAck { partition: i32, positions: Vec<i64>, global_positions: Vec<i64> },
    /// Parked messages of the consumer's partitions that are replayed.
    Replays,
}

/// A delivery that a consumer has and has not acked.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub at: At,
    pub global_position: i64,
    pub epoch: i64,
    pub delivery_count: i64,
}

impl Subscriptions<'_> {
    /// Takes back what may have been delivered. A second call changes nothing.
    pub async fn take_back(self, subscription: i64, consumer: &str, doubt: &Doubt) -> Result<(), StoreError> {
        let none: (&[i64], &[i64]) = (&[], &[]);
        match doubt {
            Doubt::Delivered { advances, is_auto } => self.take_back_advances(subscription, advances, *is_auto).await,
            Doubt::UnderEpoch { epoch } => self.give_back(subscription, consumer, Some(*epoch), 0, none).await,
            Doubt::Replays => self.give_back(subscription, consumer, None, 0, none).await,
            Doubt::ClaimedWithoutAck { partition, positions, global_positions } => {
                // No delivery has this epoch: those that have rows stay.
                let claimed: (&[i64], &[i64]) = (positions, global_positions);
                self.give_back(subscription, consumer, Some(-1), *partition, claimed).await
            }
        }
    }

    async fn take_back_advances(
        self,
        subscription: i64,
        advances: &[Advance],
        is_auto: bool,
    ) -> Result<(), StoreError> {
        let column = |of: fn(&Advance) -> i64| advances.iter().map(of).collect::<Vec<i64>>();
        let partitions: Vec<i32> = advances.iter().map(|advance| advance.partition).collect();
        sqlx::query!(
            "SELECT headwater.subscription_take_back($1, $2, $3, $4, $5, $6, $7, $8)",
            subscription,
            &partitions,
            &column(|advance| advance.epoch),
            &column(|advance| advance.rewind_generation),
            &column(|advance| advance.expected),
            &column(|advance| advance.read_up_to),
            &column(|advance| advance.committed),
            is_auto
        )
        .fetch_one(self.0)
        .await?;
        Ok(())
    }

    async fn give_back(
        self,
        subscription: i64,
        consumer: &str,
        epoch: Option<i64>,
        partition: i32,
        (positions, global_positions): (&[i64], &[i64]),
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "SELECT headwater.subscription_give_back($1, $2, $3, $4, $5, $6)",
            subscription,
            consumer,
            epoch,
            partition,
            positions,
            global_positions
        )
        .fetch_one(self.0)
        .await?;
        Ok(())
    }

    /// What a consumer has and has not acked, by partition and position.
    pub async fn given(self, subscription: i64, consumer: &str, limit: PageLimit) -> Result<Vec<Given>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT partition AS "partition!", position AS "position!", global_position, epoch AS "epoch!",
               delivery_count AS "delivery_count!" FROM headwater.subscription_given($1, $2, $3, $4)"#,
            subscription,
            consumer,
            limit.messages,
            limit.bytes()
        )
        .fetch_all(self.0)
        .await?;
        let mut given = Vec::with_capacity(rows.len());
        for row in rows {
            // The message may have been deleted.
            let Some(global_position) = row.global_position else { continue };
            given.push(Given {
                at: At { partition: row.partition, position: row.position },
                global_position,
                epoch: row.epoch,
                delivery_count: row.delivery_count.into(),
            });
        }
        given.sort_by_key(|given| given.at);
        Ok(given)
    }
}
