//! What is kept of categories, and the steps that keep it so.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Database, StoreError};
use crate::domain::time::Timestamp;

/// What is kept of a category: what is older, or more than that, goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    pub max_age: Option<Duration>,
    pub max_count: Option<i64>,
    /// What a subscription has not acked stays.
    pub unless_unacked: bool,
}

/// A retention, and what it has done.
#[derive(Debug, Clone)]
pub struct StoredRetention {
    pub category: String,
    pub retention: Retention,
    /// How many messages it has trimmed.
    pub trimmed: i64,
    pub last_trimmed_at: Option<Timestamp>,
    pub last_run_at: Option<Timestamp>,
    /// The time of the category's oldest message.
    pub oldest_time: Option<Timestamp>,
}

/// What a step has done.
#[derive(Debug)]
pub struct RetentionStep {
    pub category: String,
    pub trimmed: i64,
    /// The pass has come to what stays.
    pub is_over: bool,
}

const COLUMNS: &str = "r.category, extract(epoch FROM r.max_age)::float8, r.max_count, r.unless_unacked, r.trimmed, \
    r.last_trimmed_at AT TIME ZONE 'UTC', r.last_run_at AT TIME ZONE 'UTC', \
    (SELECT m.time FROM message_store.messages AS m \
    WHERE message_store.category(m.stream_name) BETWEEN r.category AND r.category \
    ORDER BY message_store.category(m.stream_name), m.global_position LIMIT 1)";

impl Database {
    /// Sets what is kept of a category. The next pass begins at the beginning.
    pub async fn set_retention(&self, category: &str, retention: &Retention) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "INSERT INTO headwater.retentions AS r (category, max_age, max_count, unless_unacked) \
            VALUES ($1, make_interval(secs => $2), $3, $4) ON CONFLICT (category) DO UPDATE SET \
            max_age = excluded.max_age, max_count = excluded.max_count, unless_unacked = excluded.unless_unacked, \
            pass_began_at = '-infinity', due_at = '-infinity'";
        let statement = client.prepare_cached(sql).await?;
        let seconds = retention.max_age.map(|age| age.as_secs_f64());
        client.execute(&statement, &[&category, &seconds, &retention.max_count, &retention.unless_unacked]).await?;
        Ok(())
    }

    /// The retentions after a category, in order; `only`: of one category.
    pub async fn retentions(
        &self,
        after: &str,
        only: Option<&str>,
        limit: i64,
    ) -> Result<Vec<StoredRetention>, StoreError> {
        let client = self.reader().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM headwater.retentions AS r WHERE r.category > $1 \
             AND ($2::text IS NULL OR r.category = $2) ORDER BY r.category LIMIT $3"
        );
        let statement = client.prepare_cached(&sql).await?;
        client.query(&statement, &[&after, &only, &limit]).await?.iter().map(read).collect()
    }

    /// Ends a retention. Answers whether there was one.
    pub async fn delete_retention(&self, category: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("DELETE FROM headwater.retentions WHERE category = $1").await?;
        Ok(client.execute(&statement, &[&category]).await? > 0)
    }

    /// One step of the retention that has waited longest; `None`: none is due. After a pass it is due again after
    /// `interval`.
    pub async fn retention_step(
        &self,
        settled: i64,
        messages_max: i64,
        interval: Duration,
    ) -> Result<Option<RetentionStep>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT category, trimmed, is_over FROM headwater.retention_step($1, $2, make_interval(secs => $3))";
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, &[&settled, &messages_max, &interval.as_secs_f64()]).await?;
        let Some(category) = row.try_get(0)? else { return Ok(None) };
        Ok(Some(RetentionStep { category, trimmed: row.try_get(1)?, is_over: row.try_get(2)? }))
    }
}

fn read(row: &Row) -> Result<StoredRetention, StoreError> {
    let seconds: Option<f64> = row.try_get(1)?;
    Ok(StoredRetention {
        category: row.try_get(0)?,
        retention: Retention {
            max_age: seconds.map(Duration::from_secs_f64),
            max_count: row.try_get(2)?,
            unless_unacked: row.try_get(3)?,
        },
        trimmed: row.try_get(4)?,
        last_trimmed_at: row.try_get(5)?,
        last_run_at: row.try_get(6)?,
        oldest_time: row.try_get(7)?,
    })
}
