//! What reports show of a subscription: pending deliveries, dead letters, consumers, and how far it is behind.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::At;
use crate::domain::message::Message;
use crate::domain::time::Timestamp;
use crate::store::read::{AFTER_COLUMNS, COLUMNS, message_of};
use crate::store::{StoreError, Subscriptions};

/// A message that was delivered and not acked.
#[derive(Debug)]
pub struct PendingDelivery {
    pub at: At,
    pub epoch: i64,
    /// `None`: the message waits to be delivered again.
    pub consumer: Option<String>,
    pub idle_ms: i64,
    pub delivery_count: i64,
    pub last_error: Option<String>,
}

/// How many pending deliveries one consumer has, and which.
#[derive(Debug)]
pub struct PendingSummary {
    pub consumer: Option<String>,
    pub count: i64,
    pub first: At,
    pub last: At,
    pub oldest_ms: i64,
}

/// A dead letter. The message may have been deleted since.
#[derive(Debug)]
pub struct ParkedMessage {
    pub at: At,
    pub cause: String,
    pub last_error: Option<String>,
    pub consumer: Option<String>,
    pub delivery_count: i64,
    pub parked_at: Timestamp,
    pub message: Option<Message>,
}

#[derive(Debug)]
pub struct ConsumerInfo {
    pub name: String,
    pub is_connected: bool,
    pub joined_at: Timestamp,
    pub expires_in_ms: i64,
    pub partitions: Vec<i32>,
    pub in_flight: i64,
}

/// How far a subscription is behind.
#[derive(Debug)]
pub struct Lag {
    pub partitions: Vec<PartitionLag>,
    /// Otherwise `undelivered` is what was counted until now: the rest is still being counted.
    pub is_exact: bool,
}

impl Lag {
    /// Messages not delivered. At least 1 while the number is not exact: a client that waits for 0 would stop too early.
    pub fn delivered(&self) -> i64 {
        self.partitions.iter().map(|one| one.undelivered).sum::<i64>().max(i64::from(!self.is_exact))
    }

    /// Messages not acked.
    pub fn committed(&self) -> i64 {
        self.delivered() + self.partitions.iter().map(|one| one.in_flight).sum::<i64>()
    }
}

/// How far a partition is behind.
#[derive(Debug)]
pub struct PartitionLag {
    pub partition: i32,
    pub committed: i64,
    pub delivered: i64,
    pub consumer: Option<String>,
    pub epoch: i64,
    pub is_held_back: bool,
    /// Messages of the source that were not delivered yet.
    pub undelivered: i64,
    pub in_flight: i64,
    pub oldest_unacked_ms: Option<i64>,
    /// The position up to which everything is acked.
    pub acked_up_to: i64,
}

impl Subscriptions<'_> {
    /// Pending deliveries in order of place, after a place.
    pub async fn pending_deliveries(
        self,
        subscription: i64,
        consumer: Option<&str>,
        min_idle_ms: i64,
        after: At,
        limit: i64,
    ) -> Result<Vec<PendingDelivery>, StoreError> {
        // With a consumer there is an index to use: PostgreSQL plans this statement anew each time, as long as that is
        // much cheaper than a plan for both cases.
        let rows = sqlx::query!(
            r#"SELECT partition AS "partition!", position AS "position!", epoch AS "epoch!", consumer,
               (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint AS "idle_ms!", count AS "count!", last_error
               FROM (
               (SELECT x.partition, x.position, x.epoch, x.consumer, x.delivered_at AS at, x.delivery_count AS count,
               x.last_error FROM headwater.subscription_deliveries AS x
               WHERE x.subscription_id = $1 AND ($2::text IS NULL OR x.consumer = $2)
               AND (x.partition, x.position) > ($4, $5)
               AND x.delivered_at <= clock_timestamp() - $3::float8 * interval '1 millisecond'
               ORDER BY x.partition, x.position LIMIT $6)
               UNION ALL
               SELECT x.partition, k.position, x.epoch, x.consumer, k.at, k.count, NULL
               FROM headwater.subscription_partitions AS x
               CROSS JOIN LATERAL unnest(x.unacked_positions, x.unacked_counts, x.unacked_times) AS k (position, count, at)
               WHERE x.subscription_id = $1 AND ($2::text IS NULL OR x.consumer = $2)
               AND (x.partition, k.position) > ($4, $5) AND k.position <= x.read_up_to
               AND k.at <= clock_timestamp() - $3::float8 * interval '1 millisecond'
               ) AS p ORDER BY partition, position LIMIT $6"#,
            subscription,
            consumer,
            min_idle_ms as f64,
            after.partition,
            after.position,
            limit
        )
        .fetch_all(self.0)
        .await?;
        let read = rows.into_iter().map(|row| PendingDelivery {
            at: At { partition: row.partition, position: row.position },
            epoch: row.epoch,
            consumer: row.consumer,
            idle_ms: row.idle_ms,
            delivery_count: row.count.into(),
            last_error: row.last_error,
        });
        Ok(read.collect())
    }

    /// Pending deliveries by consumer; last those that no consumer has, because they wait to be delivered again.
    pub async fn pending_summary(self, subscription: i64) -> Result<Vec<PendingSummary>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT consumer, count(*) AS "count!",
               (array_agg(partition ORDER BY partition, position))[1] AS "first_partition!",
               (array_agg(position ORDER BY partition, position))[1] AS "first_position!",
               (array_agg(partition ORDER BY partition DESC, position DESC))[1] AS "last_partition!",
               (array_agg(position ORDER BY partition DESC, position DESC))[1] AS "last_position!",
               max((extract(epoch FROM clock_timestamp() - at) * 1000)::bigint) AS "oldest_ms!" FROM (
               SELECT partition, position, consumer, delivered_at AS at FROM headwater.subscription_deliveries
               WHERE subscription_id = $1 AND delivered_at IS NOT NULL
               UNION ALL SELECT x.partition, k.position, x.consumer, k.at FROM headwater.subscription_partitions AS x
               CROSS JOIN LATERAL unnest(x.unacked_positions, x.unacked_times) AS k (position, at)
               WHERE x.subscription_id = $1 AND k.position <= x.read_up_to) AS p GROUP BY consumer ORDER BY consumer"#,
            subscription
        )
        .fetch_all(self.0)
        .await?;
        let read = rows.into_iter().map(|row| PendingSummary {
            consumer: row.consumer,
            count: row.count,
            first: At { partition: row.first_partition, position: row.first_position },
            last: At { partition: row.last_partition, position: row.last_position },
            oldest_ms: row.oldest_ms,
        });
        Ok(read.collect())
    }

    /// Dead letters in order of place, after a place.
    pub async fn parked_messages(
        self,
        subscription: i64,
        after: At,
        limit: i64,
    ) -> Result<Vec<ParkedMessage>, StoreError> {
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS}, k.partition, k.position, k.cause, k.last_error, k.consumer, \
             k.delivery_count, k.parked_at AT TIME ZONE 'UTC' FROM headwater.subscription_parked AS k \
             LEFT JOIN message_store.messages AS m ON m.global_position = k.global_position \
             WHERE k.subscription_id = $1 AND (k.partition, k.position) > ($2, $3) \
             ORDER BY k.partition, k.position LIMIT $4"
        );
        let client = self.0.reader().await?;
        let statement = client.prepare_cached(&sql).await?;
        let rows = client.query(&statement, &[&subscription, &after.partition, &after.position, &limit]).await?;
        let read = |row: &Row| {
            let has_message = row.try_get::<_, Option<i64>>(5)?.is_some();
            Ok(ParkedMessage {
                message: if has_message { Some(message_of(row)?) } else { None },
                at: At { partition: row.try_get(AFTER_COLUMNS)?, position: row.try_get(AFTER_COLUMNS + 1)? },
                cause: row.try_get(AFTER_COLUMNS + 2)?,
                last_error: row.try_get(AFTER_COLUMNS + 3)?,
                consumer: row.try_get(AFTER_COLUMNS + 4)?,
                delivery_count: row.try_get::<_, i32>(AFTER_COLUMNS + 5)?.into(),
                parked_at: row.try_get(AFTER_COLUMNS + 6)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Lets parked messages be delivered again: `which`, or all. Answers how many there were.
    pub async fn replay_parked(self, subscription: i64, which: Option<&[At]>) -> Result<i64, StoreError> {
        let partitions = which.map(|which| which.iter().map(|at| at.partition).collect::<Vec<_>>());
        let positions = which.map(|which| which.iter().map(|at| at.position).collect::<Vec<_>>());
        let count = sqlx::query_scalar!(
            r#"SELECT headwater.subscription_replay($1, $2, $3) AS "count!""#,
            subscription,
            partitions.as_deref(),
            positions.as_deref()
        );
        Ok(count.fetch_one(self.0).await?)
    }

    /// Deletes a dead letter. Answers whether there was one.
    pub async fn delete_parked(self, subscription: i64, at: At) -> Result<bool, StoreError> {
        let deleting = sqlx::query!(
            "DELETE FROM headwater.subscription_parked WHERE subscription_id = $1 AND partition = $2 AND position = $3",
            subscription,
            at.partition,
            at.position
        );
        Ok(deleting.execute(self.0).await?.rows_affected() > 0)
    }

    pub async fn consumers(self, subscription: i64) -> Result<Vec<ConsumerInfo>, StoreError> {
        let consumers = sqlx::query_as!(
            ConsumerInfo,
            r#"SELECT c.name, c.is_connected, c.joined_at AT TIME ZONE 'UTC' AS "joined_at!: Timestamp",
               (extract(epoch FROM c.expires_at - clock_timestamp()) * 1000)::bigint AS "expires_in_ms!",
               coalesce(p.partitions, '{}') AS "partitions!", coalesce(p.in_flight, 0)::bigint + d.count AS "in_flight!"
               FROM headwater.subscription_consumers AS c LEFT JOIN LATERAL (
               SELECT array_agg(p.partition ORDER BY p.partition) AS partitions, sum((
               SELECT count(*) FROM unnest(p.unacked_positions) AS k (position) WHERE k.position <= p.read_up_to
               )) AS in_flight FROM headwater.subscription_partitions AS p
               WHERE p.subscription_id = $1 AND p.consumer = c.name) AS p ON true
               CROSS JOIN LATERAL (SELECT count(*) AS count FROM headwater.subscription_deliveries AS d
               WHERE d.subscription_id = $1 AND d.consumer = c.name) AS d
               WHERE c.subscription_id = $1 ORDER BY c.name"#,
            subscription
        );
        Ok(consumers.fetch_all(self.0).await?)
    }

    /// How far a subscription is behind a settled position.
    pub async fn lag(self, subscription: i64, settled: i64) -> Result<Lag, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT partition AS "partition!", committed AS "committed!", delivered AS "delivered!", consumer,
               epoch AS "epoch!", is_held_back AS "is_held_back!", undelivered AS "undelivered!",
               in_flight AS "in_flight!", oldest_ms, acked_up_to AS "acked_up_to!", is_exact AS "is_exact!"
               FROM headwater.subscription_lag($1, $2) ORDER BY partition"#,
            subscription,
            settled
        )
        .fetch_all(self.0)
        .await?;
        // All rows have the same is_exact.
        let is_exact = rows.first().is_none_or(|row| row.is_exact);
        let partitions = rows.into_iter().map(|row| PartitionLag {
            partition: row.partition,
            committed: row.committed,
            delivered: row.delivered,
            consumer: row.consumer,
            epoch: row.epoch,
            is_held_back: row.is_held_back,
            undelivered: row.undelivered,
            in_flight: row.in_flight,
            oldest_unacked_ms: row.oldest_ms,
            acked_up_to: row.acked_up_to,
        });
        Ok(Lag { partitions: partitions.collect(), is_exact })
    }

    /// Counts more of the messages that a subscription has yet to deliver, looking at `messages_max` of them. Answers
    /// whether there is more to count.
    pub async fn count_lag(self, subscription: i64, settled: i64, messages_max: i64) -> Result<bool, StoreError> {
        let has_more = sqlx::query_scalar!(
            r#"SELECT headwater.subscription_count($1, $2, $3) AS "has_more!""#,
            subscription,
            settled,
            messages_max
        );
        Ok(has_more.fetch_one(self.0).await?)
    }

    /// How many consumers each subscription has that has any.
    pub async fn consumer_counts(self) -> Result<HashMap<i64, i64>, StoreError> {
        let counts = sqlx::query!(
            r#"SELECT subscription_id, count(*) AS "count!" FROM headwater.subscription_consumers GROUP BY 1"#
        );
        Ok(counts.fetch_all(self.0).await?.into_iter().map(|row| (row.subscription_id, row.count)).collect())
    }
}
