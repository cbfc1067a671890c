//! The newest messages of streams: where they are, and the messages themselves.

use tokio_postgres::Row;

use super::read::{COLUMNS, PageLimit, message_of};
use super::{Messages, StoreError};
use crate::domain::message::Message;

/// The newest message of each of `$1` up to a settled position: one descent into the index `messages_stream` for each.
const NEWEST: &str = "SELECT last.global_position FROM unnest($1::text[]) AS s (stream_name) CROSS JOIN LATERAL (\
    SELECT m.global_position FROM message_store.messages AS m WHERE m.stream_name = s.stream_name \
    AND m.global_position <= $2 ORDER BY m.position DESC LIMIT 1) AS last";

impl Messages<'_> {
    /// The global positions of the newest messages of streams, up to a settled position.
    pub async fn newest_positions(self, stream_names: &[String], up_to: i64) -> Result<Vec<i64>, StoreError> {
        let client = self.0.reader().await?;
        let statement = client.prepare_cached(NEWEST).await?;
        let rows = client.query(&statement, &[&stream_names, &up_to]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The messages at global positions, in order, as far as they fit; those that are gone are left out. Answers how many
    /// of the positions were read.
    pub async fn at(self, positions: &[i64], limit: PageLimit) -> Result<(Vec<Message>, usize), StoreError> {
        let asked = &positions[..positions.len().min(limit.messages.max(1) as usize)];
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE m.global_position = ANY ($1) \
             ORDER BY m.global_position"
        );
        let client = self.0.reader().await?;
        let statement = client.prepare_cached(&sql).await?;
        let read = |row: &Row| message_of(row);
        let found = client.query_bounded(&statement, &[&asked], limit.bytes, read).await?;
        let last = found.rows.last().filter(|_| found.is_cut).map(|message| message.global_position);
        let count = last.map_or(asked.len(), |last| asked.partition_point(|position| *position <= last));
        Ok((found.rows, count))
    }
}
