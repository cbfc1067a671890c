//! What subscriptions read beside the log itself: partitions of aggregated streams, single messages, and cursors.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::At;
use crate::domain::message::Message;
use crate::store::read::{AFTER_COLUMNS, COLUMNS, PageLimit, has_message, message_of};
use crate::store::{StoreError, Subscriptions};

/// A place in a partition, and its message; `None` if that was deleted.
pub type Linked = (At, Option<Message>);

/// At least this many messages of one partition are read at once, so that many partitions do not mean many reads.
const PER_PARTITION_MIN: i64 = 16;

impl Subscriptions<'_> {
    /// What comes after these places in some partitions of an aggregated stream, each partition in its order, and whether
    /// that is all there is.
    pub async fn partition_pages(
        self,
        aggregated_stream: i64,
        cursors: &[At],
        page: PageLimit,
    ) -> Result<(Vec<Linked>, bool), StoreError> {
        let limit = page.messages;
        let partitions: Vec<i32> = cursors.iter().map(|cursor| cursor.partition).collect();
        let afters: Vec<i64> = cursors.iter().map(|cursor| cursor.position).collect();
        let each = (2 * limit / cursors.len().max(1) as i64).clamp(PER_PARTITION_MIN.min(limit), limit);
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS}, m.link_partition, m.link_position FROM (\
             SELECT m.*, a.partition AS link_partition, a.position AS link_position FROM (\
             SELECT l.* FROM headwater.projections AS j \
             CROSS JOIN unnest($2::int[], $3::bigint[]) AS c (partition, after) CROSS JOIN LATERAL (\
             SELECT l.partition, l.position, l.global_position FROM headwater.aggregated_messages AS l \
             WHERE l.projection_id = j.id AND l.partition = c.partition AND l.position > c.after \
             ORDER BY l.position LIMIT $5) AS l \
             WHERE j.aggregated_stream_id = $1 AND j.is_current ORDER BY l.global_position LIMIT $4) AS a \
             LEFT JOIN message_store.messages AS m ON m.global_position = a.global_position \
             ORDER BY a.global_position OFFSET 0) AS m"
        );
        let client = self.0.reader().await?;
        let statement = client.prepare_cached(&sql).await?;
        let read = |row: &Row| {
            let at = At { partition: row.try_get(AFTER_COLUMNS)?, position: row.try_get(AFTER_COLUMNS + 1)? };
            Ok((at, has_message(row)?.then(|| message_of(row)).transpose()?))
        };
        let parameters: [&(dyn ToSql + Sync); 5] = [&aggregated_stream, &partitions, &afters, &limit, &each];
        let read = client.query_bounded(&statement, &parameters, page.bytes, read).await?;
        let links: Vec<Linked> = read.rows;
        let mut counts: HashMap<i32, i64> = HashMap::new();
        for (at, _) in &links {
            *counts.entry(at.partition).or_default() += 1;
        }
        let is_all = !read.is_cut && (links.len() as i64) < limit && counts.values().all(|count| *count < each);
        Ok((links, is_all))
    }

    /// The messages at these global positions, without those that were deleted. The caller has bounded their bytes (see
    /// `headwater.messages_that_fit`).
    pub async fn messages_at(self, global_positions: &[i64]) -> Result<HashMap<i64, Message>, StoreError> {
        let sql =
            format!("SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE m.global_position = ANY ($1)");
        let client = self.0.reader().await?;
        let statement = client.prepare_cached(&sql).await?;
        let rows = client.query(&statement, &[&global_positions]).await?;
        rows.iter().map(|row| message_of(row).map(|message| (message.global_position, message))).collect()
    }

    /// Adds the partitions of its aggregated stream that a subscription does not have yet, as each round of a consumer does.
    pub async fn find_partitions(self, subscription: i64, grace_ms: i64) -> Result<(), StoreError> {
        sqlx::query!("SELECT headwater.subscription_find_partitions($1, $2)", subscription, grace_ms)
            .fetch_one(self.0)
            .await?;
        Ok(())
    }

    /// Sets cursors, which fences everything that was delivered before. `first_position`: where partitions begin that appear
    /// later; `None`: as before.
    pub async fn seek(self, subscription: i64, cursors: &[At], first_position: Option<i64>) -> Result<(), StoreError> {
        let partitions: Vec<i32> = cursors.iter().map(|cursor| cursor.partition).collect();
        let afters: Vec<i64> = cursors.iter().map(|cursor| cursor.position).collect();
        sqlx::query!(
            "SELECT headwater.subscription_seek($1, $2, $3, $4)",
            subscription,
            &partitions,
            &afters,
            first_position
        )
        .fetch_one(self.0)
        .await?;
        Ok(())
    }

    /// The partitions' cursors: the position up to which everything in each is acked.
    pub async fn cursors(self, subscription: i64) -> Result<Vec<At>, StoreError> {
        let cursors = sqlx::query_as!(
            At,
            r#"SELECT partition, headwater.subscription_acked_up_to(unacked_positions, read_up_to) AS "position!"
               FROM headwater.subscription_partitions WHERE subscription_id = $1 ORDER BY partition"#,
            subscription
        );
        Ok(cursors.fetch_all(self.0).await?)
    }
}
